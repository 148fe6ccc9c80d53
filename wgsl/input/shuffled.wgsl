// A unit's activations for a workgroup of 8 within one subgroup, whose invocations all want the same unit: each loads one
// of its vec4, and the others have it by shuffles.
fn in_unit(row: u32, unit: u32) -> QInput {
    let runs = q_runs(unit);
    let mine = in_vec4(row, select(runs.x, runs.y - 16u, sg_lane >= 4u) + (sg_lane << 2u));
    var sum = (mine.x + mine.y) + (mine.z + mine.w);
    sum += subgroupShuffle(sum, sg_lane ^ 1u);
    sum += subgroupShuffle(sum, sg_lane ^ 2u);
    return QInput(
        array<vec4<f32>, 8>(
            subgroupShuffle(mine, 0u), subgroupShuffle(mine, 1u), subgroupShuffle(mine, 2u), subgroupShuffle(mine, 3u),
            subgroupShuffle(mine, 4u), subgroupShuffle(mine, 5u), subgroupShuffle(mine, 6u), subgroupShuffle(mine, 7u),
        ),
        vec2<f32>(subgroupShuffle(sum, 0u), subgroupShuffle(sum, 4u)),
    );
}
