// Formats whose blocks lie in a row as they lie in memory: the halves of a block are neighbours.
fn q_halves(block: u32) -> vec2<u32> {
    return vec2<u32>(block << 5u, (block << 5u) + 16u);
}
