// Loads come before the comparison, so that several can wait for memory at once.
fn candidate(row: u32, i: u32) -> vec2<u32> {
    let key = order_key(logits[(p.first + row) * p.n + min(i, p.n - 1u)]);
    return select(order_last(), vec2<u32>(key, i), i < p.n);
}
