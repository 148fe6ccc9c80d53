// Query and key heads are normed: the factor of element i of a head.
fn head_scale(is_query: bool, i: u32, inverse_rms: f32) -> f32 {
    return inverse_rms * norm[select(HEAD_DIM, 0u, is_query) + i];
}
