// The order of candidates (key, id): larger keys first, of equal keys the lower id.

// Returns an integer in the order of the logits. Both zeros are equal. A NaN is below all others; the test uses bits, because a
// compiler may assume no NaN.
fn order_key(logit: f32) -> u32 {
    let bits = bitcast<u32>(logit);
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return 0u;
    }
    return select(0x80000000u + magnitude, 0x80000000u - magnitude, bits != magnitude);
}

// Returns the logit of a key, clamped to ±1e30 so that differences stay finite; -1e30 for the key of a NaN.
fn order_logit(key: u32) -> f32 {
    let inside = clamp(key, 0x80000000u - 0x7149f2cau, 0x80000000u + 0x7149f2cau);
    if inside < 0x80000000u {
        return -bitcast<f32>(0x80000000u - inside);
    }
    return bitcast<f32>(inside - 0x80000000u);
}

fn order_before(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

// Returns the first of two candidates.
fn order_first(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return select(a, b, order_before(b, a));
}

// Returns the candidate that sorts last.
fn order_last() -> vec2<u32> {
    return vec2<u32>(0u, 0xffffffffu);
}
