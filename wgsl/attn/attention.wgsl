// Causal attention of one query head at one token, a workgroup each, chunk by chunk.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let seen = kv_seen(kv_position(tile.y) + 1u);
    var all = sums_of_nothing();
    for (var chunk = seen.x / CHUNK; chunk * CHUNK < seen.y; chunk += 1u) {
        all = sums_joined(all, scan_keys(tile.y, tile.x, sums_chunk(seen, chunk), invocation));
    }
    if invocation < PAIRS {
        let at = (tile.y * p.heads + tile.x) * HEAD_DIM + 2u * invocation;
        y[at] = all.values.x / all.mass;
        y[at + 1u] = all.values.y / all.mass;
    }
}
