// The gated delta rule for some columns of a value head's state and the rows of a run, one after the other. Eight invocations
// have two columns, each four vec4s of either in registers. The products of a row with the state before it give both the
// correction and, as y = decay·Sᵀq + (k·q)·d, the output: one exchange a row.
const COLUMNS = WG / 4u;

// Every eighth vec4 of a column, a query or a key.
struct DeltaVec16 {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

// Of eight lanes (Sᵀk, Sᵀq) of both columns, and k·q, and one of padding; rows take turns.
var<workgroup> delta_products: array<array<vec4<f32>, WG / 8u * 9u>, 2>;
var<workgroup> delta_key_query: array<array<f32, WG / 8u * 9u>, 2>;
// Which of the lane's vec4s there are.
var<private> delta_have: vec4<bool>;

fn delta_dot(x: DeltaVec16, y: DeltaVec16) -> f32 {
    return (dot(x.a, y.a) + dot(x.b, y.b)) + (dot(x.c, y.c) + dot(x.d, y.d));
}

fn delta_input(at: u32) -> DeltaVec16 {
    let zero = vec4<f32>(0.0);
    return DeltaVec16(
        select(zero, x_vec4[at], delta_have.x), select(zero, x_vec4[at + 8u], delta_have.y),
        select(zero, x_vec4[at + 16u], delta_have.z), select(zero, x_vec4[at + 24u], delta_have.w),
    );
}

fn delta_load(at: u32, inside: bool) -> DeltaVec16 {
    let zero = vec4<f32>(0.0);
    let have = delta_have & vec4<bool>(inside);
    return DeltaVec16(
        select(zero, states[at], have.x), select(zero, states[at + 8u], have.y),
        select(zero, states[at + 16u], have.z), select(zero, states[at + 24u], have.w),
    );
}

fn delta_store(at: u32, inside: bool, column: DeltaVec16) {
    if inside && delta_have.x {
        states[at] = column.a;
    }
    if inside && delta_have.y {
        states[at + 8u] = column.b;
    }
    if inside && delta_have.z {
        states[at + 16u] = column.c;
    }
    if inside && delta_have.w {
        states[at + 24u] = column.d;
    }
}

fn delta_update(column: DeltaVec16, decay: f32, k: DeltaVec16, d: f32) -> DeltaVec16 {
    return DeltaVec16(
        decay * column.a + k.a * d, decay * column.b + k.b * d, decay * column.c + k.c * d, decay * column.d + k.d * d,
    );
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let lane = invocation % 8u;
    let column_tiles = (p.head_dim + COLUMNS - 1u) / COLUMNS;
    let head = tile.x / column_tiles;
    let column = tile.x % column_tiles * COLUMNS + invocation / 8u * 2u;
    // Heads are multiples of four: both columns exist, or none.
    let inside = column < p.head_dim;
    let vec4s = p.head_dim / 4u;
    delta_have = vec4<u32>(lane) + vec4<u32>(0u, 8u, 16u, 24u) < vec4<u32>(vec4s);

    let first = min(runs[tile.y], p.n_rows - 1u);
    let run = rows[first];
    let end = min(run.y, p.n_rows);
    let channels = (2u * p.key_heads + p.value_heads) * p.head_dim;
    let stride = (channels + 2u * p.value_heads + 3u) / 4u * 4u;
    let q_at = head / p.repeat % p.key_heads * vec4s + lane;
    let k_at = q_at + p.key_heads * vec4s;
    let v_at = (2u * p.key_heads + head) * p.head_dim + select(0u, column, inside);
    let gates_at = channels + 2u * head;
    let state_at = (head * p.head_dim + column) * vec4s + lane;
    let slot_vec4s = p.value_heads * p.head_dim * vec4s;

    let from_slot = min(run.z, p.slots - 1u) * slot_vec4s + state_at;
    let starts = inside && run.z < p.slots;
    var s = delta_load(from_slot, starts);
    var t = delta_load(from_slot + vec4s, starts);
    for (var row = first; row < end; row += 1u) {
        let at = row * (stride / 4u);
        let k = delta_input(at + k_at);
        let q = delta_input(at + q_at);
        let v = vec2<f32>(x[row * stride + v_at], x[row * stride + v_at + 1u]);
        let decay = x[row * stride + gates_at];
        let beta = x[row * stride + gates_at + 1u];

        let turn = row & 1u;
        let parts = invocation / 8u * 9u;
        delta_products[turn][parts + lane] = vec4<f32>(delta_dot(s, k), delta_dot(t, k), delta_dot(s, q), delta_dot(t, q));
        delta_key_query[turn][parts + lane] = delta_dot(k, q);
        workgroupBarrier();
        let products = ((delta_products[turn][parts] + delta_products[turn][parts + 1u])
            + (delta_products[turn][parts + 2u] + delta_products[turn][parts + 3u]))
            + ((delta_products[turn][parts + 4u] + delta_products[turn][parts + 5u])
            + (delta_products[turn][parts + 6u] + delta_products[turn][parts + 7u]));
        let key_query = ((delta_key_query[turn][parts] + delta_key_query[turn][parts + 1u])
            + (delta_key_query[turn][parts + 2u] + delta_key_query[turn][parts + 3u]))
            + ((delta_key_query[turn][parts + 4u] + delta_key_query[turn][parts + 5u])
            + (delta_key_query[turn][parts + 6u] + delta_key_query[turn][parts + 7u]));
        let d = beta * (v - decay * products.xy);
        s = delta_update(s, decay, k, d.x);
        t = delta_update(t, decay, k, d.y);
        if inside && lane == 0u {
            let out = decay * products.zw + key_query * d;
            let y_at = (row * p.value_heads + head) * p.head_dim + column;
            y[y_at] = out.x;
            y[y_at + 1u] = out.y;
        }
        let to = rows[row].w;
        if to < p.slots {
            let to_slot = to * slot_vec4s + state_at;
            delta_store(to_slot, inside, s);
            delta_store(to_slot + vec4s, inside, t);
        }
    }
}
