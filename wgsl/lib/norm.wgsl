// y[row] = residual[row] / rms(residual[row]) * w, of rows of `p.n`. `squares` is an invocation's part of the sum of the
// row's squares, and it has itself stored the elements that it norms: those at its own number and every WG further.
fn norm_row(row: u32, squares: f32, invocation: u32) {
    let scale = 1.0 / sqrt(wg_sum(squares, invocation) / f32(p.n) + p.eps);
    for (var i = invocation; i < p.n; i += WG) {
        y[row * p.n + i] = residual[row * p.n + i] * scale * w[i];
    }
}
