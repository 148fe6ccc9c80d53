// What becomes of the products of weight rows with a row of activations, whose outputs start at `out_row`.

// Output `out` from its weight row's product.
fn put(out_row: u32, out: u32, product: f32) {
    if out < p.n {
        if ACCUMULATE {
            y[out_row + out] += product;
        } else {
            y[out_row + out] = product;
        }
    }
}

// Output `out` from the products of its gate and its value.
fn put_gated(out_row: u32, out: u32, gate: f32, value: f32) {
    if out < p.n {
        y[out_row + out] = silu(gate) * value;
    }
}

// The outputs of four weight rows from row `row` on, a multiple of 4.
fn put_four(out_row: u32, row: u32, products: vec4<f32>) {
    if GATED {
        put_gated(out_row, row >> 1u, products.x, products.y);
        put_gated(out_row, (row >> 1u) + 1u, products.z, products.w);
    } else {
        put(out_row, row, products.x);
        put(out_row, row + 1u, products.y);
        put(out_row, row + 2u, products.z);
        put(out_row, row + 3u, products.w);
    }
}
