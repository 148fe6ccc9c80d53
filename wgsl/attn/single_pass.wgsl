// Attention of a tile to all keys that it sees, in one pass of FlashAttention-2 (Dao 2023): chunk by chunk, the sums
// rescaled by online softmax. y holds the sums until the last chunk divides them.

// For each half, of its four queries: the row maxima and sums of weights so far, the factors of the sums so far, and
// those of the chunk's.
var<workgroup> single_max: array<vec4<f32>, 2>;
var<workgroup> single_sum: array<vec4<f32>, 2>;
var<workgroup> single_rescale: array<vec4<f32>, 2>;
var<workgroup> single_chunk_rescale: array<vec4<f32>, 2>;

var<private> single_first: bool;
var<private> single_last: bool;

fn attn_have_max(half: u32, chunk_max: vec4<f32>) {
    let old_max = select(single_max[half], sink_logits(attn_head[half]), single_first);
    let new_max = max(old_max, chunk_max);
    single_max[half] = new_max;
    single_rescale[half] = softmax_rescale(old_max, new_max);
    single_chunk_rescale[half] = softmax_rescale(chunk_max, new_max);
}

fn attn_have_sum(half: u32, chunk_sum: vec4<f32>) {
    let old_sum = select(single_sum[half], vec4<f32>(SINK_WEIGHT), single_first);
    single_sum[half] = old_sum * single_rescale[half] + chunk_sum * single_chunk_rescale[half];
}

fn attn_store(half: u32, query: u32, i: u32, values: vec4<f32>) {
    if attn_end[half][query] == 0u {
        return;
    }
    let at = attn_head[half][query] * (HEAD_DIM / 4u) + i;
    var before = vec4<f32>(0.0);
    if !single_first {
        before = y[at];
    }
    let sum = before * single_rescale[half][query] + values * single_chunk_rescale[half][query];
    y[at] = select(sum, attn_output(at, sum / single_sum[half][query]), single_last);
}

fn single_attention(tile: AttnTile, zero: u32, invocation: u32) {
    var row = tile.rows.x;
    loop {
        let run = attn_run(tile, row, 0xffffffffu);
        attn_find_queries(tile, run, 0xffffffffu, invocation);
        workgroupBarrier();
        let first = run.keys.x / CHUNK;
        for (var chunk = first; chunk * CHUNK < run.keys.y; chunk += 1u) {
            single_first = chunk == first;
            single_last = (chunk + 1u) * CHUNK >= run.keys.y;
            attn_chunk(tile, run, softmax_chunk(run.keys, chunk), chunk, zero, invocation);
        }
        row = run.rows.y;
        if ONE_ROW || row >= tile.rows.y {
            break;
        }
    }
}
