// The `k` largest logits of a token and their softmax weights, a workgroup a token. Each logit's rank is counted: larger
// logits, and equal ones of lower experts, come before it.
const MAX_EXPERTS = 512u;
const MAX_K = 32u;

var<workgroup> logit: array<f32, MAX_EXPERTS>;
var<workgroup> chosen: array<f32, MAX_K>;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let token = grid_id(workgroup).x;
    let zero = grid_zero(workgroup);
    for (var e = invocation; e < p.experts; e += WG) {
        let bits = bitcast<u32>(logits[token * p.experts + e]);
        // A NaN would have no rank: by its bits, since a compiler may assume that there is none.
        let is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
        logit[e] = bitcast<f32>(select(bits, 0xff7fffffu, is_nan));
    }
    workgroupBarrier();
    for (var e = invocation; e < p.experts; e += WG) {
        let mine = logit[e];
        var rank = 0u;
        for (var other = zero; other < p.experts; other += 1u) {
            let theirs = logit[other];
            rank += select(0u, 1u, theirs > mine || (theirs == mine && other < e));
        }
        if rank < p.k {
            ids[token * p.k + rank] = e;
            chosen[rank] = mine;
        }
    }
    workgroupBarrier();
    let largest = chosen[0];
    var mass = 0.0;
    if NORMALISE {
        for (var i = zero; i < p.k; i += 1u) {
            mass += exp(chosen[i] - largest);
        }
    } else {
        for (var e = zero; e < p.experts; e += 1u) {
            mass += exp(logit[e] - largest);
        }
    }
    if invocation < p.k {
        weights[token * p.k + invocation] = exp(chosen[invocation] - largest) / mass;
    }
}
