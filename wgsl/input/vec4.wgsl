// Loads of activations: rows of `p.k` floats in `x`, as vec4. `p.k` is a multiple of 4, and of 32 if WHOLE_BLOCKS.

// Returns four activations from element `k` on, of the row that starts at vec4 `row`. Elements beyond the row are zero:
// the padding of weights is zero too, but the next row's activations might be infinite.
fn in_vec4(row: u32, k: u32) -> vec4<f32> {
    if WHOLE_BLOCKS {
        return in_load(row, k >> 2u);
    }
    return select(vec4<f32>(0.0), in_load(row, min(k, p.k - 4u) >> 2u), vec4<bool>(k < p.k));
}
