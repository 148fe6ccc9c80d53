// Splits qkv rows into heads, a workgroup a head of a token: query heads are normed and rotated into q, key heads into
// the cache, value heads go to the cache as they are.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let head = tile.x;
    let row = tile.y;
    let role = head_role(head);
    head_ready(row, head, role, invocation);
    if role == 0u {
        for (var i = invocation; i < HEAD_DIM; i += WG) {
            q[(row * p.heads + head) * HEAD_DIM + i] = head_values[i];
        }
    } else {
        let kv_head = head - p.heads - select(0u, p.kv_heads, role == 2u);
        let to = kv_key(kv_sequence(row), kv_head, kv_position(row)) + select(0u, kv_values(), role == 2u);
        kv_store_head(to, invocation);
    }
}
