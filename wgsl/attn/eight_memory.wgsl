// The sum over eight invocations side by side, by halves, for each of them; by workgroup memory.
var<workgroup> eight_values: array<f32, WG>;

fn eight_sum(x: f32, invocation: u32) -> f32 {
    // Others may still read what they summed before.
    workgroupBarrier();
    eight_values[invocation] = x;
    workgroupBarrier();
    let first = invocation & ~7u;
    let halves = vec4<f32>(
        eight_values[first] + eight_values[first + 4u], eight_values[first + 1u] + eight_values[first + 5u],
        eight_values[first + 2u] + eight_values[first + 6u], eight_values[first + 3u] + eight_values[first + 7u],
    );
    return (halves.x + halves.z) + (halves.y + halves.w);
}
