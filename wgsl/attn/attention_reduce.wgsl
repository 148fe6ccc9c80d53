// Combines the partial sums of one query's chunks in their order, a workgroup each: an invocation has four elements.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let zero = opaque_zero(workgroup);
    let keys = kv_visible(min(kv_position(tile.y) + 1u, p.chunks * CHUNK));
    let query = tile.y * p.heads + tile.x;
    let head_vec4s = p.head_dim / 4u;
    for (var i = invocation + zero; i < head_vec4s; i += WG) {
        var row_max = sink_logit(tile.x);
        var exp_sum = SINK_WEIGHT;
        var values = vec4<f32>(0.0);
        for (var chunk = keys.x / CHUNK; chunk * CHUNK < keys.y; chunk += 1u) {
            let partial = (query * p.chunks + chunk) * (head_vec4s + 1u);
            let stats = partials[partial + head_vec4s];
            let new_max = max(row_max, stats.x);
            let rescale = softmax_rescale(vec4<f32>(row_max, stats.x, 0.0, 0.0), vec4<f32>(new_max));
            row_max = new_max;
            exp_sum = exp_sum * rescale.x + stats.y * rescale.y;
            values = values * rescale.x + partials[partial + i] * rescale.y;
        }
        y[query * head_vec4s + i] = attn_output(query * head_vec4s + i, values / exp_sum);
    }
}
