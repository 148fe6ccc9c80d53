// A head of a row, normed and rotated by RoPE, in workgroup memory. Role 0 is a query head, 1 a key head, 2 a value
// head, which is taken as it is.
var<workgroup> head_values: array<f32, HEAD_DIM>;

fn head_ready(row: u32, head: u32, role: u32, invocation: u32) {
    var squares = 0.0;
    for (var i = invocation; i < HEAD_DIM; i += WG) {
        let value = head_input(row, head, i);
        head_values[i] = value;
        squares += value * value;
    }
    // Also the barrier that head_values needs.
    let mean = wg_sum(squares, invocation) / f32(HEAD_DIM);
    let scale = 1.0 / sqrt(mean + p.eps);
    if role < 2u {
        let turns = kv_position(row) * (HEAD_DIM / 2u);
        for (var i = invocation; i < HEAD_DIM / 2u; i += WG) {
            let pair = select(vec2<u32>(i, i + HEAD_DIM / 2u), vec2<u32>(2u * i, 2u * i + 1u), INTERLEAVED);
            let a = head_values[pair.x] * head_scale(role, pair.x, scale);
            let b = head_values[pair.y] * head_scale(role, pair.y, scale);
            let turn = rotations[turns + i];
            head_values[pair.x] = a * turn.x - b * turn.y;
            head_values[pair.y] = b * turn.x + a * turn.y;
        }
    }
    workgroupBarrier();
}
