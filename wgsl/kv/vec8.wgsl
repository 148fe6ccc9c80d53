// Elements 8 * i to 8 * i + 7 of a head. Those beyond the head's end are zeros, whatever is stored there.
struct Vec8 {
    a: vec4<f32>,
    b: vec4<f32>,
}

const KV_VEC8S = (HEAD_DIM + 7u) / 8u;

fn kv_vec8(head: u32, i: u32) -> Vec8 {
    let loaded = kv_load(head * (KV_HEAD / 4u), i);
    if HEAD_DIM % 8u == 0u {
        return loaded;
    }
    return Vec8(loaded.a, select(loaded.b, vec4<f32>(0.0), i + 1u == KV_VEC8S));
}

fn kv_dot(x: Vec8, y: Vec8) -> f32 {
    let sums = x.a * y.a + x.b * y.b;
    return (sums.x + sums.y) + (sums.z + sums.w);
}
