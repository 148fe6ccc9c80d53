// Reduces the norm's sum of squares in a workgroup of 64, through workgroup memory.
var<workgroup> in_sums: array<vec4<f32>, WG>;

fn in_prepare(row: u32, invocation: u32) {
    var sum = vec4<f32>(0.0);
    for (var i = invocation; i < (p.k >> 2u); i += WG) {
        sum += in_squares(row, i);
    }
    in_sums[invocation] = sum;
    workgroupBarrier();
    for (var width = WG / 2u; width > 0u; width = width >> 1u) {
        if invocation < width {
            in_sums[invocation] += in_sums[invocation + width];
        }
        workgroupBarrier();
    }
    in_scale_by(in_sums[0]);
}
