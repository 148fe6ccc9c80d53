fn count_token(row: u32, id: u32) {
    counts[row * p.n + min(id, p.n - 1u)] += 1u;
}
