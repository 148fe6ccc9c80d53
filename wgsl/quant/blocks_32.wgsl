// Formats without super-blocks: there is no shared header.
struct QHeader {
    nothing: u32,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    return QHeader(0u);
}

fn q_sub_block(head: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    return q_block32(first + l, blocks);
}

fn q_block32_at(first: u32, l: u32, blocks: u32) -> QBlock32 {
    return q_block32(first + l, blocks);
}
