// Attention of one query head of a row to some of its keys, by a workgroup. WG keys at a time: an invocation scores a
// key, then gathers a pair of the output's elements; sums are rescaled as the maximum grows (Milakov and Gimelshein
// 2018, arXiv:1805.02867).
var<workgroup> scan_query: array<f32, HEAD_DIM>;
var<workgroup> scan_weight: array<f32, WG>;
// Where the keys are, so that a block is looked up once for all of a head's elements.
var<workgroup> scan_key: array<u32, WG>;

// Their sums, the values' those of the pair that is this invocation's.
fn scan_keys(row: u32, head: u32, seen: vec2<u32>, invocation: u32) -> Sums {
    let kv_head = head / p.group;
    let to_values = kv_values();
    let my_run = invocation / KV_RUN;
    for (var i = invocation; i < HEAD_DIM; i += WG) {
        scan_query[i] = q[(row * p.heads + head) * HEAD_DIM + i] * p.scale;
    }
    workgroupBarrier();

    var scan = sums_of_nothing();
    for (var base = seen.x; base < seen.y; base += WG) {
        let position = base + invocation;
        var score = LOWEST;
        if position < seen.y {
            let key = kv_key(row, kv_head, position);
            scan_key[invocation] = key;
            score = 0.0;
            for (var run = 0u; run * KV_RUN < PAIRS; run += 1u) {
                var even = 0.0;
                var odd = 0.0;
                for (var i = run * KV_RUN; i < min((run + 1u) * KV_RUN, PAIRS); i += 1u) {
                    let k = kv_codes(key, i);
                    even += scan_query[2u * i] * k.x;
                    odd += scan_query[2u * i + 1u] * k.y;
                }
                score += kv_scale(key, run) * (even + odd);
            }
        }
        let grown = max(scan.largest, wg_max(score, invocation));
        let mine = select(0.0, exp(score - grown), position < seen.y);
        scan_weight[invocation] = mine;
        let shrink = exp(scan.largest - grown);
        // Also the barrier that keys and weights need.
        scan.mass = scan.mass * shrink + wg_sum(mine, invocation);
        scan.largest = grown;
        if invocation < PAIRS {
            scan.values *= shrink;
            let count = min(WG, seen.y - base);
            for (var i = 0u; i < count; i += 1u) {
                let value = scan_key[i] + to_values;
                scan.values += scan_weight[i] * kv_scale(value, my_run) * kv_codes(value, invocation);
            }
        }
        workgroupBarrier();
    }
    return scan;
}
