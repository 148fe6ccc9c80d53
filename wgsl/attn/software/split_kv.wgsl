// Attention of a tile to one chunk of its keys (Flash-Decoding, Dao et al. 2023): partial sums, which attention_reduce
// combines.

// The starts of the queries' partial sums; NOWHERE for queries that see nothing of the chunk.
const NOWHERE = 0xffffffffu;
var<private> split_lo: vec4<u32>;
var<private> split_hi: vec4<u32>;

fn attn_store(query: u32, i: u32, values: Vec8) {
    let quad = select(split_lo, split_hi, query >= 4u);
    let pair = select(quad.xy, quad.zw, (query & 2u) != 0u);
    let partial = select(pair.x, pair.y, (query & 1u) != 0u);
    if partial != NOWHERE {
        partials[partial + 2u * i] = values.a;
        if 2u * i + 1u < HEAD_DIM / 4u {
            partials[partial + 2u * i + 1u] = values.b;
        }
    }
}

fn split_partials(quad: QueryQuad, visible: VisibleKeys, keys: vec2<u32>, chunk: u32) -> vec4<u32> {
    let sees = max(visible.first, vec4<u32>(keys.x)) < min(visible.end, vec4<u32>(keys.y));
    // NOWHERE by arithmetic: GLSL ES has no componentwise select of integers.
    return ((quad.head * p.chunks + chunk) * PARTIAL_VEC4S) | (vec4<u32>(sees) - 1u);
}

fn split_store_stats(partial: vec4<u32>, row_max: vec4<f32>, exp_sum: vec4<f32>) {
    split_store_stat(partial.x, row_max.x, exp_sum.x);
    split_store_stat(partial.y, row_max.y, exp_sum.y);
    split_store_stat(partial.z, row_max.z, exp_sum.z);
    split_store_stat(partial.w, row_max.w, exp_sum.w);
}

fn split_store_stat(partial: u32, row_max: f32, exp_sum: f32) {
    if partial != NOWHERE {
        partials[partial + HEAD_DIM / 4u] = vec4<f32>(row_max, exp_sum, 0.0, 0.0);
    }
}

fn split_attention(tile: AttnTile, chunk: u32, zero: u32, invocation: u32) {
    var left_lo = tile.lo.valid;
    var left_hi = tile.hi.valid;
    while any(left_lo) || any(left_hi) {
        let range = attn_kv_range(tile, left_lo, left_hi, p.chunks * CHUNK);
        left_lo &= !attn_active_mask(range.lo);
        left_hi &= !attn_active_mask(range.hi);
        let keys = softmax_chunk(range.keys, chunk);
        if keys.x < keys.y {
            let row_max = attn_scores(tile, range, keys, zero, invocation);
            let exp_sum = attn_weigh(range, keys, row_max, zero, invocation);
            split_lo = split_partials(tile.lo, range.lo, keys, chunk);
            split_hi = split_partials(tile.hi, range.hi, keys, chunk);
            attn_values(keys, zero, invocation);
            if invocation == 0u {
                split_store_stats(split_lo, row_max.lo, exp_sum.lo);
                split_store_stats(split_hi, row_max.hi, exp_sum.hi);
            }
        }
    }
}
