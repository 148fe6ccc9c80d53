fn kv_packed(i: u32) -> vec4<u32> {
    return bitcast<vec4<u32>>(kv_four(i));
}
