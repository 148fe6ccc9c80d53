// y[t] += the weighted sum of W x of a token's experts: a workgroup has 8 groups of weight rows of each expert in turn,
// as linear/gemv has of one. Up to 8 experts' lanes are in workgroup memory at once.
const TILE = WG / LANES * GROUP;
const COLUMNS = 8u;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let lane = invocation % LANES;
    let group = (invocation / LANES) * GROUP;
    let pair = tile.y * p.share;
    var total = 0.0;
    for (var slots = grid_zero(workgroup); slots < p.share; slots += COLUMNS) {
        let end = min(slots + COLUMNS, p.share);
        for (var slot = slots; slot < end; slot += 1u) {
            let first = min(ids[pair + slot], p.experts - 1u) * p.n;
            let sum = lanes_group(first, tile.x * TILE + group, lane, (pair + slot) * (p.k >> 2u));
            lanes_keep(group, lane, slot - slots, sum);
        }
        workgroupBarrier();
        if invocation < TILE {
            for (var slot = slots; slot < end; slot += 1u) {
                total += weights[pair + slot] * lanes_total(invocation, slot - slots);
            }
        }
        workgroupBarrier();
    }
    if invocation < TILE {
        put(tile.y * p.n, tile.x * TILE + invocation, total);
    }
}
