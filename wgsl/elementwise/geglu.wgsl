// GeGLU (Shazeer 2020) with the approximation of GELU by the hyperbolic tangent: 0.5 * (1 + tanh(z)) is 1 / (1 + e^-2z).
fn gated(gate: f32, up: f32) -> f32 {
    let z = 0.7978845608 * gate * (1.0 + 0.044715 * gate * gate);
    return gate / (1.0 + exp(min(-2.0 * z, 80.0))) * up;
}
