// Attention of a tile of eight queries to a chunk of keys (FlashAttention-2, Dao 2023; grouped-query attention, Ainslie
// et al. 2023). A query's results do not depend on the others: a key that it does not see adds exactly nothing to its
// sums, and all sums are in an order that positions alone determine.
//
// Each half of the invocations has up to four queries, in slots; slots without a query are skipped. Scores: an invocation
// has two keys. Values: it has eight elements of the keys of its group. Whatever else is kept of queries is in workgroup
// memory: registers decide how many workgroups a GPU runs at once.
const HALF = WG / 2u;
const_assert CHUNK == WG;

// Groups of LANES_PER_HEAD invocations, each with its own quads of keys.
const ATTN_GROUPS = HALF / LANES_PER_HEAD;
// Vec8s of a head whose queries are in workgroup memory at once.
const QUERY_VEC8S = min(KV_VEC8S, 16u);
// Vec8s of a key at once: two wait for memory half as often. Prompts have workgroups enough, and some GPUs have no
// registers for it. Small heads wait seldom.
const FEW_WORKGROUPS = ONE_ROW || ONE_CHUNK;
const VEC8S_AT_ONCE = select(1u, 2u, FEW_WORKGROUPS && KV_VEC8_LOADS == 1u && KV_VEC8S % 2u == 0u && KV_VEC8S >= 8u);
const QUERY_SLICES = (KV_VEC8S + QUERY_VEC8S - 1u) / QUERY_VEC8S;

// For each half, the weights of a chunk's keys for its four queries, by quads of keys. Before and after, maxima and sums
// that are reduced.
var<workgroup> attn_weights: array<array<vec4<f32>, 4>, CHUNK / 2u>;
// The heads of the keys in the cache, by quads.
var<workgroup> attn_slots: array<array<vec2<u32>, 2>, CHUNK / 4u>;
// For each half, partial reductions of its four queries.
var<workgroup> attn_partial: array<vec4<f32>, 32>;
var<workgroup> attn_chunk_max: array<vec4<f32>, 2>;

// The scores of two keys for four queries.
struct AttnScores {
    a: vec4<f32>,
    b: vec4<f32>,
}

// The weighted values of four queries.
struct AttnSums {
    a: Vec8,
    b: Vec8,
    c: Vec8,
    d: Vec8,
}

// Vector n of attn_weights.
fn attn_load(n: u32) -> vec4<f32> {
    return attn_weights[n / 4u][n % 4u];
}

fn attn_keep(n: u32, x: vec4<f32>) {
    attn_weights[n / 4u][n % 4u] = x;
}

