// Splits rows of projections into head-major queries, keys and values, a workgroup a head of a token. Queries and keys
// have QK-norm and RoPE.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let head = tile.x;
    let role = head_role(head);
    head_ready(tile.y, head, role, invocation);
    for (var i = invocation; i < p.head_dim; i += WG) {
        let value = head_values[i];
        if role == 0u {
            q[(head * p.rows + tile.y) * p.head_dim + i] = value;
        } else if role == 1u {
            k[((head - p.heads) * p.rows + tile.y) * p.head_dim + i] = value;
        } else {
            v[((head - p.heads - p.kv_heads) * p.rows + tile.y) * p.head_dim + i] = value;
        }
    }
}
