// ln(1 + e^x). ln(1 + z) for z up to 1 is 2·atanh(z / (2 + z)), by its series: WGSL's logarithm has an absolute error around 1.
fn delta_softplus(x: f32) -> f32 {
    let z = exp(-abs(x));
    let t = z / (2.0 + z);
    let s = t * t;
    let series = 1.0 + s * (1.0 / 3.0 + s * (1.0 / 5.0 + s * (1.0 / 7.0 + s * (1.0 / 9.0 + s * (1.0 / 11.0 + s / 13.0)))));
    return max(x, 0.0) + 2.0 * t * series;
}

// Decay and beta of a value head.
fn delta_gates(alpha: f32, b: f32, a: f32, dt: f32) -> vec2<f32> {
    return vec2<f32>(exp(max(a * delta_softplus(alpha + dt), -80.0)), 1.0 / (1.0 + exp(min(-b, 80.0))));
}
