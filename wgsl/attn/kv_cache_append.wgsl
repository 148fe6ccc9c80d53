// Stores key and value heads in the cache, a workgroup a head of a token: first the keys' heads, then the values'.
fn head_input(row: u32, head: u32, i: u32) -> f32 {
    if head < p.kv_heads {
        return k[(head * p.rows + row) * p.head_dim + i];
    }
    return v[((head - p.kv_heads) * p.rows + row) * p.head_dim + i];
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let is_value = tile.x >= p.kv_heads;
    head_ready(tile.y, tile.x, select(1u, 2u, is_value), invocation);
    let kv_head = tile.x - select(0u, p.kv_heads, is_value);
    let key = kv_key(kv_sequence(tile.y), kv_head, kv_position(tile.y));
    kv_store_head(key + select(0u, kv_value_offset(), is_value), invocation);
}
