// residual[t] += the weighted sum of its experts' outputs, then y[t] = residual[t] / rms(residual[t]) * w, a workgroup a
// token.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let token = grid_id(workgroup).x;
    var squares = 0.0;
    for (var i = invocation; i < p.n; i += WG) {
        let at = token * p.n + i;
        let value = residual[at] + moe_weighted(token, i, grid_zero(workgroup));
        residual[at] = value;
        squares += value * value;
    }
    norm_row(token, squares, invocation);
}
