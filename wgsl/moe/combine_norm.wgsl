// MoE combine with the next norm, a workgroup per token: residual[t] += the weighted sum of the token's expert outputs, then
// y[t] = residual[t] / rms(residual[t]) * w.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let token = grid_id(workgroup).x;
    var squares = 0.0;
    for (var i = invocation; i < p.n; i += WG) {
        let at = token * p.n + i;
        let value = residual[at] + moe_expert_sum(token, i, opaque_zero(workgroup));
        residual[at] = value;
        squares += value * value;
    }
    norm_row(token, squares, invocation);
}
