fn count_token(sequence: u32, id: u32) {
}
