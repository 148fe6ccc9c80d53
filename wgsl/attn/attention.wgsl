// Causal attention of one query head at one token, a workgroup each, over a cache of [2][kv_heads][capacity][HEAD_DIM].
// WG keys at a time: an invocation scores a key, then gathers a pair of the output's elements; the softmax is rescaled as
// its maximum grows (Milakov and Gimelshein 2018, arXiv:1805.02867).
var<workgroup> query: array<f32, HEAD_DIM>;
var<workgroup> weight: array<f32, WG>;

const PAIRS = HEAD_DIM / 2u;
const LOWEST = -1e30;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let head = tile.x;
    let token = tile.y;
    let out_head = (token * p.heads + head) * HEAD_DIM;
    let kv_head = head / p.group;
    let keys = kv_head * p.capacity;
    let values = (p.kv_heads + kv_head) * p.capacity;
    let context = min(positions[token], p.capacity - 1u) + 1u;
    for (var i = invocation; i < HEAD_DIM; i += WG) {
        query[i] = q[out_head + i] * p.scale;
    }
    workgroupBarrier();

    var largest = LOWEST;
    var mass = 0.0;
    var sum = vec2<f32>(0.0);
    for (var base = 0u; base < context; base += WG) {
        let key = base + invocation;
        var score = LOWEST;
        if key < context {
            let at = (keys + key) * PAIRS;
            var even = 0.0;
            var odd = 0.0;
            for (var i = 0u; i < PAIRS; i += 1u) {
                let k = kv_load(at + i);
                even += query[2u * i] * k.x;
                odd += query[2u * i + 1u] * k.y;
            }
            score = even + odd;
        }
        let grown = max(largest, wg_max(score, invocation));
        let mine = select(0.0, exp(score - grown), key < context);
        weight[invocation] = mine;
        let shrink = exp(largest - grown);
        // Also the barrier that weight needs.
        mass = mass * shrink + wg_sum(mine, invocation);
        largest = grown;
        if invocation < PAIRS {
            sum *= shrink;
            let count = min(WG, context - base);
            for (var i = 0u; i < count; i += 1u) {
                sum += weight[i] * kv_load((values + base + i) * PAIRS + invocation);
            }
        }
        workgroupBarrier();
    }
    if invocation < PAIRS {
        let at = out_head + 2u * invocation;
        y[at] = sum.x / mass;
        y[at + 1u] = sum.y / mass;
    }
}
