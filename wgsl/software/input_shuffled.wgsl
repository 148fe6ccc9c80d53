// The activations of a block for a workgroup of 8 in one subgroup, whose invocations all need the same block: each loads one
// vec4 of it and gets the others by shuffles.
fn in_block32(row: u32, block: u32) -> QInput {
    let halves = q_halves(block);
    let mine = in_vec4(row, select(halves.x, halves.y - 16u, sg_lane >= 4u) + (sg_lane << 2u));
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
