// Loads a head into workgroup memory, with QK-norm and RoPE. Role 0 is a query head, 1 a key head, 2 a value head,
// which is loaded as it is.
var<workgroup> head_values: array<f32, MAX_HEAD_DIM>;
var<workgroup> head_eighths: array<f32, 8>;

fn head_ready(row: u32, head: u32, role: u32, invocation: u32) {
    for (var i = invocation; i < p.head_dim; i += WG) {
        head_values[i] = head_input(row, head, i);
    }
    workgroupBarrier();
    if invocation < 8u {
        var squares = vec4<f32>(0.0);
        for (var i = invocation; i < p.head_dim / 4u; i += 8u) {
            squares += rope_squares(head_vec4(i));
        }
        head_eighths[invocation] = rope_eighth_sum(squares);
    }
    workgroupBarrier();
    if role < 2u {
        let halves = vec4<f32>(
            head_eighths[0] + head_eighths[4], head_eighths[1] + head_eighths[5],
            head_eighths[2] + head_eighths[6], head_eighths[3] + head_eighths[7],
        );
        let inverse_rms = rope_inverse_rms((halves.x + halves.z) + (halves.y + halves.w));
        let half = p.head_dim / 2u;
        let angles = kv_position(row) * half;
        for (var i = invocation; i < half; i += WG) {
            let at = select(vec2<u32>(i, i + half), vec2<u32>(2u * i, 2u * i + 1u), INTERLEAVED);
            let a = head_values[at.x] * head_scale(role, at.x, inverse_rms);
            let b = head_values[at.y] * head_scale(role, at.y, inverse_rms);
            let pair = rope_rotate(vec2<f32>(a, b), rotations[angles + i]);
            head_values[at.x] = pair.x;
            head_values[at.y] = pair.y;
        }
    }
    workgroupBarrier();
}
