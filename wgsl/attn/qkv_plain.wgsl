// Element i of a row of `width` projections.
fn qkv_value(row: u32, width: u32, i: u32) -> f32 {
    return qkv[row * width + i];
}
