// Heads are normed: the factors of four elements, norm having a row for each role.
fn turned_scale(role: u32, i: u32, inverse_rms: f32) -> vec4<f32> {
    return inverse_rms * norm[role * FOURS + i];
}
