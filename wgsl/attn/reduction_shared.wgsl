// Invocations exchange weights and sums through workgroup memory. Queries are read where they are needed, all from one
// address.
const ATTN_KEYS = CHUNK;
var<workgroup> attn_weights: array<vec4<f32>, 2u * ATTN_KEYS>;
var<workgroup> attn_slots: array<u32, ATTN_KEYS>;
var<workgroup> attn_partial: array<vec4<f32>, 2u * WG>;

// Groups of LANES_PER_HEAD invocations: each invocation has eight elements of the keys of its group.
const ATTN_GROUPS = WG / LANES_PER_HEAD;

fn attn_place(position: u32) -> u32 {
    return position % CHUNK;
}

fn attn_load_queries(tile: AttnTile, zero: u32, invocation: u32) {
}

fn attn_lane_query(i: u32) -> Vec8 {
    return Vec8();
}

fn attn_query(lane: Vec8, head: u32, i: u32, query: u32) -> Vec8 {
    return Vec8(queries_vec4(head, query, 2u * i), queries_vec4(head, query, min(2u * i + 1u, HEAD_DIM / 4u - 1u)));
}

fn attn_row_max(own: PerQuery, invocation: u32) -> PerQuery {
    attn_partial[invocation] = own.lo;
    attn_partial[WG + invocation] = own.hi;
    workgroupBarrier();
    for (var width = WG / 2u; width > 0u; width = width >> 1u) {
        if invocation < width {
            attn_partial[invocation] = max(attn_partial[invocation], attn_partial[invocation + width]);
            attn_partial[WG + invocation] = max(attn_partial[WG + invocation], attn_partial[WG + invocation + width]);
        }
        workgroupBarrier();
    }
    let all = PerQuery(attn_partial[0], attn_partial[WG]);
    workgroupBarrier();
    return all;
}

// Also the barrier between writing and reading the weights.
fn attn_exp_sum(own: PerQuery, invocation: u32) -> PerQuery {
    attn_partial[invocation] = own.lo;
    attn_partial[WG + invocation] = own.hi;
    workgroupBarrier();
    for (var width = WG / 2u; width > 0u; width = width >> 1u) {
        if invocation < width {
            attn_partial[invocation] += attn_partial[invocation + width];
            attn_partial[WG + invocation] += attn_partial[WG + invocation + width];
        }
        workgroupBarrier();
    }
    let all = PerQuery(attn_partial[0], attn_partial[WG]);
    workgroupBarrier();
    return all;
}

// Stores the weighted sums of a chunk's values by attn_store. An invocation has eight elements of its group's keys,
// four keys at a time.
fn attn_values(keys: vec2<u32>, zero: u32, invocation: u32) {
    let to_value = kv_value_offset();
    let i = min(invocation % LANES_PER_HEAD, KV_VEC8S - 1u);
    let step = 4u * ATTN_GROUPS;
    var a0 = Vec8();
    var a1 = Vec8();
    var a2 = Vec8();
    var a3 = Vec8();
    var a4 = Vec8();
    var a5 = Vec8();
    var a6 = Vec8();
    var a7 = Vec8();
    for (var base = keys.x / step * step + invocation / LANES_PER_HEAD * 4u + zero; base < keys.y; base += step) {
        let key = base % CHUNK;
        let v = array<Vec8, 4>(
            kv_vec8(attn_slots[key] + to_value, i), kv_vec8(attn_slots[key + 1u] + to_value, i),
            kv_vec8(attn_slots[key + 2u] + to_value, i), kv_vec8(attn_slots[key + 3u] + to_value, i),
        );
        let lo = transpose(mat4x4<f32>(
            attn_weights[key], attn_weights[key + 1u], attn_weights[key + 2u], attn_weights[key + 3u],
        ));
        let at = ATTN_KEYS + key;
        let hi = transpose(mat4x4<f32>(
            attn_weights[at], attn_weights[at + 1u], attn_weights[at + 2u], attn_weights[at + 3u],
        ));
        a0 = attn_accumulate(a0, lo[0], v);
        a1 = attn_accumulate(a1, lo[1], v);
        a2 = attn_accumulate(a2, lo[2], v);
        a3 = attn_accumulate(a3, lo[3], v);
        a4 = attn_accumulate(a4, hi[0], v);
        a5 = attn_accumulate(a5, hi[1], v);
        a6 = attn_accumulate(a6, hi[2], v);
        a7 = attn_accumulate(a7, hi[3], v);
    }
    workgroupBarrier();
    attn_store_four(0u, array<Vec8, 4>(a0, a1, a2, a3), invocation);
    attn_store_four(4u, array<Vec8, 4>(a4, a5, a6, a7), invocation);
}

// Reduces four queries' sums over the groups, in the memory of the weights, and stores them.
fn attn_store_four(first: u32, sums: array<Vec8, 4>, invocation: u32) {
    attn_weights[invocation] = sums[0].a;
    attn_weights[WG + invocation] = sums[0].b;
    attn_weights[2u * WG + invocation] = sums[1].a;
    attn_weights[3u * WG + invocation] = sums[1].b;
    attn_weights[4u * WG + invocation] = sums[2].a;
    attn_weights[5u * WG + invocation] = sums[2].b;
    attn_weights[6u * WG + invocation] = sums[3].a;
    attn_weights[7u * WG + invocation] = sums[3].b;
    workgroupBarrier();
    for (var at = invocation; at < 4u * LANES_PER_HEAD; at += WG) {
        let query = at / LANES_PER_HEAD;
        let i = at % LANES_PER_HEAD;
        var sum = Vec8();
        for (var group = 0u; group < ATTN_GROUPS; group += 1u) {
            let from_group = 2u * WG * query + group * LANES_PER_HEAD + i;
            sum = Vec8(sum.a + attn_weights[from_group], sum.b + attn_weights[WG + from_group]);
        }
        if i < KV_VEC8S {
            attn_store(first + query, i, sum);
        }
    }
    workgroupBarrier();
}
