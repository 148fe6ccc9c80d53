// The activations of a block: each invocation loads those of its own block.
fn in_block32(row: u32, block: u32) -> QInput {
    let halves = q_halves(block);
    var input: QInput;
    // Software drivers execute both sides of a branch, unless a constant decides it.
    if WHOLE_BLOCKS || halves.y + 16u <= p.k {
        let lo = halves.x >> 2u;
        let hi = halves.y >> 2u;
        input.x = array<vec4<f32>, 8>(
            in_load(row, lo), in_load(row, lo + 1u), in_load(row, lo + 2u), in_load(row, lo + 3u),
            in_load(row, hi), in_load(row, hi + 1u), in_load(row, hi + 2u), in_load(row, hi + 3u),
        );
    } else {
        input.x = array<vec4<f32>, 8>(
            in_vec4(row, halves.x), in_vec4(row, halves.x + 4u), in_vec4(row, halves.x + 8u), in_vec4(row, halves.x + 12u),
            in_vec4(row, halves.y), in_vec4(row, halves.y + 4u), in_vec4(row, halves.y + 8u), in_vec4(row, halves.y + 12u),
        );
    }
    let one = vec4<f32>(1.0);
    input.sum = vec2<f32>(
        dot((input.x[0] + input.x[1]) + (input.x[2] + input.x[3]), one),
        dot((input.x[4] + input.x[5]) + (input.x[6] + input.x[7]), one),
    );
    return input;
}
