// Reduces the norm's sum of squares in a workgroup of 8 in one subgroup. Each invocation has 8 of the 64 partial sums of
// input/norm_shared_memory, so that the bits are the same.
fn in_prepare(row: u32, invocation: u32) {
    var a0 = vec4<f32>(0.0);
    var a1 = vec4<f32>(0.0);
    var a2 = vec4<f32>(0.0);
    var a3 = vec4<f32>(0.0);
    var b0 = vec4<f32>(0.0);
    var b1 = vec4<f32>(0.0);
    var b2 = vec4<f32>(0.0);
    var b3 = vec4<f32>(0.0);
    for (var i = sg_lane; i < (p.k >> 2u); i += 64u) {
        a0 += in_squares(row, i);
        a1 += in_squares(row, i + 8u);
        a2 += in_squares(row, i + 16u);
        a3 += in_squares(row, i + 24u);
        b0 += in_squares(row, i + 32u);
        b1 += in_squares(row, i + 40u);
        b2 += in_squares(row, i + 48u);
        b3 += in_squares(row, i + 56u);
    }
    var sum = ((a0 + b0) + (a2 + b2)) + ((a1 + b1) + (a3 + b3));
    sum += subgroupShuffle(sum, sg_lane ^ 4u);
    sum += subgroupShuffle(sum, sg_lane ^ 2u);
    sum += subgroupShuffle(sum, sg_lane ^ 1u);
    in_scale_by(sum);
}
