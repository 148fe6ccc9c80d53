// Softmax sums over some keys, and their joining. Whole attention joins its chunks as attention_merge does, in their order,
// so that both give the same bits.
const LOWEST = -1e30;

// By what sums are multiplied whose largest score was `from` when it becomes `to`: 1 exactly if it stays.
fn sums_factor(from_largest: vec4<f32>, to_largest: vec4<f32>) -> vec4<f32> {
    return select(exp(from_largest - to_largest), vec4<f32>(1.0), from_largest == to_largest);
}

// The keys of a chunk among those from seen.x up to seen.y.
fn sums_chunk(seen: vec2<u32>, chunk: u32) -> vec2<u32> {
    return vec2<u32>(max(seen.x, chunk * CHUNK), min(seen.y, (chunk + 1u) * CHUNK));
}
