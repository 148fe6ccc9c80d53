// Heads have no norm.
fn rope_scale(role: u32, i: u32, inverse_rms: f32) -> vec4<f32> {
    return vec4<f32>(1.0);
}
