// Philox 4x32-10 (Salmon et al. 2011): four random words from a counter and a key, and no state.

// Returns the 64 bits of a product, low word first. WGSL has no wide multiplication.
fn philox_product(a: u32, b: u32) -> vec2<u32> {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let one = a_low * b_high;
    let other = a_high * b_low;
    let middle = ((a_low * b_low) >> 16u) + (one & 0xffffu) + (other & 0xffffu);
    return vec2<u32>(a * b, a_high * b_high + (one >> 16u) + (other >> 16u) + (middle >> 16u));
}

fn philox(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = key;
    for (var round = 0u; round < 10u; round += 1u) {
        let a = philox_product(c.x, 0xd2511f53u);
        let b = philox_product(c.z, 0xcd9e8d57u);
        c = vec4<u32>(b.y ^ c.y ^ k.x, b.x, a.y ^ c.w ^ k.y, a.x);
        k += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}
