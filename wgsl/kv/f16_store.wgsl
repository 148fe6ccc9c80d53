// Values beyond the largest half would be infinite, which WGSL's pack leaves undefined.
fn kv_halves(four: vec4<f32>) -> vec2<u32> {
    let x = clamp(four, vec4<f32>(-65504.0), vec4<f32>(65504.0));
    return vec2<u32>(pack2x16float(x.xy), pack2x16float(x.zw));
}

fn kv_packed(i: u32) -> vec4<u32> {
    return vec4<u32>(kv_halves(kv_four(2u * i)), kv_halves(kv_four(2u * i + 1u)));
}
