// A unit's activations, each invocation loading those of a unit of its own.
fn in_unit(row: u32, unit: u32) -> QInput {
    let runs = q_runs(unit);
    var input: QInput;
    // A branch costs software drivers both of its sides, one by a constant does not.
    if WHOLE_UNITS || runs.y + 16u <= p.k {
        let lo = runs.x >> 2u;
        let hi = runs.y >> 2u;
        input.x = array<vec4<f32>, 8>(
            in_load(row, lo), in_load(row, lo + 1u), in_load(row, lo + 2u), in_load(row, lo + 3u),
            in_load(row, hi), in_load(row, hi + 1u), in_load(row, hi + 2u), in_load(row, hi + 3u),
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
