// Shared by the IQ2 and IQ3 formats: signs of magnitudes.

// Returns four groups of eight signs from seven each: the number of ones is even.
fn q_even_signs(bits: vec4<u32>) -> vec4<u32> {
    let signs = bits & vec4<u32>(127u);
    return signs | ((countOneBits(signs) & vec4<u32>(1u)) << vec4<u32>(7u));
}

// Returns four groups of eight signs from the seven each of a word.
fn q_word_signs(word: u32) -> vec4<u32> {
    return q_even_signs(vec4<u32>(word) >> vec4<u32>(0u, 7u, 14u, 21u));
}

// Returns bytes of magnitudes below 64 plus 64, negated before the addition where a sign is 1. The signs of a word are its low
// four bits; bits above the low eight have to be 0.
fn q_apply_signs(magnitudes: vec4<u32>, signs: vec4<u32>) -> vec4<u32> {
    let pairs = signs | (signs << vec4<u32>(7u));
    let ones = (pairs | (pairs << vec4<u32>(14u))) & vec4<u32>(0x01010101u);
    // (64 + m) ^ 127 is 63 - m.
    return (magnitudes ^ ((ones << vec4<u32>(7u)) - ones)) + ones;
}
