// A KV cache of f32.
const KV_VEC8_LOADS = 2u;

fn kv_load(head: u32, i: u32) -> Vec8 {
    let end = KV_HEAD / 4u - 1u;
    return Vec8(bitcast<vec4<f32>>(kv[head + 2u * i]), bitcast<vec4<f32>>(kv[head + min(2u * i + 1u, end)]));
}
