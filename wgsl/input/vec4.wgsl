// Activations that meet weights: rows of p.k floats (a multiple of 4, and if WHOLE_UNITS of 32) in `x`, as vec4.

// Four activations of the row that starts at vec4 `row`, from element `k` on; zero beyond the row's end, where padded
// weights are zero too but a neighbour's activations might be infinite.
fn in_vec4(row: u32, k: u32) -> vec4<f32> {
    if WHOLE_UNITS {
        return in_load(row, k >> 2u);
    }
    return select(vec4<f32>(0.0), in_load(row, min(k, p.k - 4u) >> 2u), vec4<bool>(k < p.k));
}
