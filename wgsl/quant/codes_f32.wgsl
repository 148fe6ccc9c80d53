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

fn q_bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word));
}

fn q_signed_bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(word));
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
