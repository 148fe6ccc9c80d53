fn keep(tile: vec2<u32>, candidate: vec2<u32>) {
    best[tile.y * ((p.n + ITEMS - 1u) / ITEMS) + tile.x] = candidate;
}
