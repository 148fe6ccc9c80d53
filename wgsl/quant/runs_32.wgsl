// Formats in blocks of 32: a unit is a block, its runs are the halves.
fn q_runs(unit: u32) -> vec2<u32> {
    return vec2<u32>(unit << 5u, (unit << 5u) + 16u);
}
