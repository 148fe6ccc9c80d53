// Merges the chunks of one query head at one token in their order, a workgroup each.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let seen = kv_seen(min(kv_position(tile.y) + 1u, p.chunks * CHUNK));
    let first = seen.x / CHUNK;
    let end = (seen.y + CHUNK - 1u) / CHUNK;
    let out_head = tile.y * p.heads + tile.x;
    let from_parts = out_head * p.chunks * (HEAD_DIM + 2u);
    for (var pair = invocation; pair < PAIRS; pair += WG) {
        var all = sums_of_nothing();
        for (var chunk = first; chunk < end; chunk += 1u) {
            let part = from_parts + chunk * (HEAD_DIM + 2u);
            let values = vec2<f32>(parts[part + 2u * pair], parts[part + 2u * pair + 1u]);
            all = sums_joined(all, Sums(parts[part + HEAD_DIM], parts[part + HEAD_DIM + 1u], values));
        }
        y[out_head * HEAD_DIM + 2u * pair] = all.values.x / all.mass;
        y[out_head * HEAD_DIM + 2u * pair + 1u] = all.values.y / all.mass;
    }
}
