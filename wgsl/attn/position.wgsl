// The position of a row, which a host may have got wrong.
fn kv_position(row: u32) -> u32 {
    return min(positions[row * POSITION_STRIDE], p.capacity - 1u);
}
