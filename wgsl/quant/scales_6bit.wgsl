// What Q4_K and Q5_K share: where a unit's runs are in its block of 256, and the packing of 6-bit scales and minima.
fn q_runs(unit: u32) -> vec2<u32> {
    let lo = ((unit >> 3u) << 8u) + (((unit >> 1u) & 3u) << 6u) + ((unit & 1u) << 4u);
    return vec2<u32>(lo, lo + 32u);
}

// Scales (x) and minima (y) of sub-blocks 2 * pair (low byte) and 2 * pair + 1 (next byte).
fn q_scales(header: vec4<u32>, pair: u32) -> vec2<u32> {
    let first = vec2<u32>(header.y, header.z) & vec2<u32>(0x3f3f3f3fu);
    let last = (vec2<u32>(header.w, header.w >> 4u) & vec2<u32>(0x0f0f0f0fu))
        | ((vec2<u32>(header.y, header.z) >> vec2<u32>(2u)) & vec2<u32>(0x30303030u));
    return select(first, last, pair >= 2u) >> vec2<u32>((pair & 1u) << 4u);
}
