// Formats in super-blocks of 8 blocks of 32. `q_header` decodes the header of a super-block, for kernels that take its
// blocks one after another.
fn q_block32(block: u32, blocks: u32) -> QBlock32 {
    return q_block32_at(block & ~7u, block & 7u, blocks);
}

fn q_block32_at(first: u32, l: u32, blocks: u32) -> QBlock32 {
    return q_sub_block(q_header(first, blocks), first, l, blocks);
}
