// The id where there is no token: that of candidates which are none, and the draw's from nothing but NaNs.
const NO_TOKEN = 0xffffffffu;

// The number of a draw's state, which is seed and counter, low words first. It is in [0, 1): 24 bits, which an f32 holds exactly.
fn draw_number(state: vec4<u32>) -> f32 {
    return f32(philox(vec4<u32>(state.zw, 0u, 0u), state.xy).x >> 8u) / 16777216.0;
}

fn draw_next(state: vec4<u32>) -> vec4<u32> {
    let low = state.z + 1u;
    return vec4<u32>(state.xy, low, state.w + select(0u, 1u, low == 0u));
}
