// Eight elements of a head from element 8 * i on; those behind the head's end are zeros, whatever is stored there.
struct KvEight {
    a: vec4<f32>,
    b: vec4<f32>,
}

const KV_EIGHTS = (HEAD_DIM + 7u) / 8u;

fn kv_eight(head: u32, i: u32) -> KvEight {
    let eight = kv_load(head * (KV_HEAD / 4u), i);
    if HEAD_DIM % 8u == 0u {
        return eight;
    }
    return KvEight(eight.a, select(eight.b, vec4<f32>(0.0), i + 1u == KV_EIGHTS));
}

fn kv_dot(x: KvEight, y: KvEight) -> f32 {
    let sums = x.a * y.a + x.b * y.b;
    return (sums.x + sums.y) + (sums.z + sums.w);
}
