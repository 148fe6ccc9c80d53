// Element `i` of a token's sum over its experts, from slot `first` on in order, of their weight times their output.
fn moe_weighted(token: u32, i: u32, first: u32) -> f32 {
    let pair = token * p.k;
    var sum = 0.0;
    for (var slot = first; slot < p.k; slot += 1u) {
        sum += weights[pair + slot] * outputs[(pair + slot) * p.n + i];
    }
    return sum;
}
