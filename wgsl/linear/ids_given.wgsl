fn embed_id(row: u32) -> u32 {
    return ids[row];
}
