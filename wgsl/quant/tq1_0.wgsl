// TQ1_0: planes of codes (3 vec4), of four last codes (a word) and of d (f16) a super-block. A code is a fraction of 256 in base 3.
// Blocks 0 to 4 are digit l of the codes of vec4 0 and 1; the halves of blocks 5 and 6 and the first one of block 7 are a digit
// each of vec4 2, the last half of block 7 are the four digits of the last codes.
struct QHeader {
    last: u32,
    d: f32,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    let super_block = first >> 3u;
    let super_blocks = blocks >> 3u;
    let plane = super_blocks * 3u;
    return QHeader(q_plane_word(plane, super_block), q_plane_f16(plane + ((super_blocks + 3u) >> 2u), super_block));
}

// Returns a power of 3: 0 to 4.
fn q_power_of_3(n: u32) -> u32 {
    return select((0x1b090301u >> (n << 3u)) & 255u, 81u, n == 4u);
}

// Returns a digit of each byte: what a multiplication by 3 carries out of the fraction that is left by the power of 3.
fn q_digits(codes: vec4<u32>, power: vec4<u32>) -> vec4<u32> {
    let bytes = vec4<u32>(0x00ff00ffu);
    let even = ((((codes & bytes) * power) & bytes) * 3u) >> vec4<u32>(8u);
    let odd = (((((codes >> vec4<u32>(8u)) & bytes) * power) & bytes) * 3u) & vec4<u32>(0x03000300u);
    return (even & vec4<u32>(0x00030003u)) | odd;
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    let at = (first >> 3u) * 3u;
    let front = l < 5u;
    let digit = select((l - 5u) << 1u, l, front);
    let next_digit = select(digit + 1u, digit, front);
    let lo = w[at + select(2u, 0u, front)];
    let hi = select(w[at + select(2u, 1u, front)], vec4<u32>(header.last), l == 7u);
    let hi_power = select(vec4<u32>(q_power_of_3(next_digit)), vec4<u32>(1u, 3u, 9u, 27u), l == 7u);
    let codes = q_biased_codes(q_digits(lo, vec4<u32>(q_power_of_3(digit))), q_digits(hi, hi_power), 1u);
    return QBlock32(codes, vec2<f32>(header.d), vec2<f32>(0.0));
}
