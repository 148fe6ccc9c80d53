// The position of a row, clamped: it comes from data.
fn kv_position(row: u32) -> u32 {
    return min(positions[2u * row], p.capacity - 1u);
}
