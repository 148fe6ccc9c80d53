// Heads have RMS norm: the factors of vec4 i. `norm` has a row for each role.
fn rope_scale(role: u32, i: u32, inverse_rms: f32) -> vec4<f32> {
    return inverse_rms * norm[role * HEAD_VEC4S + i];
}
