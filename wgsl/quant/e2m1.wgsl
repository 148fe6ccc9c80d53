// Shared by MXFP4 and NVFP4: floats of four bits.

// Returns the doubled values of 16 codes, as signed bytes: 0, 1, 2, 3, 4, 6, 8 and 12, or less.
fn q_e2m1(codes: vec4<u32>) -> vec4<u32> {
    let ones = vec4<u32>(0x01010101u);
    let bytes = vec4<u32>(255u);
    let exponent0 = ((codes >> vec4<u32>(1u)) & ones) * bytes;
    let exponent1 = ((codes >> vec4<u32>(2u)) & ones) * bytes;
    // 4 or 6 from exponent 2 on, doubled at exponent 3.
    let large = vec4<u32>(0x04040404u) | ((codes & ones) << vec4<u32>(1u));
    let scaled = large + (large & exponent0);
    let magnitude = (codes & vec4<u32>(0x07070707u) & ~exponent1) | (scaled & exponent1);
    // Negation without a carry between bytes.
    let negative = (codes >> vec4<u32>(3u)) & ones;
    let mask = negative * bytes;
    return (((magnitude ^ mask) & vec4<u32>(0x7f7f7f7fu)) + negative) ^ (mask & vec4<u32>(0x80808080u));
}
