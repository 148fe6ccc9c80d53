// A KV cache of f16: a word a pair of neighbouring elements.
fn kv_load(pair: u32) -> vec2<f32> {
    return unpack2x16float(kv[pair]);
}
