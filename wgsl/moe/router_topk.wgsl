// The `top_k` largest logits of a token and their softmax weights, a workgroup per token. The rank of a logit is the number of
// larger logits and of equal logits of lower experts. A shared expert is the last of each token.
const MAX_EXPERTS = 512u;
const MAX_K = 32u;

var<workgroup> logit: array<f32, MAX_EXPERTS>;
var<workgroup> chosen: array<f32, MAX_K>;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let token = grid_id(workgroup).x;
    let first_logit = token * (p.experts + u32(GATED));
    let first = token * (p.top_k + u32(SHARED));
    let zero = opaque_zero(workgroup);
    for (var e = invocation; e < p.experts; e += WG) {
        let bits = bitcast<u32>(logits[first_logit + e]);
        // A NaN has no rank, so that it counts as the lowest float. The test uses bits, because a compiler may assume no NaN.
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
        if rank < p.top_k {
            ids[first + rank] = e;
            chosen[rank] = mine;
        }
    }
    workgroupBarrier();
    let largest = chosen[0];
    var exp_sum = 0.0;
    if NORMALISE {
        for (var i = zero; i < p.top_k; i += 1u) {
            exp_sum += exp(chosen[i] - largest);
        }
    } else {
        for (var e = zero; e < p.experts; e += 1u) {
            exp_sum += exp(logit[e] - largest);
        }
    }
    if invocation < p.top_k {
        weights[first + invocation] = p.scale * (exp(chosen[invocation] - largest) / exp_sum);
    }
    if SHARED && invocation == 0u {
        var gate = 1.0;
        if GATED {
            gate = 1.0 / (1.0 + exp(clamp(-logits[first_logit + p.experts], -80.0, 80.0)));
        }
        ids[first + p.top_k] = p.experts;
        weights[first + p.top_k] = p.scale * gate;
    }
}
