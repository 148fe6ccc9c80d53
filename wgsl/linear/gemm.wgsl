// Y = X Wᵀ for many rows: a workgroup multiplies 64 weight rows with a tile of TILE_M = 32 or 64 rows of activations. Tiles of
// 32 along k are decoded into workgroup memory, k-major, as what the slot `tile` says, and multiplied as the slot `mma` does.
const TILE_N = 64u;

var<workgroup> weights: array<TileValue, 32u * TILE_N>; // [32][TILE_N]
var<workgroup> inputs: array<TileValue, 32u * TILE_M>;  // [32][TILE_M]

fn store_weights(k: u32, row: u32, values: vec4<f32>) {
    let at = k * TILE_N + row;
    let value = tile_values(values);
    weights[at] = value.x;
    weights[at + TILE_N] = value.y;
    weights[at + 2u * TILE_N] = value.z;
    weights[at + 3u * TILE_N] = value.w;
}

fn store_inputs(k: u32, row: u32, values: vec4<f32>) {
    let at = k * TILE_M + row;
    let value = tile_values(values);
    inputs[at] = value.x;
    inputs[at + TILE_M] = value.y;
    inputs[at + 2u * TILE_M] = value.z;
    inputs[at + 3u * TILE_M] = value.w;
}

// Copies a run of activations of a unit, of the row of the tile that starts at vec4 `input_row`.
fn copy_run(unit: u32, run: u32, row: u32, input_row: u32) {
    let runs = q_runs(unit);
    let k = select(runs.x, runs.y, run == 1u);
    let to = run * 16u;
    store_inputs(to, row, in_vec4(input_row, k));
    store_inputs(to + 4u, row, in_vec4(input_row, k + 4u));
    store_inputs(to + 8u, row, in_vec4(input_row, k + 8u));
    store_inputs(to + 12u, row, in_vec4(input_row, k + 12u));
}

// Stores what four neighbouring weight rows gave for row `row` of a tile that ends at `end`.
fn finish(row: u32, end: u32, weight: u32, total: vec4<f32>) {
    if row >= end {
        return;
    }
    let at = tile_output(row) * p.y_stride + p.y_offset;
    if GATED {
        let out = weight >> 1u;
        if out < p.n {
            y[at + out] = silu(total.x) * total.y;
        }
        if out + 1u < p.n {
            y[at + out + 1u] = silu(total.z) * total.w;
        }
        return;
    }
    let totals = array<f32, 4>(total.x, total.y, total.z, total.w);
    for (var i = 0u; i < 4u; i += 1u) {
        if weight + i < p.n {
            if ACCUMULATE {
                y[at + weight + i] += totals[i];
            } else {
                y[at + weight + i] = totals[i];
            }
        }
    }
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let first_row = tile_first(tile.y);
    let end = tile_end(tile.y);
    if first_row >= end {
        return;
    }
    let first_weight = tile.x * TILE_N;
    // Half of the invocations decode a unit of weights each, the others copy a run of activations of each 32 rows.
    let decodes = invocation < TILE_N;
    let decode_row = tile_first_weight(tile.y) + min(first_weight + (invocation & (TILE_N - 1u)), p.matrix_rows - 1u);
    let decode_unit = decode_row * p.row_units;
    let copy_row = (invocation & 63u) >> 1u;
    let run = invocation & 1u;
    let input_row = tile_input(min(first_row + copy_row, end - 1u)) * (p.k >> 2u);
    let next_input_row = tile_input(min(first_row + copy_row + 32u, end - 1u)) * (p.k >> 2u);
    mma_zero(invocation);
    for (var unit = grid_zero(workgroup); unit < p.row_units; unit += 1u) {
        if decodes {
            let u = q_unit(decode_unit + unit, p.units);
            let scale = vec2<f32>(u.scale.x, u.scale.y);
            store_weights(0u, invocation, u.q[0] * scale.x + vec4<f32>(u.offset.x));
            store_weights(4u, invocation, u.q[1] * scale.x + vec4<f32>(u.offset.x));
            store_weights(8u, invocation, u.q[2] * scale.x + vec4<f32>(u.offset.x));
            store_weights(12u, invocation, u.q[3] * scale.x + vec4<f32>(u.offset.x));
            store_weights(16u, invocation, u.q[4] * scale.y + vec4<f32>(u.offset.y));
            store_weights(20u, invocation, u.q[5] * scale.y + vec4<f32>(u.offset.y));
            store_weights(24u, invocation, u.q[6] * scale.y + vec4<f32>(u.offset.y));
            store_weights(28u, invocation, u.q[7] * scale.y + vec4<f32>(u.offset.y));
        } else {
            copy_run(unit, run, copy_row, input_row);
            if TILE_M > 32u {
                copy_run(unit, run, copy_row + 32u, next_input_row);
            }
        }
        workgroupBarrier();
        mma_add(invocation);
        workgroupBarrier();
    }
    mma_finish(first_row, end, first_weight, invocation);
}
