fn candidate(row: u32, i: u32) -> vec2<u32> {
    let found = candidates[row * p.n + min(i, p.n - 1u)];
    return select(order_last(), found, i < p.n);
}
