// For software drivers, where a subgroup is a vector and memory of any kind costs more than arithmetic: a workgroup of
// eight within one subgroup exchanges queries and weights by shuffles. An invocation keeps an eighth of a chunk's keys
// and the query of its number.
const ATTN_KEYS = CHUNK / WG;
var<private> attn_weights: array<vec4<f32>, 2u * ATTN_KEYS>;
var<private> attn_slots: array<u32, ATTN_KEYS>;
var<private> attn_own_query: array<vec4<f32>, 2u * KV_VEC8S>;

fn attn_place(position: u32) -> u32 {
    return position % CHUNK / WG;
}

fn attn_load_queries(tile: AttnTile, zero: u32, invocation: u32) {
    let quad = select(tile.lo.head, tile.hi.head, invocation >= 4u);
    let pair = select(quad.xy, quad.zw, (invocation & 2u) != 0u);
    let head = select(pair.x, pair.y, (invocation & 1u) != 0u);
    for (var i = zero; i < HEAD_DIM / 4u; i += 1u) {
        attn_own_query[i] = queries_vec4(head, invocation, i);
    }
}

fn attn_lane_query(i: u32) -> Vec8 {
    return Vec8(attn_own_query[2u * i], attn_own_query[2u * i + 1u]);
}

fn attn_query(lane: Vec8, head: u32, i: u32, query: u32) -> Vec8 {
    return Vec8(subgroupShuffle(lane.a, query), subgroupShuffle(lane.b, query));
}

fn attn_row_max(own: PerQuery, invocation: u32) -> PerQuery {
    var all = own;
    all = PerQuery(max(all.lo, subgroupShuffle(all.lo, invocation ^ 4u)), max(all.hi, subgroupShuffle(all.hi, invocation ^ 4u)));
    all = PerQuery(max(all.lo, subgroupShuffle(all.lo, invocation ^ 2u)), max(all.hi, subgroupShuffle(all.hi, invocation ^ 2u)));
    return PerQuery(max(all.lo, subgroupShuffle(all.lo, invocation ^ 1u)), max(all.hi, subgroupShuffle(all.hi, invocation ^ 1u)));
}

fn attn_exp_sum(own: PerQuery, invocation: u32) -> PerQuery {
    var all = own;
    all = PerQuery(all.lo + subgroupShuffle(all.lo, invocation ^ 4u), all.hi + subgroupShuffle(all.hi, invocation ^ 4u));
    all = PerQuery(all.lo + subgroupShuffle(all.lo, invocation ^ 2u), all.hi + subgroupShuffle(all.hi, invocation ^ 2u));
    return PerQuery(all.lo + subgroupShuffle(all.lo, invocation ^ 1u), all.hi + subgroupShuffle(all.hi, invocation ^ 1u));
}

// Elements of the values of four keys, whose heads invocations `first` to `first + 3` have.
fn attn_shuffled_values(first: u32, slot: u32, i: u32) -> array<Vec8, 4> {
    return array<Vec8, 4>(
        kv_vec8(subgroupShuffle(slot, first), i), kv_vec8(subgroupShuffle(slot, first + 1u), i),
        kv_vec8(subgroupShuffle(slot, first + 2u), i), kv_vec8(subgroupShuffle(slot, first + 3u), i),
    );
}

// Adds the values of eight keys, weighted by one query's weights of the eight invocations.
fn attn_accumulate_eight(sum: Vec8, weight: f32, v: array<Vec8, 4>, w: array<Vec8, 4>) -> Vec8 {
    let first = vec4<f32>(
        subgroupShuffle(weight, 0u), subgroupShuffle(weight, 1u), subgroupShuffle(weight, 2u), subgroupShuffle(weight, 3u),
    );
    let second = vec4<f32>(
        subgroupShuffle(weight, 4u), subgroupShuffle(weight, 5u), subgroupShuffle(weight, 6u), subgroupShuffle(weight, 7u),
    );
    return attn_accumulate(attn_accumulate(sum, first, v), second, w);
}

// Stores the weighted sums of a chunk's values by attn_store. An invocation has eight of 64 elements at a time.
fn attn_values(keys: vec2<u32>, zero: u32, invocation: u32) {
    let to_value = kv_value_offset();
    for (var first_vec8 = zero; first_vec8 < KV_VEC8S; first_vec8 += WG) {
        let i = min(first_vec8 + invocation, KV_VEC8S - 1u);
        var a0 = Vec8();
        var a1 = Vec8();
        var a2 = Vec8();
        var a3 = Vec8();
        var a4 = Vec8();
        var a5 = Vec8();
        var a6 = Vec8();
        var a7 = Vec8();
        for (var base = keys.x / WG * WG + zero; base < keys.y; base += WG) {
            let key = attn_place(base);
            let slot = attn_slots[key] + to_value;
            let lo = attn_weights[key];
            let hi = attn_weights[ATTN_KEYS + key];
            let v = attn_shuffled_values(0u, slot, i);
            let w = attn_shuffled_values(4u, slot, i);
            a0 = attn_accumulate_eight(a0, lo.x, v, w);
            a1 = attn_accumulate_eight(a1, lo.y, v, w);
            a2 = attn_accumulate_eight(a2, lo.z, v, w);
            a3 = attn_accumulate_eight(a3, lo.w, v, w);
            a4 = attn_accumulate_eight(a4, hi.x, v, w);
            a5 = attn_accumulate_eight(a5, hi.y, v, w);
            a6 = attn_accumulate_eight(a6, hi.z, v, w);
            a7 = attn_accumulate_eight(a7, hi.w, v, w);
        }
        if first_vec8 + invocation < KV_VEC8S {
            // An opaque loop: a software driver compiles the stores once.
            var sums = array<Vec8, 8>(a0, a1, a2, a3, a4, a5, a6, a7);
            for (var query = zero; query < 8u; query += 1u) {
                attn_store(query, i, sums[query]);
            }
        }
    }
}
