// Reductions over a workgroup of WG invocations (a power of two) through workgroup memory, by a fixed tree: the order of sums
// is the same on every device. All invocations must call them.
var<workgroup> wg_scratch: array<f32, WG>;

fn wg_sum(value: f32, invocation: u32) -> f32 {
    wg_scratch[invocation] = value;
    workgroupBarrier();
    for (var width = WG / 2u; width > 0u; width = width >> 1u) {
        if invocation < width {
            wg_scratch[invocation] += wg_scratch[invocation + width];
        }
        workgroupBarrier();
    }
    let sum = wg_scratch[0];
    workgroupBarrier();
    return sum;
}

fn wg_max(value: f32, invocation: u32) -> f32 {
    wg_scratch[invocation] = value;
    workgroupBarrier();
    for (var width = WG / 2u; width > 0u; width = width >> 1u) {
        if invocation < width {
            wg_scratch[invocation] = max(wg_scratch[invocation], wg_scratch[invocation + width]);
        }
        workgroupBarrier();
    }
    let largest = wg_scratch[0];
    workgroupBarrier();
    return largest;
}
