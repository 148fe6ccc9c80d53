// The last id of the row's sequence, which is behind its position.
fn embed_id(row: u32) -> u32 {
    return ids[min(positions[2u * row + 1u], p.sequences - 1u)];
}
