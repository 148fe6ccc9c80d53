// A head of a row, normed and rotated by RoPE, in workgroup memory. Role 0 is a query head, 1 a key head, 2 a value
// head, which is taken as it is.
var<workgroup> head_values: array<f32, HEAD_DIM>;
var<workgroup> head_eighths: array<f32, 8>;

fn head_ready(row: u32, head: u32, role: u32, invocation: u32) {
    for (var i = invocation; i < HEAD_DIM; i += WG) {
        head_values[i] = head_input(row, head, i);
    }
    workgroupBarrier();
    if invocation < 8u {
        var squares = vec4<f32>(0.0);
        for (var i = invocation; i < HEAD_DIM / 4u; i += 8u) {
            squares += turn_squares(head_four(i));
        }
        head_eighths[invocation] = turn_eighth(squares);
    }
    workgroupBarrier();
    if role < 2u {
        let halves = vec4<f32>(
            head_eighths[0] + head_eighths[4], head_eighths[1] + head_eighths[5],
            head_eighths[2] + head_eighths[6], head_eighths[3] + head_eighths[7],
        );
        let scale = turn_scale((halves.x + halves.z) + (halves.y + halves.w));
        let turns = kv_position(row) * (HEAD_DIM / 2u);
        for (var i = invocation; i < HEAD_DIM / 2u; i += WG) {
            let at = select(vec2<u32>(i, i + HEAD_DIM / 2u), vec2<u32>(2u * i, 2u * i + 1u), INTERLEAVED);
            let a = head_values[at.x] * head_scale(role, at.x, scale);
            let b = head_values[at.y] * head_scale(role, at.y, scale);
            let pair = turn_pair(vec2<f32>(a, b), rotations[turns + i]);
            head_values[at.x] = pair.x;
            head_values[at.y] = pair.y;
        }
    }
    workgroupBarrier();
}
