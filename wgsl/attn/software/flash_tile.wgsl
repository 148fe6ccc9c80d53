// Attention of a tile of eight queries to a chunk of keys (FlashAttention-2, Dao 2023; grouped-query attention, Ainslie
// et al. 2023): whatever is loaded of a key or value serves all eight. A query's results do not depend on the others: a
// key that it does not see adds exactly nothing to its sums.
//
// attn_weights holds a chunk's scores, then its weights: those of the first four queries, then those of the others.
// attn_slots holds the heads of its keys in the cache. attn_place indexes both.
const STEP = 4u * WG;

// A number for each query.
struct PerQuery {
    lo: vec4<f32>,
    hi: vec4<f32>,
}

// Scores the keys from keys.x up to keys.y, all of one chunk, and returns the row maxima.
fn attn_scores(tile: AttnTile, range: KvRange, keys: vec2<u32>, zero: u32, invocation: u32) -> PerQuery {
    attn_load_queries(tile, zero, invocation);
    var row_max = PerQuery(vec4<f32>(LOWEST), vec4<f32>(LOWEST));
    for (var base = keys.x / STEP * STEP + zero; base < keys.y; base += STEP) {
        let first = base + invocation;
        let last = keys.y - 1u;
        let slots = vec4<u32>(
            kv_key(range.sequence, tile.kv_head, clamp(first, keys.x, last)),
            kv_key(range.sequence, tile.kv_head, clamp(first + WG, keys.x, last)),
            kv_key(range.sequence, tile.kv_head, clamp(first + 2u * WG, keys.x, last)),
            kv_key(range.sequence, tile.kv_head, clamp(first + 3u * WG, keys.x, last)),
        );
        // For each query, the scores of four keys.
        var s0 = vec4<f32>(0.0);
        var s1 = vec4<f32>(0.0);
        var s2 = vec4<f32>(0.0);
        var s3 = vec4<f32>(0.0);
        var s4 = vec4<f32>(0.0);
        var s5 = vec4<f32>(0.0);
        var s6 = vec4<f32>(0.0);
        var s7 = vec4<f32>(0.0);
        for (var i = zero; i < KV_VEC8S; i += 1u) {
            let k = array<Vec8, 4>(
                kv_vec8(slots.x, i), kv_vec8(slots.y, i), kv_vec8(slots.z, i), kv_vec8(slots.w, i),
            );
            let lane = attn_lane_query(i);
            s0 += attn_dots(attn_query(lane, tile.lo.head.x, i, 0u), k);
            s1 += attn_dots(attn_query(lane, tile.lo.head.y, i, 1u), k);
            s2 += attn_dots(attn_query(lane, tile.lo.head.z, i, 2u), k);
            s3 += attn_dots(attn_query(lane, tile.lo.head.w, i, 3u), k);
            s4 += attn_dots(attn_query(lane, tile.hi.head.x, i, 4u), k);
            s5 += attn_dots(attn_query(lane, tile.hi.head.y, i, 5u), k);
            s6 += attn_dots(attn_query(lane, tile.hi.head.z, i, 6u), k);
            s7 += attn_dots(attn_query(lane, tile.hi.head.w, i, 7u), k);
        }
        let a = attn_keep(range, first, slots.x, vec4<f32>(s0.x, s1.x, s2.x, s3.x), vec4<f32>(s4.x, s5.x, s6.x, s7.x));
        let b = attn_keep(range, first + WG, slots.y, vec4<f32>(s0.y, s1.y, s2.y, s3.y), vec4<f32>(s4.y, s5.y, s6.y, s7.y));
        let c = attn_keep(range, first + 2u * WG, slots.z, vec4<f32>(s0.z, s1.z, s2.z, s3.z), vec4<f32>(s4.z, s5.z, s6.z, s7.z));
        let d = attn_keep(range, first + 3u * WG, slots.w, vec4<f32>(s0.w, s1.w, s2.w, s3.w), vec4<f32>(s4.w, s5.w, s6.w, s7.w));
        row_max.lo = max(row_max.lo, max(max(a.lo, b.lo), max(c.lo, d.lo)));
        row_max.hi = max(row_max.hi, max(max(a.hi, b.hi), max(c.hi, d.hi)));
    }
    return attn_row_max(row_max, invocation);
}

fn attn_dots(q: Vec8, k: array<Vec8, 4>) -> vec4<f32> {
    return vec4<f32>(kv_dot(q, k[0]), kv_dot(q, k[1]), kv_dot(q, k[2]), kv_dot(q, k[3]));
}

// Keeps the scores of a key, the lowest for queries that do not see it.
fn attn_keep(range: KvRange, position: u32, slot: u32, lo: vec4<f32>, hi: vec4<f32>) -> PerQuery {
    let scores = PerQuery(
        select(vec4<f32>(LOWEST), lo * p.scale, attn_sees(range.lo, position)),
        select(vec4<f32>(LOWEST), hi * p.scale, attn_sees(range.hi, position)),
    );
    let i = attn_place(position);
    attn_slots[i] = slot;
    attn_weights[i] = scores.lo;
    attn_weights[ATTN_KEYS + i] = scores.hi;
    return scores;
}

fn attn_sees(visible: VisibleKeys, position: u32) -> vec4<bool> {
    return (vec4<u32>(position) >= visible.first) & (vec4<u32>(position) < visible.end);
}

// Turns scores into weights, exp(score − row maximum), and returns their sums.
fn attn_weigh(range: KvRange, keys: vec2<u32>, row_max: PerQuery, zero: u32, invocation: u32) -> PerQuery {
    var exp_sum = PerQuery(vec4<f32>(0.0), vec4<f32>(0.0));
    for (var base = keys.x / STEP * STEP + zero; base < keys.y; base += STEP) {
        for (var position = base + invocation; position < base + STEP; position += WG) {
            let i = attn_place(position);
            let lo = select(vec4<f32>(0.0), exp(attn_weights[i] - row_max.lo), attn_sees(range.lo, position));
            let hi = select(vec4<f32>(0.0), exp(attn_weights[ATTN_KEYS + i] - row_max.hi), attn_sees(range.hi, position));
            attn_weights[i] = lo;
            attn_weights[ATTN_KEYS + i] = hi;
            exp_sum = PerQuery(exp_sum.lo + lo, exp_sum.hi + hi);
        }
    }
    return attn_exp_sum(exp_sum, invocation);
}

// Adds the weighted values of four keys.
fn attn_accumulate(sum: Vec8, weights: vec4<f32>, v: array<Vec8, 4>) -> Vec8 {
    var a = sum.a + weights.x * v[0].a;
    var b = sum.b + weights.x * v[0].b;
    a += weights.y * v[1].a;
    b += weights.y * v[1].b;
    a += weights.z * v[2].a;
    b += weights.z * v[2].b;
    a += weights.w * v[3].a;
    b += weights.w * v[3].b;
    return Vec8(a, b);
}
