// SwiGLU (Shazeer 2020).
fn gated(gate: f32, up: f32) -> f32 {
    return silu(gate) * up;
}
