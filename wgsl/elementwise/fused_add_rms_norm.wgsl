// residual[t] += x[t], then y[t] = residual[t] / rms(residual[t]) * w, a workgroup a row.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let row = grid_id(workgroup).x;
    var squares = 0.0;
    for (var i = invocation; i < p.n; i += WG) {
        let at = row * p.n + i;
        let value = residual[at] + x[at];
        residual[at] = value;
        squares += value * value;
    }
    norm_row(row, squares, invocation);
}
