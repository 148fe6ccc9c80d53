// Shared by Q4_K and Q5_K: where the halves of a block lie in its super-block, and the packing of 6-bit scales and minima.
fn q_halves(block: u32) -> vec2<u32> {
    let lo = ((block >> 3u) << 8u) + (((block >> 1u) & 3u) << 6u) + ((block & 1u) << 4u);
    return vec2<u32>(lo, lo + 32u);
}

// Returns scales (x) and minima (y) of the file's sub-blocks 2 * i (low byte) and 2 * i + 1 (next byte).
fn q_scales(header: vec4<u32>, i: u32) -> vec2<u32> {
    let first = vec2<u32>(header.y, header.z) & vec2<u32>(0x3f3f3f3fu);
    let last = (vec2<u32>(header.w, header.w >> 4u) & vec2<u32>(0x0f0f0f0fu))
        | ((vec2<u32>(header.y, header.z) >> vec2<u32>(2u)) & vec2<u32>(0x30303030u));
    return select(first, last, i >= 2u) >> vec2<u32>((i & 1u) << 4u);
}
