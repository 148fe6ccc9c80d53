// Softmax sums of one query head over some keys, and their joining. Whole attention joins its chunks as attention_merge
// does, in their order, so that both give the same bits.
const LOWEST = -1e30;
const PAIRS = HEAD_DIM / 2u;

// The largest score, and the sums of exp(score - largest), alone and times a pair of the values' elements.
struct Sums {
    largest: f32,
    mass: f32,
    values: vec2<f32>,
}

fn sums_of_nothing() -> Sums {
    return Sums(LOWEST, 0.0, vec2<f32>(0.0));
}

fn sums_joined(a: Sums, b: Sums) -> Sums {
    let largest = max(a.largest, b.largest);
    let of_a = exp(a.largest - largest);
    let of_b = exp(b.largest - largest);
    return Sums(largest, a.mass * of_a + b.mass * of_b, a.values * of_a + b.values * of_b);
}

// The keys of a chunk among those from seen.x up to seen.y.
fn sums_chunk(seen: vec2<u32>, chunk: u32) -> vec2<u32> {
    return vec2<u32>(max(seen.x, chunk * CHUNK), min(seen.y, (chunk + 1u) * CHUNK));
}
