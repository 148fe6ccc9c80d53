// gpt-oss's SwiGLU: clamped inputs, a steeper sigmoid, and one added to up.
fn gated(gate: f32, up: f32) -> f32 {
    let g = min(gate, 7.0);
    return g / (1.0 + exp(min(-1.702 * g, 80.0))) * (clamp(up, -7.0, 7.0) + 1.0);
}
