// Values beyond the largest half would be infinite, which WGSL's pack leaves undefined.
fn kv_store_head(to: u32, invocation: u32) {
    for (var i = invocation; i < HEAD_DIM / 2u; i += WG) {
        let pair = vec2<f32>(head_values[2u * i], head_values[2u * i + 1u]);
        kv[to * KV_HEAD + i] = pack2x16float(clamp(pair, vec2<f32>(-65504.0), vec2<f32>(65504.0)));
    }
}
