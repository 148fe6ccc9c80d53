// Epilogue: stores the dot products of weight rows with one row of activations. The outputs of that row start at `out_row`.
// `p.epilogue` is 0 to store, or one of these. Each output has one store: a software driver executes both sides of a branch.
const ACCUMULATE = 1u;
const GATE = 2u;
const GATE_GELU = 3u;

fn is_gated() -> bool {
    return p.epilogue == GATE || p.epilogue == GATE_GELU;
}

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

// Returns the output of a gate row and its up row from their products: SwiGLU, or GeGLU with the approximation by the
// hyperbolic tangent (0.5 * (1 + tanh(z)) is 1 / (1 + e^-2z)). Both have one exponential. Beyond 80 it would overflow.
fn gated(gate: f32, up: f32) -> f32 {
    let gelu = 1.5957691216 * gate * (1.0 + 0.044715 * gate * gate);
    let z = select(gate, gelu, p.epilogue == GATE_GELU);
    return gate / (1.0 + exp(min(-z, 80.0))) * up;
}

// Stores the outputs of four weight rows from row `row` on, a multiple of 4.
fn store_output4(out_row: u32, row: u32, products: vec4<f32>) {
    let gate = is_gated();
    let out = select(row, row >> 1u, gate);
    store_output(out_row, out, select(products.x, gated(products.x, products.y), gate));
    store_output(out_row, out + 1u, select(products.y, gated(products.z, products.w), gate));
    if !gate {
        store_output(out_row, out + 2u, products.z);
        store_output(out_row, out + 3u, products.w);
    }
}
