// y[t] = x[from] / rms(x[from]) * w, a workgroup a row.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let from_row = pick_row(tile.x) * p.n;
    let to_row = tile.x * p.y_stride + p.y_offset;
    var squares = 0.0;
    for (var i = invocation; i < p.n; i += WG) {
        let value = x[from_row + i];
        squares += value * value;
    }
    let scale = 1.0 / sqrt(wg_sum(squares, invocation) / f32(p.n) + p.eps);
    for (var i = invocation; i < p.n; i += WG) {
        y[to_row + i] = x[from_row + i] * scale * w[i];
    }
}
