fn candidate(row: u32, i: u32) -> vec2<u32> {
    if i >= p.n {
        return order_last();
    }
    return vec2<u32>(order_key(logits[(p.first + row) * p.n + i]), i);
}
