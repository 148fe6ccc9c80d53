// Activations that meet the weights of a unit: rows of p.k floats (a multiple of 4, and if WHOLE_UNITS of 32) in `x`, as
// vec4.

// Four activations of the row that starts at vec4 `row`, from element `k` on; zero beyond the row's end, where padded
// weights are zero too but a neighbour's activations might be infinite.
fn in_vec4(row: u32, k: u32) -> vec4<f32> {
    return select(vec4<f32>(0.0), x[row + (min(k, p.k - 4u) >> 2u)], vec4<bool>(k < p.k));
}

fn in_unit(row: u32, unit: u32) -> QInput {
    let runs = q_runs(unit);
    var input: QInput;
    // A branch costs software drivers both of its sides, one by a constant does not.
    if WHOLE_UNITS || runs.y + 16u <= p.k {
        let lo = row + (runs.x >> 2u);
        let hi = row + (runs.y >> 2u);
        input.x = array<vec4<f32>, 8>(
            x[lo], x[lo + 1u], x[lo + 2u], x[lo + 3u], x[hi], x[hi + 1u], x[hi + 2u], x[hi + 3u],
        );
    } else {
        input.x = array<vec4<f32>, 8>(
            in_vec4(row, runs.x), in_vec4(row, runs.x + 4u), in_vec4(row, runs.x + 8u), in_vec4(row, runs.x + 12u),
            in_vec4(row, runs.y), in_vec4(row, runs.y + 4u), in_vec4(row, runs.y + 8u), in_vec4(row, runs.y + 12u),
        );
    }
    let one = vec4<f32>(1.0);
    input.sum = vec2<f32>(
        dot((input.x[0] + input.x[1]) + (input.x[2] + input.x[3]), one),
        dot((input.x[4] + input.x[5]) + (input.x[6] + input.x[7]), one),
    );
    return input;
}
