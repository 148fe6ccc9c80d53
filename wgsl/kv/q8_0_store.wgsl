// A group's scale is its largest magnitude / 127; codes are rounded half to even. Below KV_SMALLEST a device might
// flush the scale, so scale and codes are 0. Each invocation computes the scales of what it packs: no barrier is
// needed.
const KV_SMALLEST = 1e-30;

// The vec4s of a head's scales.
fn kv_scale_vec4s() -> u32 {
    return (head_dim() + 127u) / 128u;
}

fn kv_head_words() -> u32 {
    return 4u * (kv_scale_vec4s() + (head_dim() + 15u) / 16u);
}

fn kv_scale(group: u32) -> f32 {
    var magnitudes = vec4<f32>(0.0);
    for (var i = 8u * group; i < min(8u * group + 8u, head_dim() / 4u); i += 1u) {
        magnitudes = max(magnitudes, abs(kv_vec4(i)));
    }
    let largest = max(max(magnitudes.x, magnitudes.y), max(magnitudes.z, magnitudes.w));
    return select(0.0, largest / 127.0, largest >= KV_SMALLEST);
}

fn kv_codes(i: u32, scale: f32) -> u32 {
    return pack4xI8(vec4<i32>(round(kv_vec4(i) / select(scale, 1.0, scale == 0.0))));
}

// The padding beyond a head's end is stored too, but never read.
fn kv_packed(i: u32) -> vec4<u32> {
    if i < kv_scale_vec4s() {
        let group = 4u * i;
        return bitcast<vec4<u32>>(
            vec4<f32>(kv_scale(group), kv_scale(group + 1u), kv_scale(group + 2u), kv_scale(group + 3u)),
        );
    }
    let first = 4u * (i - kv_scale_vec4s());
    let scale = kv_scale(first / 8u);
    return vec4<u32>(
        kv_codes(first, scale), kv_codes(first + 1u, scale), kv_codes(first + 2u, scale), kv_codes(first + 3u, scale),
    );
}
