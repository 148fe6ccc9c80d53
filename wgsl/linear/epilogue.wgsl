// Epilogue: stores the dot products of weight rows with one row of activations. The outputs of that row start at `out_row`.
// `p.epilogue` is 0 to store, or one of these. Each output has one store: a software driver executes both sides of a branch.
const ACCUMULATE = 1u;
const GATE = 2u;

// Stores output `out`.
fn store_output(out_row: u32, out: u32, product: f32) {
    if out < p.n {
        var value = product;
        if p.epilogue == ACCUMULATE {
            value += y[out_row + out];
        }
        y[out_row + out] = value;
    }
}

// Returns the output of a gate row and its up row from their products.
fn gated(gate: f32, up: f32) -> f32 {
    return silu(gate) * up;
}

// Stores the outputs of four weight rows from row `row` on, a multiple of 4.
fn store_output4(out_row: u32, row: u32, products: vec4<f32>) {
    let gate = p.epilogue == GATE;
    let out = select(row, row >> 1u, gate);
    store_output(out_row, out, select(products.x, gated(products.x, products.y), gate));
    store_output(out_row, out + 1u, select(products.y, gated(products.z, products.w), gate));
    if !gate {
        store_output(out_row, out + 2u, products.z);
        store_output(out_row, out + 3u, products.w);
    }
}
