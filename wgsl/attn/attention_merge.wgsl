// Merges the chunks of one query head at one token in their order, a workgroup each.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let seen = kv_seen(min(kv_position(tile.y) + 1u, p.chunks * CHUNK));
    let first = seen.x / CHUNK;
    let end = (seen.y + CHUNK - 1u) / CHUNK;
    let out_head = tile.y * p.heads + tile.x;
    let from_parts = out_head * p.chunks * (HEAD_DIM + 2u);
    var largest = -1e30;
    for (var chunk = first; chunk < end; chunk += 1u) {
        largest = max(largest, parts[from_parts + chunk * (HEAD_DIM + 2u) + HEAD_DIM]);
    }
    for (var i = invocation; i < HEAD_DIM; i += WG) {
        var mass = 0.0;
        var sum = 0.0;
        for (var chunk = first; chunk < end; chunk += 1u) {
            let part = from_parts + chunk * (HEAD_DIM + 2u);
            let weight = exp(parts[part + HEAD_DIM] - largest);
            mass += weight * parts[part + HEAD_DIM + 1u];
            sum += weight * parts[part + i];
        }
        y[out_head * HEAD_DIM + i] = sum / mass;
    }
}
