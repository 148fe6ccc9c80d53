// Reductions over a workgroup of WG invocations by its subgroups, whatever their size: each leaves its part in workgroup
// memory, and every invocation takes the parts in order. All invocations must call them.
var<workgroup> wg_parts: array<f32, WG>;

fn wg_share(part: f32) {
    if sg_lane == 0u {
        wg_parts[sg_id] = part;
    }
    workgroupBarrier();
}

fn wg_sum(value: f32, invocation: u32) -> f32 {
    wg_share(subgroupAdd(value));
    var sum = wg_parts[0];
    for (var i = 1u; i < sg_count; i += 1u) {
        sum += wg_parts[i];
    }
    workgroupBarrier();
    return sum;
}

fn wg_max(value: f32, invocation: u32) -> f32 {
    wg_share(subgroupMax(value));
    var largest = wg_parts[0];
    for (var i = 1u; i < sg_count; i += 1u) {
        largest = max(largest, wg_parts[i]);
    }
    workgroupBarrier();
    return largest;
}
