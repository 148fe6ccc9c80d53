// Block pairs[j].y of a pool = block pairs[j].x of it.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let i = tile.x * WG + invocation;
    if i < p.words {
        let pair = min(pairs[tile.y], vec2<u32>(p.blocks - 1u));
        kv[pair.y * p.words + i] = kv[pair.x * p.words + i];
    }
}
