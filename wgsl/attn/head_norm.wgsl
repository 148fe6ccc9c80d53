// Heads have RMS norm: the factor of element i. `norm` has a row for each role.
fn head_scale(role: u32, i: u32, inverse_rms: f32) -> f32 {
    return inverse_rms * norm[role * p.head_dim + i];
}
