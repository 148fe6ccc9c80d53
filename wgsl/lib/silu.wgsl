// x / (1 + e^-x). Beyond 80 the quotient is zero in f32 anyway, and the exponential would overflow.
fn silu(x: f32) -> f32 {
    return x / (1.0 + exp(min(-x, 80.0)));
}
