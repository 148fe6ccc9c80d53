fn count_token(row: u32, id: u32) {
}
