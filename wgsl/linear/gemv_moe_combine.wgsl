// Down projection with the MoE combine: y[t] += sum over a token's experts of weight * W x. A workgroup multiplies 8 groups
// of weight rows of each expert in turn, as linear/gemv does for one. Partial sums of up to 8 experts are in workgroup
// memory at once.
const TILE_N = WG / LANES * ROWS_PER_GROUP;
const BATCH = 8u;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let lane = invocation % LANES;
    let group_row = (invocation / LANES) * ROWS_PER_GROUP;
    let first_assignment = tile.y * p.top_k;
    var total = 0.0;
    for (var start = opaque_zero(workgroup); start < p.top_k; start += BATCH) {
        let end = min(start + BATCH, p.top_k);
        for (var i = start; i < end; i += 1u) {
            let first = min(ids[first_assignment + i], p.experts - 1u) * p.n;
            let sum = k_split_sums(first, tile.x * TILE_N + group_row, lane, (first_assignment + i) * (p.k >> 2u));
            store_partial(group_row, lane, i - start, sum);
        }
        workgroupBarrier();
        if invocation < TILE_N {
            for (var i = start; i < end; i += 1u) {
                total += weights[first_assignment + i] * reduce_partials(invocation, i - start);
            }
        }
        workgroupBarrier();
    }
    if invocation < TILE_N {
        add_output(tile.y * p.n, tile.x * TILE_N + invocation, total);
    }
}
