// Copies block copies[j].x of a pool to block copies[j].y.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let i = tile.x * WG + invocation;
    if i < p.words {
        let blocks = min(copies[tile.y], vec2<u32>(p.blocks - 1u));
        kv[blocks.y * p.words + i] = kv[blocks.x * p.words + i];
    }
}
