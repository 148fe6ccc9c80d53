// The gated delta rule for 16 columns of a value head's state and the rows of a run, one after the other. Eight invocations
// have a column, each four vec4s of it in registers. The products of a row with the state before it give both the
// correction and, as y = decay·Sᵀq + (k·q)·d, the output: one exchange a row.
const COLUMNS = WG / 8u;

// For each column (Sᵀk, Sᵀq, k·q) of its lanes, and one of padding; rows take turns.
var<workgroup> delta_parts: array<array<vec4<f32>, COLUMNS * 9u>, 2>;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let lane = invocation % 8u;
    let group = invocation / 8u;
    let column_tiles = (p.head_dim + COLUMNS - 1u) / COLUMNS;
    let head = tile.x / column_tiles;
    let column = tile.x % column_tiles * COLUMNS + group;
    let inside = column < p.head_dim;
    let vec4s = p.head_dim / 4u;
    // Which of the lane's vec4s there are.
    let have = vec4<u32>(lane) + vec4<u32>(0u, 8u, 16u, 24u) < vec4<u32>(vec4s);

    let first = min(runs[tile.y], p.n_rows - 1u);
    let run = rows[first];
    let end = min(run.y, p.n_rows);
    let channels = (2u * p.key_heads + p.value_heads) * p.head_dim;
    let stride = (channels + 2u * p.value_heads + 3u) / 4u * 4u;
    let key_head = head / p.repeat % p.key_heads;
    let q_at = key_head * vec4s + lane;
    let k_at = q_at + p.key_heads * vec4s;
    let v_at = (2u * p.key_heads + head) * p.head_dim + min(column, p.head_dim - 1u);
    let gates_at = channels + 2u * head;
    let state_at = (head * p.head_dim + column) * vec4s + lane;
    let state_vec4s = p.value_heads * p.head_dim * vec4s;

    var s0 = vec4<f32>(0.0);
    var s1 = vec4<f32>(0.0);
    var s2 = vec4<f32>(0.0);
    var s3 = vec4<f32>(0.0);
    if inside && run.z < p.slots {
        let at = run.z * state_vec4s + state_at;
        s0 = select(s0, states[at], have.x);
        s1 = select(s1, states[at + 8u], have.y);
        s2 = select(s2, states[at + 16u], have.z);
        s3 = select(s3, states[at + 24u], have.w);
    }
    for (var row = first; row < end; row += 1u) {
        let at = row * (stride / 4u);
        let k0 = select(vec4<f32>(0.0), x_vec4[at + k_at], have.x);
        let k1 = select(vec4<f32>(0.0), x_vec4[at + k_at + 8u], have.y);
        let k2 = select(vec4<f32>(0.0), x_vec4[at + k_at + 16u], have.z);
        let k3 = select(vec4<f32>(0.0), x_vec4[at + k_at + 24u], have.w);
        let q0 = select(vec4<f32>(0.0), x_vec4[at + q_at], have.x);
        let q1 = select(vec4<f32>(0.0), x_vec4[at + q_at + 8u], have.y);
        let q2 = select(vec4<f32>(0.0), x_vec4[at + q_at + 16u], have.z);
        let q3 = select(vec4<f32>(0.0), x_vec4[at + q_at + 24u], have.w);
        let v = x[row * stride + v_at];
        let decay = x[row * stride + gates_at];
        let beta = x[row * stride + gates_at + 1u];

        let turn = row & 1u;
        delta_parts[turn][group * 9u + lane] = vec4<f32>(
            (dot(s0, k0) + dot(s1, k1)) + (dot(s2, k2) + dot(s3, k3)),
            (dot(s0, q0) + dot(s1, q1)) + (dot(s2, q2) + dot(s3, q3)),
            (dot(k0, q0) + dot(k1, q1)) + (dot(k2, q2) + dot(k3, q3)),
            0.0,
        );
        workgroupBarrier();
        let parts = group * 9u;
        let sums = ((delta_parts[turn][parts] + delta_parts[turn][parts + 1u])
            + (delta_parts[turn][parts + 2u] + delta_parts[turn][parts + 3u]))
            + ((delta_parts[turn][parts + 4u] + delta_parts[turn][parts + 5u])
            + (delta_parts[turn][parts + 6u] + delta_parts[turn][parts + 7u]));
        let d = beta * (v - decay * sums.x);
        s0 = decay * s0 + k0 * d;
        s1 = decay * s1 + k1 * d;
        s2 = decay * s2 + k2 * d;
        s3 = decay * s3 + k3 * d;
        if inside && lane == 0u {
            y[(row * p.value_heads + head) * p.head_dim + column] = decay * sums.y + sums.z * d;
        }
        let to = rows[row].w;
        if inside && to < p.slots {
            let store = to * state_vec4s + state_at;
            if have.x {
                states[store] = s0;
            }
            if have.y {
                states[store + 8u] = s1;
            }
            if have.z {
                states[store + 16u] = s2;
            }
            if have.w {
                states[store + 24u] = s3;
            }
        }
    }
}
