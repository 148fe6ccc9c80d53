fn kv_store(pair: u32, value: vec2<f32>) {
    kv[2u * pair] = bitcast<u32>(value.x);
    kv[2u * pair + 1u] = bitcast<u32>(value.y);
}