// Attends to the keys from keys.x up to keys.y of a run, all of chunk `chunk`: passes the weighted values to attn_store,
// and before that, for each half, the row maxima to attn_have_max and the sums of weights to attn_have_sum.
fn attn_chunk(tile: AttnTile, run: AttnRun, keys: vec2<u32>, chunk: u32, zero: u32, invocation: u32) {
    let half = invocation / HALF;
    let lane = invocation % HALF;
    let key = chunk * CHUNK + 2u * lane;
    let slots = vec2<u32>(
        kv_key(run.sequence, tile.kv_head, clamp(key, keys.x, keys.y - 1u)),
        kv_key(run.sequence, tile.kv_head, clamp(key + 1u, keys.x, keys.y - 1u)),
    );
    if half == 0u {
        attn_slots[lane / 2u][lane % 2u] = slots;
    }
    let reads = key + 1u >= keys.x && key < keys.y && attn_has_queries(half);
    var scores = AttnScores();
    for (var slice = zero; slice < QUERY_SLICES; slice += 1u) {
        queries_ready_slice(slice, invocation);
        if reads {
            let first = slice * QUERY_VEC8S;
            let vec8s = min(QUERY_VEC8S, KV_VEC8S - first);
            for (var i = zero; i < vec8s; i += VEC8S_AT_ONCE) {
                let k = kv_vec8(slots.x, first + i);
                let l = kv_vec8(slots.y, first + i);
                if VEC8S_AT_ONCE == 2u {
                    let m = kv_vec8(slots.x, first + i + 1u);
                    let n = kv_vec8(slots.y, first + i + 1u);
                    scores = attn_add_dots(attn_add_dots(scores, i, half, k, l), i + 1u, half, m, n);
                } else {
                    scores = attn_add_dots(scores, i, half, k, l);
                }
            }
        }
    }
    let a_seen = attn_sees(half, key);
    let b_seen = attn_sees(half, key + 1u);
    let a = select(vec4<f32>(LOWEST), scores.a * p.scale, a_seen);
    let b = select(vec4<f32>(LOWEST), scores.b * p.scale, b_seen);

    attn_keep(invocation, max(a, b));
    workgroupBarrier();
    if invocation < 32u {
        let from_lane = invocation / 16u * HALF + invocation % 16u;
        var row_max = attn_load(from_lane);
        for (var i = 16u; i < HALF; i += 16u) {
            row_max = max(row_max, attn_load(from_lane + i));
        }
        attn_partial[invocation] = row_max;
    }
    workgroupBarrier();
    if invocation < 2u {
        var row_max = attn_partial[16u * invocation];
        for (var i = 1u; i < 16u; i += 1u) {
            row_max = max(row_max, attn_partial[16u * invocation + i]);
        }
        attn_chunk_max[invocation] = row_max;
        attn_have_max(invocation, row_max);
    }
    workgroupBarrier();
    let row_max = attn_chunk_max[half];
    attn_keep(half * CHUNK + 2u * lane, select(vec4<f32>(0.0), exp(a - row_max), a_seen));
    attn_keep(half * CHUNK + 2u * lane + 1u, select(vec4<f32>(0.0), exp(b - row_max), b_seen));
    workgroupBarrier();
    if invocation < 32u {
        let from_key = invocation / 16u * CHUNK + invocation % 16u;
        var exp_sum = attn_load(from_key);
        for (var i = 16u; i < CHUNK; i += 16u) {
            exp_sum += attn_load(from_key + i);
        }
        attn_partial[invocation] = exp_sum;
    }
    let sums = attn_values(keys - chunk * CHUNK, zero, invocation);
    workgroupBarrier();
    if invocation < 2u {
        var exp_sum = attn_partial[16u * invocation];
        for (var i = 1u; i < 16u; i += 1u) {
            exp_sum += attn_partial[16u * invocation + i];
        }
        attn_have_sum(invocation, exp_sum);
    }
    attn_reduce(0u, sums.a, invocation);
    if attn_slots_used() > 1u {
        attn_reduce(1u, sums.b, invocation);
    }
    if attn_slots_used() > 2u {
        attn_reduce(2u, sums.c, invocation);
        attn_reduce(3u, sums.d, invocation);
    }
}

// Whether a half may have a query.
fn attn_has_queries(half: u32) -> bool {
    return half < p.tile_rows * p.tile_heads;
}

// Returns how many slots of a half may have queries.
fn attn_slots_used() -> u32 {
    return (p.tile_rows * p.tile_heads + 1u) / 2u;
}

fn attn_sees(half: u32, key: u32) -> vec4<bool> {
    return (vec4<u32>(key) >= attn_first[half]) & (vec4<u32>(key) < attn_end[half]);
}

// Adds the products of Vec8 i of two keys with a half's queries.
fn attn_add_dots(scores: AttnScores, i: u32, half: u32, k: Vec8, l: Vec8) -> AttnScores {
    let x = attn_dots(i, half, 0u, k, l);
    var y = vec2<f32>();
    var z = vec2<f32>();
    var w = vec2<f32>();
    if attn_slots_used() > 1u {
        y = attn_dots(i, half, 1u, k, l);
    }
    if attn_slots_used() > 2u {
        z = attn_dots(i, half, 2u, k, l);
        w = attn_dots(i, half, 3u, k, l);
    }
    return AttnScores(
        scores.a + vec4<f32>(x.x, y.x, z.x, w.x),
        scores.b + vec4<f32>(x.y, y.y, z.y, w.y),
    );
}

// Returns the products of Vec8 i of two keys with one of a half's queries. Query by query, few of them are in registers at a
// time.
fn attn_dots(i: u32, half: u32, slot: u32, k: Vec8, l: Vec8) -> vec2<f32> {
    let q = Vec8(attn_queries[half][i][2u * slot], attn_queries[half][i][2u * slot + 1u]);
    return vec2<f32>(attn_dot(q, k), attn_dot(q, l));
}

