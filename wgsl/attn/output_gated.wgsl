// Attended values are multiplied by the sigmoid of a projection of their token (gated attention, Qiu et al. 2025).
fn attn_output(at: u32, values: vec4<f32>) -> vec4<f32> {
    return values / (1.0 + exp(min(-gate[at], vec4<f32>(80.0))));
}
