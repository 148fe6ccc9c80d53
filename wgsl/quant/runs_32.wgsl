// Formats in blocks of 32: a unit is a block, its runs are the halves. Eight in a row have no head in common.
struct QHead {
    nothing: u32,
}

fn q_head(first: u32, units: u32) -> QHead {
    return QHead(0u);
}

fn q_unit_of(head: QHead, first: u32, l: u32, units: u32) -> QUnit {
    return q_unit(first + l, units);
}

fn q_runs(unit: u32) -> vec2<u32> {
    return vec2<u32>(unit << 5u, (unit << 5u) + 16u);
}
