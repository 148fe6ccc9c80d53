// WGSL leaves packing undefined beyond the largest half, so values are clamped to it.
fn kv_halves(x: vec4<f32>) -> vec2<u32> {
    let clamped = clamp(x, vec4<f32>(-65504.0), vec4<f32>(65504.0));
    return vec2<u32>(pack2x16float(clamped.xy), pack2x16float(clamped.zw));
}

fn kv_packed(i: u32) -> vec4<u32> {
    return vec4<u32>(kv_halves(kv_vec4(2u * i)), kv_halves(kv_vec4(2u * i + 1u)));
}

fn kv_head_words() -> u32 {
    return 4u * ((head_dim() + 7u) / 8u);
}
