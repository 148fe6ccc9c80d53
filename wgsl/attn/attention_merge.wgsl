// Merges the chunks of one query head at one token in their order, a workgroup each: an invocation four elements.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let zero = grid_zero(workgroup);
    let seen = kv_seen(min(kv_position(tile.y) + 1u, p.chunks * CHUNK));
    let out_head = tile.y * p.heads + tile.x;
    for (var four = invocation + zero; four < HEAD_DIM / 4u; four += WG) {
        // The largest score, the mass.
        var all = vec2<f32>(LOWEST, 0.0);
        var values = vec4<f32>(0.0);
        for (var chunk = seen.x / CHUNK; chunk * CHUNK < seen.y; chunk += 1u) {
            let part = (out_head * p.chunks + chunk) * PART;
            let sums = parts[part + HEAD_DIM / 4u];
            let largest = max(all.x, sums.x);
            let factors = sums_factor(vec4<f32>(all.x, sums.x, 0.0, 0.0), vec4<f32>(largest));
            all = vec2<f32>(largest, all.y * factors.x + sums.y * factors.y);
            values = values * factors.x + parts[part + four] * factors.y;
        }
        y[out_head * (HEAD_DIM / 4u) + four] = values / all.y;
    }
}
