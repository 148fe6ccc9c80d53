// y[head] = x[head] / rms(x[head]) * w * silu(z[head]), eight invocations a head.
var<workgroup> norm_eighths: array<f32, WG>;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let lane = invocation % 8u;
    let head = tile.x * (WG / 8u) + invocation / 8u;
    let vec4s = p.head_dim / 4u;
    let from_head = (tile.y * p.heads + head) * vec4s;
    let from_gate = tile.y * (p.z_stride / 4u) + p.z_offset / 4u + head * vec4s;
    let zero = opaque_zero(workgroup);
    var squares = 0.0;
    if head < p.heads {
        for (var i = zero + lane; i < vec4s; i += 8u) {
            squares += dot(x[from_head + i], x[from_head + i]);
        }
    }
    norm_eighths[invocation] = squares;
    workgroupBarrier();
    if head >= p.heads {
        return;
    }
    let at = invocation - lane;
    let sum = ((norm_eighths[at] + norm_eighths[at + 1u]) + (norm_eighths[at + 2u] + norm_eighths[at + 3u]))
        + ((norm_eighths[at + 4u] + norm_eighths[at + 5u]) + (norm_eighths[at + 6u] + norm_eighths[at + 7u]));
    let scale = 1.0 / sqrt(sum / f32(p.head_dim) + p.eps);
    for (var i = zero + lane; i < vec4s; i += 8u) {
        let gate = z[from_gate + i];
        y[from_head + i] = x[from_head + i] * scale * w[i] * vec4<f32>(silu(gate.x), silu(gate.y), silu(gate.z), silu(gate.w));
    }
}
