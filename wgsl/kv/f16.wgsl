// A KV cache of f16: a word a pair of neighbouring elements.
fn kv_load(head: u32, i: u32) -> KvEight {
    let words = kv[head + i];
    return KvEight(
        vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)),
        vec4<f32>(unpack2x16float(words.z), unpack2x16float(words.w)),
    );
}
