// Adds a sum to output `out` of the row of outputs that starts at `out_row`.
fn add_output(out_row: u32, out: u32, sum: f32) {
    if out < p.n {
        y[out_row + out] += sum;
    }
}
