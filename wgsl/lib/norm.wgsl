// RMS norm of a row of `p.n` elements: y[row] = residual[row] / rms(residual[row]) * w. `squares` is the invocation's part of
// the sum of squares. An invocation norms the elements that it has stored: the one at its index, and every WG further.
fn norm_row(row: u32, squares: f32, invocation: u32) {
    let scale = 1.0 / sqrt(wg_sum(squares, invocation) / f32(p.n) + p.eps);
    for (var i = invocation; i < p.n; i += WG) {
        y[row * p.n + i] = residual[row * p.n + i] * scale * w[i];
    }
}
