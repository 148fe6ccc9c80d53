// Samples from a row's candidates, a workgroup per row: temperature, top-k, top-p (nucleus), min-p and XTC. Weights are computed
// in parallel; one invocation does what depends on their order.
const KEPT = 64u;

var<workgroup> weight: array<f32, KEPT>;

fn draw(row: u32, sequence: u32) -> u32 {
    let first = row * KEPT;
    let cut = cuts[2u * sequence];
    if candidates[first].x == 0u {
        return NO_TOKEN;
    }
    if cut.x == 0.0 {
        return candidates[first].y;
    }
    let most = select(KEPT, min(u32(cut.y), KEPT), cut.y >= 1.0);
    var count = 0u;
    var mass = 0.0;
    while count < most && candidates[first + count].y != NO_TOKEN {
        mass += weight[count];
        count += 1u;
    }
    if cut.z < 1.0 {
        let enough = cut.z * mass;
        let all = count;
        count = 0u;
        var reached = 0.0;
        while count < all && (count == 0u || reached < enough) {
            reached += weight[count];
            count += 1u;
        }
    }
    // Weights descend from one, so that min-p drops the last ones.
    while count > 1u && weight[count - 1u] < cut.w {
        count -= 1u;
    }
    mass = 0.0;
    for (var i = 0u; i < count; i += 1u) {
        mass += weight[i];
    }
    let state = draws[sequence];
    draws[sequence] = draw_next(state);
    // XTC: of the tokens that are likely enough, the last stays.
    let xtc = cuts[2u * sequence + 1u];
    var drawn = 0u;
    if xtc.y <= 0.5 && draw_second_number(state) < xtc.x {
        let least = xtc.y * mass;
        while drawn + 1u < count && weight[drawn + 1u] >= least {
            drawn += 1u;
        }
        mass = 0.0;
        for (var i = drawn; i < count; i += 1u) {
            mass += weight[i];
        }
    }
    let drawn_mass = draw_number(state) * mass;
    var reached = weight[drawn];
    while drawn + 1u < count && drawn_mass >= reached {
        drawn += 1u;
        reached += weight[drawn];
    }
    return candidates[first + drawn].y;
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let row = grid_id(workgroup).x;
    let sequence = pick_sequence(row);
    let mine = candidates[row * KEPT + invocation].x;
    let best = candidates[row * KEPT].x;
    let temperature = max(cuts[2u * sequence].x, 1e-30);
    // Beyond 100 the weight is zero in f32. Without the limit the quotient could be infinite.
    let below = max(order_logit(mine) - order_logit(best), -100.0 * temperature);
    weight[invocation] = select(exp(below / temperature), 1.0, invocation == 0u);
    workgroupBarrier();
    if invocation == 0u {
        let id = draw(row, sequence);
        ids[sequence] = id;
        count_token(sequence, id);
    }
}
