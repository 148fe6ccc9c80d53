// The heads of a row of projections: queries, keys, values.
fn head_input(row: u32, head: u32, i: u32) -> f32 {
    return qkv_value(row, (p.heads + 2u * p.kv_heads) * p.head_dim, head * p.head_dim + i);
}

// 0 for a query head, 1 for a key head, 2 for a value head.
fn head_role(head: u32) -> u32 {
    return select(0u, 1u, head >= p.heads) + select(0u, 1u, head >= p.heads + p.kv_heads);
}
