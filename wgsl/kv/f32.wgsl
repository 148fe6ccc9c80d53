// A KV cache of f32: two words a pair of neighbouring elements.
fn kv_load(pair: u32) -> vec2<f32> {
    return bitcast<vec2<f32>>(vec2<u32>(kv[2u * pair], kv[2u * pair + 1u]));
}
