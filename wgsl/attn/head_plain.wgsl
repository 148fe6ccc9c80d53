// Heads have no norm.
fn head_scale(role: u32, i: u32, inverse_rms: f32) -> f32 {
    return 1.0;
}
