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

// Returns the dot product of the codes of half a block with its activations: a chain of 16 multiply-adds where the device has
// them, which takes an instruction less than two chains and their sum.
fn q_dot_half(q: array<vec4<f32>, 4>, x: array<vec4<f32>, 4>) -> f32 {
    return dot(q[0], x[0]) + dot(q[1], x[1]) + dot(q[2], x[2]) + dot(q[3], x[3]);
}

// Returns the codes of a block's first half, and of its last.
fn q_first_half(u: QBlock32) -> array<vec4<f32>, 4> {
    return array<vec4<f32>, 4>(u.q[0], u.q[1], u.q[2], u.q[3]);
}

fn q_last_half(u: QBlock32) -> array<vec4<f32>, 4> {
    return array<vec4<f32>, 4>(u.q[4], u.q[5], u.q[6], u.q[7]);
}

// Returns the dot product of a decoded block with its activations, from those of its halves' codes and from the sums of the
// halves' activations.
fn q_scaled(u: QBlock32, halves: vec2<f32>, sum: vec2<f32>) -> f32 {
    return dot(halves, u.scale) + dot(sum, u.offset);
}

// Returns the dot product of a decoded block with its activations.
fn q_product(u: QBlock32, input: QInput) -> f32 {
    let lo = dot(u.q[0], input.x[0]) + dot(u.q[1], input.x[1]) + dot(u.q[2], input.x[2]) + dot(u.q[3], input.x[3]);
    let hi = dot(u.q[4], input.x[4]) + dot(u.q[5], input.x[5]) + dot(u.q[6], input.x[6]) + dot(u.q[7], input.x[7]);
    return q_scaled(u, vec2<f32>(lo, hi), input.sum);
}
