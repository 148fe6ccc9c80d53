// Splits qkv rows into heads, a workgroup a head of a token: query and key heads are normed and rotated, value heads
// are taken as they are, and all are put head by head.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let head = tile.x;
    let role = head_role(head);
    head_ready(tile.y, head, role, invocation);
    for (var i = invocation; i < HEAD_DIM; i += WG) {
        let value = head_values[i];
        if role == 0u {
            q[(head * p.rows + tile.y) * HEAD_DIM + i] = value;
        } else if role == 1u {
            k[((head - p.heads) * p.rows + tile.y) * HEAD_DIM + i] = value;
        } else {
            v[((head - p.heads - p.kv_heads) * p.rows + tile.y) * HEAD_DIM + i] = value;
        }
    }
}
