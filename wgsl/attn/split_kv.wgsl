// Attention of a tile to one chunk of its keys (Flash-Decoding, Dao et al. 2023): partial sums, which attention_reduce
// combines.

// The chunk, and its keys that a run sees.
var<private> split_chunk: u32;
var<private> split_keys: vec2<u32>;

// The start of a query's partial sums.
fn split_partials(half: u32, query: u32) -> u32 {
    return (attn_head[half][query] * p.chunks + split_chunk) * PARTIAL_VEC4S;
}

fn split_sees(half: u32, query: u32) -> bool {
    return max(attn_first[half][query], split_keys.x) < min(attn_end[half][query], split_keys.y);
}

fn attn_have_max(half: u32, chunk_max: vec4<f32>) {
}

fn attn_have_sum(half: u32, chunk_sum: vec4<f32>) {
    split_store_stats(half, 0u, chunk_sum.x);
    split_store_stats(half, 1u, chunk_sum.y);
    split_store_stats(half, 2u, chunk_sum.z);
    split_store_stats(half, 3u, chunk_sum.w);
}

fn split_store_stats(half: u32, query: u32, exp_sum: f32) {
    if split_sees(half, query) {
        let stats = vec4<f32>(attn_chunk_max[half][query], exp_sum, 0.0, 0.0);
        partials[split_partials(half, query) + HEAD_DIM / 4u] = stats;
    }
}

fn attn_store(half: u32, query: u32, i: u32, values: vec4<f32>) {
    if split_sees(half, query) {
        partials[split_partials(half, query) + i] = values;
    }
}

fn split_attention(tile: AttnTile, chunk: u32, zero: u32, invocation: u32) {
    split_chunk = chunk;
    var row = tile.rows.x;
    loop {
        let run = attn_run(tile, row, p.chunks * CHUNK);
        row = run.rows.y;
        let keys = softmax_chunk(run.keys, chunk);
        if keys.x < keys.y {
            split_keys = keys;
            attn_find_queries(tile, run, p.chunks * CHUNK, invocation);
            workgroupBarrier();
            attn_chunk(tile, run, keys, chunk, zero, invocation);
        }
        if ONE_ROW || row >= tile.rows.y {
            break;
        }
    }
}
