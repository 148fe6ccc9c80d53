// Splits qkv rows into heads, a workgroup a head of a token: query heads are normed and rotated into q, key heads into the
// cache, value heads go to the cache as they are. The cache is [2][kv_heads][capacity][HEAD_DIM], keys first.
var<workgroup> head_values: array<f32, HEAD_DIM>;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let head = tile.x;
    let token = tile.y;
    let position = min(positions[token], p.capacity - 1u);
    let from_head = (token * (p.heads + 2u * p.kv_heads) + head) * HEAD_DIM;
    let is_query = head < p.heads;
    let is_value = head >= p.heads + p.kv_heads;

    var squares = 0.0;
    for (var i = invocation; i < HEAD_DIM; i += WG) {
        let value = qkv[from_head + i];
        head_values[i] = value;
        squares += value * value;
    }
    // Also the barrier that head_values needs.
    let mean = wg_sum(squares, invocation) / f32(HEAD_DIM);
    let scale = 1.0 / sqrt(mean + p.eps);
    if !is_value {
        for (var i = invocation; i < HEAD_DIM / 2u; i += WG) {
            let pair = select(vec2<u32>(i, i + HEAD_DIM / 2u), vec2<u32>(2u * i, 2u * i + 1u), INTERLEAVED);
            let a = head_values[pair.x] * head_scale(is_query, pair.x, scale);
            let b = head_values[pair.y] * head_scale(is_query, pair.y, scale);
            let turn = rotations[position * (HEAD_DIM / 2u) + i];
            head_values[pair.x] = a * turn.x - b * turn.y;
            head_values[pair.y] = b * turn.x + a * turn.y;
        }
    }
    workgroupBarrier();
    for (var i = invocation; i < HEAD_DIM / 2u; i += WG) {
        let value = vec2<f32>(head_values[2u * i], head_values[2u * i + 1u]);
        if is_query {
            let at = (token * p.heads + head) * HEAD_DIM + 2u * i;
            q[at] = value.x;
            q[at + 1u] = value.y;
        } else {
            kv_store(((head - p.heads) * p.capacity + position) * (HEAD_DIM / 2u) + i, value);
        }
    }
}
