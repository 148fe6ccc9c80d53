// Heads are taken as they are.
fn head_scale(is_query: bool, i: u32, inverse_rms: f32) -> f32 {
    return 1.0;
}
