// y = act(gate) * up, element by element.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let i = tile.x * WG + invocation;
    if i < p.n {
        let at = tile.y * p.n + i;
        let gu = gate_and_up(tile.y, i);
        y[at] = gated(gu.x, gu.y);
    }
}

fn gate_and_up(row: u32, i: u32) -> vec2<f32> {
    let at = row * p.n + i;
    if INTERLEAVED {
        return vec2<f32>(x[2u * at], x[2u * at + 1u]);
    }
    return vec2<f32>(y[at], x[at]);
}
