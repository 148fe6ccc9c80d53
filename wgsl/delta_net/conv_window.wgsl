// Stores the last three inputs of a channel after the rows of a run that say so, an invocation a channel.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let channel = tile.x * WG + invocation;
    if channel >= delta_channels() {
        return;
    }
    let first = min(runs[tile.y], p.n_rows - 1u);
    let run = rows[first];
    // The slot that is read may be one that is written.
    var inputs = vec3<f32>(
        window_input(first, first, run.z, 3u, channel), window_input(first, first, run.z, 2u, channel),
        window_input(first, first, run.z, 1u, channel),
    );
    for (var row = first; row < min(run.y, p.n_rows); row += 1u) {
        inputs = vec3<f32>(inputs.yz, x[row * p.x_stride + p.x_offset + channel]);
        let to = rows[row].w;
        if to < p.slots {
            let at = to * 3u * delta_channels() + channel;
            windows[at] = inputs.x;
            windows[at + delta_channels()] = inputs.y;
            windows[at + 2u * delta_channels()] = inputs.z;
        }
    }
}
