// A dequantised block of 32 weights with its codes as f32. `q_halves` says where its two halves of 16 lie in the row. A weight
// is `q * scale + offset` of its half.
struct QBlock32 {
    q: array<vec4<f32>, 8>, // half 0: 0..4, half 1: 4..8
    scale: vec2<f32>,
    offset: vec2<f32>,
}

// The activations of a block, and the sum of each half.
struct QInput {
    x: array<vec4<f32>, 8>,
    sum: vec2<f32>,
}

fn q_bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word));
}

fn q_signed_bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(word));
}

// Returns the codes of two halves of bytes.
fn q_codes(lo: vec4<u32>, hi: vec4<u32>) -> array<vec4<f32>, 8> {
    return array<vec4<f32>, 8>(
        q_bytes(lo.x), q_bytes(lo.y), q_bytes(lo.z), q_bytes(lo.w),
        q_bytes(hi.x), q_bytes(hi.y), q_bytes(hi.z), q_bytes(hi.w),
    );
}

fn q_signed_codes(lo: vec4<u32>, hi: vec4<u32>) -> array<vec4<f32>, 8> {
    return array<vec4<f32>, 8>(
        q_signed_bytes(lo.x), q_signed_bytes(lo.y), q_signed_bytes(lo.z), q_signed_bytes(lo.w),
        q_signed_bytes(hi.x), q_signed_bytes(hi.y), q_signed_bytes(hi.z), q_signed_bytes(hi.w),
    );
}

// Returns the dot product of a decoded block with its activations.
fn q_product(u: QBlock32, input: QInput) -> f32 {
    let lo = dot(u.q[0], input.x[0]) + dot(u.q[1], input.x[1]) + (dot(u.q[2], input.x[2]) + dot(u.q[3], input.x[3]));
    let hi = dot(u.q[4], input.x[4]) + dot(u.q[5], input.x[5]) + (dot(u.q[6], input.x[6]) + dot(u.q[7], input.x[7]));
    return dot(vec2<f32>(lo, hi), u.scale) + dot(input.sum, u.offset);
}

// Decodes a block and returns its dot product with its activations.
fn q_dot(block: u32, blocks: u32, input: QInput) -> f32 {
    return q_product(q_block32(block, blocks), input);
}
