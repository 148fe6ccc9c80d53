// A run's scale is its largest magnitude / 127; codes are rounded half to even. Where that magnitude is so small that a
// device might flush the scale, it is 0, as the codes then are. An invocation makes four codes at a time and finds their
// scale for itself, so that no barrier is needed.
const KV_SMALLEST = 1e-30;

// What is behind a head's end is stored, but never read.
fn kv_code(i: u32, divisor: f32) -> i32 {
    return i32(round(head_values[min(i, HEAD_DIM - 1u)] / divisor));
}

fn kv_store_head(to: u32, invocation: u32) {
    let codes = to * KV_HEAD + (HEAD_DIM + 127u) / 128u * 4u;
    for (var word = invocation; word < (HEAD_DIM + 3u) / 4u; word += WG) {
        let run = word / 8u;
        var largest = 0.0;
        for (var i = 32u * run; i < min(32u * run + 32u, HEAD_DIM); i += 1u) {
            largest = max(largest, abs(head_values[i]));
        }
        let scaled = largest >= KV_SMALLEST;
        let divisor = select(1.0, largest / 127.0, scaled);
        let i = 4u * word;
        kv[codes + word] = pack4xI8(vec4<i32>(
            kv_code(i, divisor), kv_code(i + 1u, divisor), kv_code(i + 2u, divisor), kv_code(i + 3u, divisor),
        ));
        if word == 8u * run {
            kv[to * KV_HEAD + run] = bitcast<u32>(select(0.0, divisor, scaled));
        }
    }
}
