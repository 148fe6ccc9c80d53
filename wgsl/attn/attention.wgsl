// Causal attention of one query head at one token, a workgroup each.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let scan = scan_keys(tile.y, tile.x, kv_seen(kv_position(tile.y) + 1u), invocation);
    if invocation < PAIRS {
        let at = (tile.y * p.heads + tile.x) * HEAD_DIM + 2u * invocation;
        y[at] = scan.values.x / scan.mass;
        y[at + 1u] = scan.values.y / scan.mass;
    }
}
