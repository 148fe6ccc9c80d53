// A KV cache of f16, two neighbouring elements to a word.
const KV_VEC8_LOADS = 1u;

fn kv_load(head: u32, i: u32) -> Vec8 {
    let words = kv[head + i];
    return Vec8(
        vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)),
        vec4<f32>(unpack2x16float(words.z), unpack2x16float(words.w)),
    );
}
