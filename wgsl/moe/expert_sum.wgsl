// Returns element `i` of a token's sum over its experts, from expert `first` of the token on in order, of weight * output.
fn moe_expert_sum(token: u32, i: u32, first: u32) -> f32 {
    let assignment = token * p.top_k;
    var sum = 0.0;
    for (var expert = first; expert < p.top_k; expert += 1u) {
        sum += weights[assignment + expert] * outputs[(assignment + expert) * p.n + i];
    }
    return sum;
}
