// Which row of a matrix is row i of the output's weights. Gated matrices have n rows of gates, then n of what is gated;
// a gate and its partner are taken one after the other, so that one workgroup has both.
fn weight_row(i: u32) -> u32 {
    let row = select(i, (i & 1u) * p.n + min(i >> 1u, p.n - 1u), GATED);
    return min(row, p.matrix_rows - 1u);
}
