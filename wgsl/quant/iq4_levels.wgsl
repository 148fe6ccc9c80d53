// Shared by IQ4_NL and IQ4_XS: the levels that 4-bit codes stand for (ggml's kvalues_iq4nl).

// Returns the bytes of `b` where the bytes of `mask` are 255, and those of `a` where they are 0.
fn q_choose(mask: vec4<u32>, a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
    return (b & mask) | (a & ~mask);
}

// Returns the levels of 16 codes, as signed bytes. A tree of choices by the codes' bits does without a table in memory.
fn q_iq4_levels(codes: vec4<u32>) -> vec4<u32> {
    let ones = vec4<u32>(0x01010101u);
    let bytes = vec4<u32>(255u);
    let bit0 = (codes & ones) * bytes;
    let bit1 = ((codes >> vec4<u32>(1u)) & ones) * bytes;
    let bit2 = ((codes >> vec4<u32>(2u)) & ones) * bytes;
    let bit3 = ((codes >> vec4<u32>(3u)) & ones) * bytes;
    let a0 = q_choose(bit0, vec4<u32>(0x81818181u), vec4<u32>(0x98989898u));
    let a1 = q_choose(bit0, vec4<u32>(0xadadadadu), vec4<u32>(0xbfbfbfbfu));
    let a2 = q_choose(bit0, vec4<u32>(0xcfcfcfcfu), vec4<u32>(0xddddddddu));
    let a3 = q_choose(bit0, vec4<u32>(0xeaeaeaeau), vec4<u32>(0xf6f6f6f6u));
    let a4 = q_choose(bit0, vec4<u32>(0x01010101u), vec4<u32>(0x0d0d0d0du));
    let a5 = q_choose(bit0, vec4<u32>(0x19191919u), vec4<u32>(0x26262626u));
    let a6 = q_choose(bit0, vec4<u32>(0x35353535u), vec4<u32>(0x45454545u));
    let a7 = q_choose(bit0, vec4<u32>(0x59595959u), vec4<u32>(0x71717171u));
    let low = q_choose(bit2, q_choose(bit1, a0, a1), q_choose(bit1, a2, a3));
    let high = q_choose(bit2, q_choose(bit1, a4, a5), q_choose(bit1, a6, a7));
    return q_choose(bit3, low, high);
}
