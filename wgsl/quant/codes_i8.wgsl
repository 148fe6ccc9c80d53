// A block of 32 weights with its codes as int8, 16 bytes a half; unsigned codes are below 128. A weight is
// `q * scale + offset` of its half.
struct QCodes {
    lo: vec4<u32>,
    hi: vec4<u32>,
}

struct QBlock32 {
    q: QCodes,
    scale: vec2<f32>,
    offset: vec2<f32>,
}

// The activations of a block: codes, and the scale and the scaled sum of each half.
struct QInput {
    q: QCodes,
    scale: vec2<f32>,
    sum: vec2<f32>,
}

fn q_codes(lo: vec4<u32>, hi: vec4<u32>) -> QCodes {
    return QCodes(lo, hi);
}

fn q_signed_codes(lo: vec4<u32>, hi: vec4<u32>) -> QCodes {
    return QCodes(lo, hi);
}

// Returns codes that are stored plus a bias.
fn q_biased_codes(lo: vec4<u32>, hi: vec4<u32>, bias: u32) -> QCodes {
    let bytes = bias * 0x01010101u;
    return QCodes(q_less(lo, bytes), q_less(hi, bytes));
}

// Returns the dot product of two halves' codes: at most 16 * 128 * 127, which an f32 holds exactly.
fn q_dot_half(a: vec4<u32>, b: vec4<u32>) -> f32 {
    return f32((dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y)) + (dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w)));
}

// Returns the dot product of a decoded block with its activations.
fn q_product(u: QBlock32, input: QInput) -> f32 {
    let dots = vec2<f32>(q_dot_half(u.q.lo, input.q.lo), q_dot_half(u.q.hi, input.q.hi));
    return dot(dots * input.scale, u.scale) + dot(input.sum, u.offset);
}
