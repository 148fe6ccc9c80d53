// The id of an empty candidate, and the result if all logits are NaN.
const NO_TOKEN = 0xffffffffu;

// Returns the random number of a state (seed and counter, low words first): 24 bits in [0, 1), which an f32 holds exactly.
fn draw_number(state: vec4<u32>) -> f32 {
    return f32(philox(vec4<u32>(state.zw, 0u, 0u), state.xy).x >> 8u) / 16777216.0;
}

// Returns another random number of the state, independent of the first.
fn draw_second_number(state: vec4<u32>) -> f32 {
    return f32(philox(vec4<u32>(state.zw, 0u, 0u), state.xy).y >> 8u) / 16777216.0;
}

fn draw_next(state: vec4<u32>) -> vec4<u32> {
    let low = state.z + 1u;
    return vec4<u32>(state.xy, low, state.w + select(0u, 1u, low == 0u));
}
