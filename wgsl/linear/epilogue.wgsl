// Epilogue: stores the dot products of weight rows with one row of activations. The outputs of that row start at `out_row`.
// `p.epilogue` is 0 to store, or one of these.
const ACCUMULATE = 1u;
const GATE = 2u;

// Stores output `out`.
fn store_output(out_row: u32, out: u32, product: f32) {
    if out < p.n {
        if p.epilogue == ACCUMULATE {
            y[out_row + out] += product;
        } else {
            y[out_row + out] = product;
        }
    }
}

// Stores output `out` from the products of its gate row and its up row.
fn store_gated(out_row: u32, out: u32, gate: f32, up: f32) {
    if out < p.n {
        y[out_row + out] = silu(gate) * up;
    }
}

// Stores the outputs of four weight rows from row `row` on, a multiple of 4.
fn store_output4(out_row: u32, row: u32, products: vec4<f32>) {
    if p.epilogue == GATE {
        store_gated(out_row, row >> 1u, products.x, products.y);
        store_gated(out_row, (row >> 1u) + 1u, products.z, products.w);
    } else {
        store_output(out_row, row, products.x);
        store_output(out_row, row + 1u, products.y);
        store_output(out_row, row + 2u, products.z);
        store_output(out_row, row + 3u, products.w);
    }
}
