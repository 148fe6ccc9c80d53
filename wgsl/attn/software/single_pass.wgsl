// Attention of a tile to all keys that it sees, in one pass of FlashAttention-2 (Dao 2023): chunk by chunk, the sums
// rescaled by online softmax. y holds the sums until the last chunk divides them.

// How a chunk's values are added for four queries.
struct SingleStore {
    head: vec4<u32>,
    enabled: vec4<bool>,
    // The factors of the sums so far and of the chunk's.
    rescale: vec4<f32>,
    chunk_rescale: vec4<f32>,
    exp_sum: vec4<f32>,
}

var<private> single_lo: SingleStore;
var<private> single_hi: SingleStore;
var<private> single_first: bool;
var<private> single_last: bool;

// The number of query `query` of eight.
fn single_pick(lo: vec4<f32>, hi: vec4<f32>, query: u32) -> f32 {
    let quad = select(lo, hi, query >= 4u);
    let pair = select(quad.xy, quad.zw, (query & 2u) != 0u);
    return select(pair.x, pair.y, (query & 1u) != 0u);
}

fn attn_store(query: u32, i: u32, values: Vec8) {
    let heads = select(single_lo.head, single_hi.head, query >= 4u);
    let enabled = select(single_lo.enabled, single_hi.enabled, query >= 4u);
    let two_heads = select(heads.xy, heads.zw, (query & 2u) != 0u);
    let two_enabled = select(enabled.xy, enabled.zw, (query & 2u) != 0u);
    if !select(two_enabled.x, two_enabled.y, (query & 1u) != 0u) {
        return;
    }
    let rescale = single_pick(single_lo.rescale, single_hi.rescale, query);
    let chunk_rescale = single_pick(single_lo.chunk_rescale, single_hi.chunk_rescale, query);
    let exp_sum = single_pick(single_lo.exp_sum, single_hi.exp_sum, query);
    let at = select(two_heads.x, two_heads.y, (query & 1u) != 0u) * (HEAD_DIM / 4u) + 2u * i;
    single_add(at, rescale, values.a * chunk_rescale, exp_sum);
    if 2u * i + 1u < HEAD_DIM / 4u {
        single_add(at + 1u, rescale, values.b * chunk_rescale, exp_sum);
    }
}

fn single_add(at: u32, rescale: f32, values: vec4<f32>, exp_sum: f32) {
    let sum = select(y[at], vec4<f32>(0.0), single_first) * rescale + values;
    y[at] = select(sum, attn_output(at, sum / exp_sum), single_last);
}

fn single_attention(tile: AttnTile, zero: u32, invocation: u32) {
    var left_lo = tile.lo.valid;
    var left_hi = tile.hi.valid;
    while any(left_lo) || any(left_hi) {
        let range = attn_kv_range(tile, left_lo, left_hi, 0xffffffffu);
        left_lo &= !attn_active_mask(range.lo);
        left_hi &= !attn_active_mask(range.hi);
        var row_max = PerQuery(sink_logits(tile.lo.head), sink_logits(tile.hi.head));
        var exp_sum = PerQuery(vec4<f32>(SINK_WEIGHT), vec4<f32>(SINK_WEIGHT));
        let first = range.keys.x / CHUNK;
        for (var chunk = first; chunk * CHUNK < range.keys.y; chunk += 1u) {
            let keys = softmax_chunk(range.keys, chunk);
            let chunk_max = attn_scores(tile, range, keys, zero, invocation);
            let chunk_sum = attn_weigh(range, keys, chunk_max, zero, invocation);
            let new_max = PerQuery(max(row_max.lo, chunk_max.lo), max(row_max.hi, chunk_max.hi));
            single_lo.rescale = softmax_rescale(row_max.lo, new_max.lo);
            single_hi.rescale = softmax_rescale(row_max.hi, new_max.hi);
            single_lo.chunk_rescale = softmax_rescale(chunk_max.lo, new_max.lo);
            single_hi.chunk_rescale = softmax_rescale(chunk_max.hi, new_max.hi);
            exp_sum.lo = exp_sum.lo * single_lo.rescale + chunk_sum.lo * single_lo.chunk_rescale;
            exp_sum.hi = exp_sum.hi * single_hi.rescale + chunk_sum.hi * single_hi.chunk_rescale;
            row_max = new_max;
            single_lo.head = tile.lo.head;
            single_hi.head = tile.hi.head;
            single_lo.enabled = attn_active_mask(range.lo);
            single_hi.enabled = attn_active_mask(range.hi);
            single_lo.exp_sum = exp_sum.lo;
            single_hi.exp_sum = exp_sum.hi;
            single_first = chunk == first;
            single_last = (chunk + 1u) * CHUNK >= range.keys.y;
            attn_values(keys, zero, invocation);
        }
    }
}
