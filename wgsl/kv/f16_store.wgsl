// Values beyond the largest half would be infinite, which WGSL's pack leaves undefined.
fn kv_store(pair: u32, value: vec2<f32>) {
    kv[pair] = pack2x16float(clamp(value, vec2<f32>(-65504.0), vec2<f32>(65504.0)));
}
