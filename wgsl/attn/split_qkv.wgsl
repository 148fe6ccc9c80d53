// Splits rows of projections into rows of q, k and v, an invocation an element.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let i = tile.x * WG + invocation;
    let width = p.q_len + 2u * p.kv_len;
    if i < width {
        let value = qkv_value(tile.y, width, i);
        if i < p.q_len {
            q[tile.y * p.q_len + i] = value;
        } else if i < p.q_len + p.kv_len {
            k[tile.y * p.kv_len + i - p.q_len] = value;
        } else {
            v[tile.y * p.kv_len + i - p.q_len - p.kv_len] = value;
        }
    }
}
