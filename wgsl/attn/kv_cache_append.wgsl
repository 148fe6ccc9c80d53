// Keys and values of tokens, head by head, to their slots of the cache, a workgroup a head of a token.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let key = kv_key(tile.y, tile.x, kv_position(tile.y)) * (HEAD_DIM / 2u);
    let value = key + kv_values() * (HEAD_DIM / 2u);
    let from_head = (tile.x * p.rows + tile.y) * HEAD_DIM;
    for (var i = invocation; i < HEAD_DIM / 2u; i += WG) {
        let at = from_head + 2u * i;
        kv_store(key + i, vec2<f32>(k[at], k[at + 1u]));
        kv_store(value + i, vec2<f32>(v[at], v[at + 1u]));
    }
}
