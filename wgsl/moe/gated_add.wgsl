// residual[t] += sigmoid(x[t] · w) * shared[t], a workgroup a token.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let row = grid_id(workgroup).x * p.n;
    var sum = 0.0;
    for (var i = invocation; i < p.n; i += WG) {
        sum += x[row + i] * w[i];
    }
    let gate = 1.0 / (1.0 + exp(clamp(-wg_sum(sum, invocation), -80.0, 80.0)));
    for (var i = invocation; i < p.n; i += WG) {
        residual[row + i] += gate * shared_output[row + i];
    }
}
