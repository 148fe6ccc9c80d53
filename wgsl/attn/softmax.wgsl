// Online softmax (Milakov and Gimelshein 2018) over chunks of CHUNK keys. A single pass joins its chunks in the order
// in which attention_reduce does, so both give the same bits.
const LOWEST = -1e30;

// The factor of sums whose row maximum grows from `old_max` to `new_max`: exactly 1 where it stays.
fn softmax_rescale(old_max: vec4<f32>, new_max: vec4<f32>) -> vec4<f32> {
    return select(exp(old_max - new_max), vec4<f32>(1.0), old_max == new_max);
}

// The keys of a chunk among those from keys.x up to keys.y.
fn softmax_chunk(keys: vec2<u32>, chunk: u32) -> vec2<u32> {
    return vec2<u32>(max(keys.x, chunk * CHUNK), min(keys.y, (chunk + 1u) * CHUNK));
}