// A chain of eight multiply-adds: short, for the sake of its rounding errors.
fn attn_dot(q: Vec8, k: Vec8) -> f32 {
    var sum = q.a.x * k.a.x;
    sum += q.a.y * k.a.y;
    sum += q.a.z * k.a.z;
    sum += q.a.w * k.a.w;
    sum += q.b.x * k.b.x;
    sum += q.b.y * k.b.y;
    sum += q.b.z * k.b.z;
    return sum + q.b.w * k.b.w;
}

// Returns an invocation's weighted values of a chunk's keys from keys.x up to keys.y.
fn attn_values(keys: vec2<u32>, zero: u32, invocation: u32) -> AttnSums {
    let half = invocation / HALF;
    let i = min(invocation % LANES_PER_HEAD, KV_VEC8S - 1u);
    let group = invocation % HALF / LANES_PER_HEAD;
    let to_value = kv_value_offset();
    var sums = AttnSums();
    if attn_has_queries(half) {
        for (var quad = keys.x / (4u * ATTN_GROUPS) * ATTN_GROUPS + group + zero; 4u * quad < keys.y; quad += ATTN_GROUPS) {
            let at = half * (CHUNK / 4u) + quad;
            let slots = attn_slots[quad];
            let v = kv_vec8(slots[0].x + to_value, i);
            let w = kv_vec8(slots[0].y + to_value, i);
            let x = kv_vec8(slots[1].x + to_value, i);
            let y = kv_vec8(slots[1].y + to_value, i);
            sums.a = attn_accumulate(sums.a, attn_slot_weights(at, 0u), v, w, x, y);
            if attn_slots_used() > 1u {
                sums.b = attn_accumulate(sums.b, attn_slot_weights(at, 1u), v, w, x, y);
            }
            if attn_slots_used() > 2u {
                sums.c = attn_accumulate(sums.c, attn_slot_weights(at, 2u), v, w, x, y);
                sums.d = attn_accumulate(sums.d, attn_slot_weights(at, 3u), v, w, x, y);
            }
        }
    }
    return sums;
}

// Returns the weights of a quad's keys for the query in a slot.
fn attn_slot_weights(quad: u32, slot: u32) -> vec4<f32> {
    return vec4<f32>(
        attn_weights[quad][0][slot], attn_weights[quad][1][slot], attn_weights[quad][2][slot], attn_weights[quad][3][slot],
    );
}

// Adds the values of four keys, weighted for one query. Query by query, the weights of one are in registers, and slots
// without a query are skipped by few branches: Apple's compiler copies all sums at each.
fn attn_accumulate(before: Vec8, weights: vec4<f32>, v: Vec8, w: Vec8, x: Vec8, y: Vec8) -> Vec8 {
    var sum = Vec8(before.a + weights.x * v.a, before.b + weights.x * v.b);
    sum = Vec8(sum.a + weights.y * w.a, sum.b + weights.y * w.b);
    sum = Vec8(sum.a + weights.z * x.a, sum.b + weights.z * x.b);
    return Vec8(sum.a + weights.w * y.a, sum.b + weights.w * y.b);
}

// Reduces the sums of the queries in slot `query` of each half over the groups, in the memory of the weights, and stores them.
fn attn_reduce(query: u32, sum: Vec8, invocation: u32) {
    attn_keep(invocation, sum.a);
    attn_keep(WG + invocation, sum.b);
    workgroupBarrier();
    for (var at = invocation; at < 4u * LANES_PER_HEAD; at += WG) {
        // By the vector of a Vec8 and the half.
        let column = at / LANES_PER_HEAD;
        let lane = at % LANES_PER_HEAD;
        let i = 2u * lane + column / 2u;
        var total = attn_load(column * HALF + lane);
        for (var group = 1u; group < ATTN_GROUPS; group += 1u) {
            total += attn_load(column * HALF + group * LANES_PER_HEAD + lane);
        }
        if i < HEAD_DIM / 4u {
            attn_store(column % 2u, query, i, total);
        }
    }
    workgroupBarrier();
}
