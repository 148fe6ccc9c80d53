// A run's scale is its largest magnitude / 127; codes are rounded half to even. Where that magnitude is so small that a
// device might flush the scale, it is 0, as the codes then are. An invocation finds the scale of what it packs for itself, so
// that no barrier is needed.
const KV_SMALLEST = 1e-30;
const KV_SCALES = (HEAD_DIM + 127u) / 128u;

fn kv_scale(run: u32) -> f32 {
    var most = vec4<f32>(0.0);
    for (var i = 8u * run; i < min(8u * run + 8u, HEAD_DIM / 4u); i += 1u) {
        most = max(most, abs(kv_four(i)));
    }
    let largest = max(max(most.x, most.y), max(most.z, most.w));
    return select(0.0, largest / 127.0, largest >= KV_SMALLEST);
}

fn kv_codes(i: u32, scale: f32) -> u32 {
    return pack4xI8(vec4<i32>(round(kv_four(i) / select(scale, 1.0, scale == 0.0))));
}

// What is behind a head's end is stored, but never read.
fn kv_packed(i: u32) -> vec4<u32> {
    if i < KV_SCALES {
        let run = 4u * i;
        return bitcast<vec4<u32>>(vec4<f32>(kv_scale(run), kv_scale(run + 1u), kv_scale(run + 2u), kv_scale(run + 3u)));
    }
    let four = 4u * (i - KV_SCALES);
    let scale = kv_scale(four / 8u);
    return vec4<u32>(
        kv_codes(four, scale), kv_codes(four + 1u, scale), kv_codes(four + 2u, scale), kv_codes(four + 3u, scale),
    );
}
