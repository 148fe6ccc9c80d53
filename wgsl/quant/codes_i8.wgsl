// A unit's weights with their codes as they are: 16 bytes a run, which are below 128 where they have no sign, so that all are
// int8. A weight is `q * scale + offset` of its run.
struct QCodes {
    lo: vec4<u32>,
    hi: vec4<u32>,
}

struct QUnit {
    q: QCodes,
    scale: vec2<f32>,
    offset: vec2<f32>,
}

// The activations that meet a unit's weights: codes, and each run's scale and scaled sum.
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

// The products of two runs' codes: at most 16 * 128 * 127, which an f32 holds.
fn q_dot_run(a: vec4<u32>, b: vec4<u32>) -> f32 {
    return f32((dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y)) + (dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w)));
}

// Decoded weights times the activations they meet.
fn q_product(u: QUnit, input: QInput) -> f32 {
    let dots = vec2<f32>(q_dot_run(u.q.lo, input.q.lo), q_dot_run(u.q.hi, input.q.hi));
    return dot(dots * input.scale, u.scale) + dot(input.sum, u.offset);
}

// A unit's weights times the activations they meet.
fn q_dot(unit: u32, units: u32, input: QInput) -> f32 {
    return q_product(q_unit(unit, units), input);
}
