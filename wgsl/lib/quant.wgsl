// Weights as every kernel reads them, whatever their format: in units of 32, two runs of 16 that lie where the slot
// `quant` says. A weight is `q * scale + offset` of its run.
struct QUnit {
    q: array<vec4<f32>, 8>, // run 0: 0..4, run 1: 4..8
    scale: vec2<f32>,
    offset: vec2<f32>,
}

// The activations that meet a unit's weights, and the sum of each run.
struct QInput {
    x: array<vec4<f32>, 8>,
    sum: vec2<f32>,
}

// The value of an IEEE half in the low 16 bits. By integers: block scales are often subnormal halves, and a device may
// flush those in unpack2x16float.
fn q_half(bits: u32) -> f32 {
    let magnitude = bits & 0x7fffu;
    let sign = (bits & 0x8000u) << 16u;
    let normal = (magnitude << 13u) + 0x38000000u;
    let subnormal = bitcast<u32>(f32(magnitude) * 5.9604644775390625e-8);
    return bitcast<f32>(sign | select(subnormal, normal, magnitude >= 0x400u));
}

// Component `i` of `v`, without indexing by a variable.
fn q_word(v: vec4<u32>, i: u32) -> u32 {
    let pair = select(v.xy, v.zw, (i & 2u) != 0u);
    return select(pair.x, pair.y, (i & 1u) != 0u);
}

// Word `i` of a plane of words that starts at vec4 `plane`.
fn q_plane_word(plane: u32, i: u32) -> u32 {
    return q_word(w[plane + (i >> 2u)], i);
}

// Half `i` of a plane of halves that starts at vec4 `plane`.
fn q_plane_half(plane: u32, i: u32) -> f32 {
    return q_half((q_plane_word(plane, i >> 1u) >> ((i & 1u) << 4u)) & 0xffffu);
}

fn q_bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word));
}

fn q_signed_bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(word));
}

// Bytes below 128, less `bias` in each byte: signed bytes, without a borrow between them.
fn q_less(bytes: vec4<u32>, bias: u32) -> vec4<u32> {
    return ((bytes | vec4<u32>(0x80808080u)) - vec4<u32>(bias)) ^ vec4<u32>(0x80808080u);
}

// The low 16 bits of `bits`, one a byte, at bit 4: the fifth bits of a run's codes.
fn q_fifth_bits(bits: u32) -> vec4<u32> {
    let nibbles = vec4<u32>(bits) >> vec4<u32>(0u, 4u, 8u, 12u);
    return ((nibbles & vec4<u32>(1u)) << vec4<u32>(4u)) | ((nibbles & vec4<u32>(2u)) << vec4<u32>(11u))
        | ((nibbles & vec4<u32>(4u)) << vec4<u32>(18u)) | ((nibbles & vec4<u32>(8u)) << vec4<u32>(25u));
}

// The codes of two runs of bytes.
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

// Decoded weights times the activations they meet.
fn q_product(u: QUnit, input: QInput) -> f32 {
    let lo = dot(u.q[0], input.x[0]) + dot(u.q[1], input.x[1]) + (dot(u.q[2], input.x[2]) + dot(u.q[3], input.x[3]));
    let hi = dot(u.q[4], input.x[4]) + dot(u.q[5], input.x[5]) + (dot(u.q[6], input.x[6]) + dot(u.q[7], input.x[7]));
    return dot(vec2<f32>(lo, hi), u.scale) + dot(input.sum, u.offset);
}

// A unit's weights times the activations they meet.
fn q_dot(unit: u32, units: u32, input: QInput) -> f32 {
    return q_product(q_unit(unit, units), input);
}
