// The sum over a workgroup of eight within one subgroup, for each invocation, by a butterfly of shuffles.
fn sum8(x: f32, invocation: u32) -> f32 {
    var sum = x + subgroupShuffle(x, invocation ^ 4u);
    sum += subgroupShuffle(sum, invocation ^ 2u);
    return sum + subgroupShuffle(sum, invocation ^ 1u);
}
