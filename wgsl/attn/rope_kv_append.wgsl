// Splits rows of projections into heads, a workgroup a head of a token. Query heads go to q with QK-norm and RoPE, key
// heads likewise to the cache, value heads to the cache as they are.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let head = tile.x;
    let row = tile.y;
    let role = head_role(head);
    head_ready(row, head, role, invocation);
    if role == 0u {
        for (var i = invocation; i < p.head_dim; i += WG) {
            q[(row * p.heads + head) * p.head_dim + i] = head_values[i];
        }
    } else {
        let kv_head = head - p.heads - select(0u, p.kv_heads, role == 2u);
        let to = kv_key(kv_sequence(row), kv_head, kv_position(row)) + select(0u, kv_value_offset(), role == 2u);
        kv_store_head(to, invocation);
    }
}
