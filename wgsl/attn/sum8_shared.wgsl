// The sum over eight neighbouring invocations, for each of them, through workgroup memory.
var<workgroup> sum8_values: array<f32, WG>;

fn sum8(x: f32, invocation: u32) -> f32 {
    // Another invocation may still read the values of the call before.
    workgroupBarrier();
    sum8_values[invocation] = x;
    workgroupBarrier();
    let first = invocation & ~7u;
    let halves = vec4<f32>(
        sum8_values[first] + sum8_values[first + 4u], sum8_values[first + 1u] + sum8_values[first + 5u],
        sum8_values[first + 2u] + sum8_values[first + 6u], sum8_values[first + 3u] + sum8_values[first + 7u],
    );
    return (halves.x + halves.z) + (halves.y + halves.w);
}
