//! The weight formats: table, decoder and random blocks.

use ferrum_wgpu::low_level::quant::{
    DecodeError, HARD_WEIGHTS, Planes, ROW_STEP, Rng, WeightType, decode, decode_block, ggml_type_name, hard_blocks,
    random_blocks,
};

fn decoded(ty: WeightType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bytes.len() / ty.block_bytes() * ty.block_len()];
    decode(ty, bytes, &mut out).expect("whole blocks");
    out
}

/// Returns the 64-bit FNV-1a hash.
fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

/// Decodes 64 random blocks and all hard ones. The golden hashes are those of gguf-py's `dequantize` (0.19) on the same
/// bytes.
#[test]
fn decoder_equals_gguf_py_bit_for_bit() {
    let golden = [
        (WeightType::F32, 0x1e9e_87f2_0a8f_3570, 0x1e9e_87f2_0a8f_3570),
        (WeightType::F16, 0x7808_077c_ed60_9488, 0x0dcb_2faf_fdca_35c2),
        (WeightType::BF16, 0x00a9_2573_9a8f_d4be, 0x7441_2f6a_e0ef_fd1e),
        (WeightType::Q8_0, 0x150a_fd8d_46e6_263a, 0x4e43_2386_c6c8_05b6),
        (WeightType::Q4_0, 0x52e7_5b4f_61a1_df02, 0x9dbe_9f41_f194_3bbc),
        (WeightType::Q4_1, 0x1b23_4b46_3da9_ece1, 0x398a_3e77_aa79_b4e0),
        (WeightType::Q5_0, 0x5e0e_43db_632b_ef2a, 0x34fe_87c0_ef69_cc35),
        (WeightType::Q5_1, 0x0b53_db50_3322_f739, 0x399b_fe2b_e77e_a158),
        (WeightType::Q4K, 0xd5d9_f8e7_776f_b26c, 0x6f6d_a657_e85f_8b71),
        (WeightType::Q5K, 0xc82c_3338_e07b_0c49, 0x0cae_b84e_4584_5346),
        (WeightType::Q6K, 0xbfb7_18eb_9b10_352e, 0xae8a_6135_0c29_d888),
        (WeightType::Q2K, 0x3f45_3873_c694_263c, 0x3cb8_609d_7832_9e3f),
        (WeightType::Q3K, 0x6831_9db9_73d6_f1f3, 0x84ed_6cbe_5ddf_13ff),
        (WeightType::IQ4NL, 0xe666_15c9_6561_aef9, 0x3190_8234_4d63_cf21),
        (WeightType::IQ4XS, 0xbeb3_7638_bde1_7a8e, 0x2ab8_c071_9ce6_6dd3),
        (WeightType::TQ2_0, 0x5b13_d596_65a7_705d, 0xbf1b_9bcb_280a_5efb),
        (WeightType::MXFP4, 0x6be5_77d6_9afc_ff7c, 0x03c1_fc02_7d49_ac5f),
        (WeightType::IQ2XXS, 0xfe85_c3b9_a267_c1b3, 0xdf6f_d60a_36b9_ccdd),
        (WeightType::IQ2XS, 0x41a7_cb19_ecb7_5164, 0x1bbd_c3cf_33f2_426d),
        (WeightType::IQ2S, 0x2276_284d_d5fe_5de5, 0xcfce_72ea_355d_f3b4),
        (WeightType::IQ3XXS, 0x8ce3_a74e_c123_453d, 0x4890_25eb_68b8_55f0),
        (WeightType::IQ3S, 0x1e02_f512_e348_cf1d, 0xc234_c6da_e7e2_7611),
        (WeightType::IQ1S, 0x221d_9280_c40b_a772, 0xd99b_3728_e134_c3be),
        (WeightType::IQ1M, 0xecb5_224a_0f5e_e44d, 0x5a1c_a0e2_5ad4_bc24),
        (WeightType::TQ1_0, 0xe992_d43b_ac6e_cc5f, 0xce42_c273_23ee_9dfc),
        (WeightType::NVFP4, 0x6d88_e5ad_bddd_df24, 0xdeb1_d3ad_503a_c833),
    ];
    assert_eq!(golden.map(|(ty, ..)| ty), WeightType::ALL);
    for (ty, bytes_hash, values_hash) in golden {
        let mut bytes = random_blocks(ty, 64, 0.02, 1);
        bytes.extend(hard_blocks(ty, 2).into_iter().flat_map(|(_, bytes)| bytes));
        assert_eq!(hash(bytes.iter().copied()), bytes_hash, "{ty}: other random blocks");
        let values = decoded(ty, &bytes);
        assert_eq!(hash(values.iter().flat_map(|v| v.to_le_bytes())), values_hash, "{ty}: other decoded values");
    }
}

/// Decodes one hand-made block of each format: one weight's code is set, scales are 2, minima are 1.
#[test]
fn single_codes_land_at_their_weights() {
    const ONE: [u8; 2] = [0x00, 0x3C];
    const TWO: [u8; 2] = [0x00, 0x40];
    let block = |ty: WeightType, parts: &[(usize, &[u8])]| {
        let mut block = vec![0; ty.block_bytes()];
        for (at, part) in parts {
            block[*at..at + part.len()].copy_from_slice(part);
        }
        decoded(ty, &block)
    };
    let check = |values: Vec<f32>, weight: usize, value: f32, others: f32| {
        for (i, &v) in values.iter().enumerate() {
            assert_eq!(v, if i == weight { value } else { others }, "weight {i}");
        }
    };
    check(block(WeightType::F32, &[(0, &[0, 0, 0xC0, 0x3F])]), 0, 1.5, 0.0);
    check(block(WeightType::F16, &[(0, &[0x01, 0x00])]), 0, (-24f32).exp2(), 0.0);
    check(block(WeightType::BF16, &[(0, &[0xC0, 0x3F])]), 0, 1.5, 0.0);
    check(block(WeightType::Q8_0, &[(0, &TWO), (2 + 7, &[0x80])]), 7, -256.0, 0.0);
    check(block(WeightType::Q4_0, &[(0, &TWO), (2 + 3, &[0xF0])]), 19, 14.0, -16.0);
    check(block(WeightType::Q4_1, &[(0, &TWO), (2, &ONE), (4 + 3, &[0x0F])]), 3, 31.0, 1.0);
    check(block(WeightType::Q5_0, &[(0, &TWO), (2, &[0, 0, 0x08, 0]), (6 + 3, &[0xF0])]), 19, 30.0, -32.0);
    check(block(WeightType::Q5_1, &[(0, &TWO), (2, &ONE), (4, &[0x08]), (8 + 3, &[0x0F])]), 3, 63.0, 1.0);
    // Sub-block 5: scale 33 = 2 << 4 | 1 and minimum 18 = 1 << 4 | 2. The top bits are in bytes 5 and 9.
    let scales: &[(usize, &[u8])] = &[(0, &TWO), (2, &ONE), (5, &[0x80]), (9, &[0x40]), (13, &[0x21])];
    let q4_k = block(WeightType::Q4K, &[scales, &[(16 + 2 * 32 + 9, &[0x30])]].concat());
    assert_eq!((q4_k[5 * 32 + 9], q4_k[5 * 32 + 8], q4_k[4 * 32 + 9]), (2.0 * 33.0 * 3.0 - 18.0, -18.0, 0.0));
    let q5_k = block(WeightType::Q5K, &[scales, &[(16 + 9, &[1 << 5]), (48 + 2 * 32 + 9, &[0x30])]].concat());
    assert_eq!((q5_k[5 * 32 + 9], q5_k[5 * 32 + 8], q5_k[4 * 32 + 9]), (2.0 * 33.0 * 19.0 - 18.0, -18.0, 0.0));
    // Second half, third quarter: scale 8 + 4, minimum of the next 16 weights.
    let q2_k = [(12, &[0x03][..]), (13, &[0x50]), (16 + 32 + 5, &[0x30]), (80, &TWO), (82, &ONE)];
    let q2_k = block(WeightType::Q2K, &q2_k);
    assert_eq!((q2_k[128 + 64 + 5], q2_k[128 + 64 + 6], q2_k[128 + 64 + 16]), (2.0 * 3.0 * 3.0, 0.0, -5.0));
    // The same weight: high bit 4 + 2, scale 12 = 32 + 1 from the high nibble of byte 4 and bits 6 and 7 of byte 8.
    let q3_k = [(5, &[0x40][..]), (32 + 32 + 5, &[0x20]), (96 + 4, &[0x10]), (96 + 8, &[0x80]), (108, &TWO)];
    let q3_k = block(WeightType::Q3K, &q3_k);
    assert_eq!((q3_k[128 + 64 + 5], q3_k[128 + 64 + 6]), (2.0 * (33.0 - 32.0) * (6.0 - 4.0), 2.0 * -4.0));
    assert_eq!(q3_k[128 + 64 + 16], 2.0 * -32.0 * -4.0);
    check(block(WeightType::IQ4NL, &[(0, &TWO), (2, &[0x88; 16]), (2 + 3, &[0xF8])]), 19, 226.0, 2.0);
    // Block 5: scale 33 = 32 + 1 from the high nibble of byte 2 and bits 10 and 11.
    let iq4_xs = [(0, &TWO[..]), (3, &[0x08]), (4 + 2, &[0x10]), (8 + 5 * 16 + 9, &[0xF0])];
    let iq4_xs = block(WeightType::IQ4XS, &iq4_xs);
    assert_eq!((iq4_xs[5 * 32 + 25], iq4_xs[5 * 32 + 24], iq4_xs[0]), (226.0, -254.0, 64.0 * 127.0));
    check(block(WeightType::TQ2_0, &[(64, &TWO), (32 + 5, &[0x20])]), 128 + 64 + 5, 2.0, -2.0);
    // Halves of 2^(e - 127); the first two are subnormal.
    check(block(WeightType::MXFP4, &[(0, &[128]), (1 + 3, &[0xF0])]), 19, -12.0, 0.0);
    check(block(WeightType::MXFP4, &[(0, &[0]), (1 + 3, &[0x01])]), 3, (-128f32).exp2(), 0.0);
    check(block(WeightType::MXFP4, &[(0, &[1]), (1 + 3, &[0x01])]), 3, (-127f32).exp2(), 0.0);
    // Point 1 of group 5 is 43 and seven times 8. Scale 3 of block 1; signs 4 and 6 of seven.
    let iq2_xxs = block(WeightType::IQ2XXS, &[(0, &TWO), (2 + 9, &[1]), (2 + 12, &[0x00, 0x28, 0x00, 0x30])]);
    assert_eq!(iq2_xxs[40..48], [75.25, 14.0, 14.0, 14.0, -14.0, 14.0, -14.0, 14.0]);
    assert_eq!((iq2_xxs[32], iq2_xxs[0]), (14.0, 2.0));
    // One sign of seven: the eighth weight is negative too.
    let iq2_xs = block(WeightType::IQ2XS, &[(0, &TWO), (2 + 10, &[0x01, 0x02]), (66 + 1, &[0x03])]);
    assert_eq!(iq2_xs[40..48], [-75.25, 14.0, 14.0, 14.0, 14.0, 14.0, 14.0, -14.0]);
    assert_eq!((iq2_xs[48], iq2_xs[0]), (2.0, 2.0));
    // Point 256 of group 6 by its high bits; all eight signs are in the file.
    let iq2_s = block(WeightType::IQ2S, &[(0, &TWO), (34 + 6, &[0x80]), (66 + 1, &[0x10]), (74 + 1, &[0x30])]);
    assert_eq!(iq2_s[48..56], [43.75, 43.75, 43.75, 43.75, 43.75, 14.0, 43.75, -14.0]);
    assert_eq!((iq2_s[32], iq2_s[0]), (2.0, 2.0));
    let iq3_xxs = block(WeightType::IQ3XXS, &[(0, &TWO), (2 + 9, &[1]), (66 + 4, &[0x10, 0, 0, 0x30])]);
    assert_eq!(iq3_xxs[32..40], [14.0, 14.0, 14.0, 14.0, -70.0, 14.0, 14.0, -14.0]);
    assert_eq!((iq3_xxs[40], iq3_xxs[0]), (14.0, 2.0));
    // Points 0 and 257 of group 5: ninth bit 3 of block 1.
    let iq3_s = [(0, &TWO[..]), (2 + 11, &[1]), (66 + 1, &[0x08]), (74 + 5, &[0x18]), (106, &[0x20])];
    let iq3_s = block(WeightType::IQ3S, &iq3_s);
    assert_eq!(iq3_s[40..48], [10.0, 10.0, 10.0, -10.0, -50.0, 70.0, 90.0, 50.0]);
    assert_eq!((iq3_s[32], iq3_s[0]), (10.0, 2.0));
    // Point 1025 of group 5, scale 2 of block 1, and an eighth subtracted.
    let iq1_s = block(WeightType::IQ1S, &[(0, &TWO), (2 + 5, &[1]), (34 + 2, &[0x20, 0xA0])]);
    assert_eq!(iq1_s[40..48], [-11.25, -11.25, -1.25, -1.25, -1.25, -1.25, -1.25, -1.25]);
    assert_eq!((iq1_s[32], iq1_s[0]), (-11.25, -1.75));
    // The same point with its own sign of the eighth; scale 1 of half a block; d in the last word's top bits.
    let iq1_m = block(WeightType::IQ1M, &[(5, &[1]), (32 + 2, &[0xC0]), (48, &[0x40]), (55, &[0x40])]);
    assert_eq!(iq1_m[40..48], [-6.75, -6.75, -0.75, -0.75, -0.75, -0.75, -0.75, -0.75]);
    assert_eq!((iq1_m[32], iq1_m[48], iq1_m[0]), (-5.25, -1.75, -1.75));
    // Five digits of 2, 16 weights apart, and four that are four apart.
    let tq1_0 = block(WeightType::TQ1_0, &[(32 + 5, &[0xFF]), (48 + 1, &[0xFF]), (52, &TWO)]);
    let twos: Vec<usize> = (0..256).filter(|i| tq1_0[*i] == 2.0).collect();
    assert_eq!(twos, [165, 181, 197, 213, 229, 241, 245, 249, 253]);
    assert!(tq1_0.iter().all(|weight| weight.abs() == 2.0));
    // Half a scale of 2.25 for the second 16 weights; 3 is subnormal.
    let nvfp4 = block(WeightType::NVFP4, &[(0, &[0x40, 0x41, 0x03, 0x7F]), (4 + 8 + 3, &[0xF1]), (4 + 24, &[0xFF])]);
    assert_eq!((nvfp4[19], nvfp4[27], nvfp4[48]), (1.125, -13.5, 0.0));
    check(block(WeightType::NVFP4, &[(2, &[0x03]), (4 + 16, &[0x10])]), 40, 3.0 / 1024.0, 0.0);
    // Second half, third quarter: low bits above those of the first quarter, high bits 6 and 7, scale 8 + 6.
    let q6_k = [(64 + 32 + 5, &[0x70][..]), (128 + 32 + 5, &[0x80]), (192 + 14, &[0xFD]), (208, &TWO)];
    let q6_k = block(WeightType::Q6K, &q6_k);
    assert_eq!(
        (q6_k[128 + 96 + 5], q6_k[128 + 96 + 6], q6_k[128 + 96 + 16]),
        (2.0 * -3.0 * 7.0, 2.0 * -3.0 * -32.0, 0.0)
    );
}

#[test]
fn table_is_consistent() {
    for ty in WeightType::ALL {
        assert_eq!(WeightType::from_ggml_id(ty.ggml_id()), Some(ty));
        assert_eq!(ggml_type_name(ty.ggml_id()), Some(ty.name()));
        assert_eq!(ty.to_string(), ty.name());
        assert_eq!(ty.row_bytes(0), Some(0));
        assert_eq!(ty.row_bytes(512), Some(512 / ty.block_len() * ty.block_bytes()));
        assert_eq!(ty.row_bytes(513).is_none(), ty.block_len() > 1);
    }
    assert_eq!(WeightType::F32.row_bytes(usize::MAX), None);
    assert_eq!(WeightType::from_ggml_id(41), None);
    assert_eq!(ggml_type_name(41), Some("Q1_0"));
    assert_eq!(ggml_type_name(9999), None);
}

#[test]
fn wrong_lengths_are_refused() {
    let ty = WeightType::Q8_0;
    assert_eq!(decode(ty, &[0; 33], &mut [0.0; 32]), Err(DecodeError::PartialBlock { ty, bytes: 33 }));
    assert_eq!(decode(ty, &[0; 68], &mut [0.0; 32]), Err(DecodeError::Length { ty, blocks: 2, room: 32 }));
    assert_eq!(decode(ty, &[], &mut []), Ok(()));
    let mut out = [0.0; 31];
    decode_block(ty, &[0; 34], &mut out);
    assert!(out.iter().all(|v| v.is_nan()));
}

#[test]
fn one_block_decodes_as_many_do() {
    for ty in WeightType::ALL {
        let bytes = random_blocks(ty, 5, 1.0, 3);
        let mut one_by_one = vec![0.0; 5 * ty.block_len()];
        for (block, out) in bytes.chunks(ty.block_bytes()).zip(one_by_one.chunks_mut(ty.block_len())) {
            decode_block(ty, block, out);
        }
        assert_eq!(one_by_one, decoded(ty, &bytes), "{ty}");
    }
}

#[test]
fn random_blocks_have_the_deviation_asked_for() {
    for ty in WeightType::ALL {
        for std in [0.02, 1.0] {
            let values = decoded(ty, &random_blocks(ty, 65_536 / ty.block_len(), std, 4));
            let n = values.len() as f64;
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let measured = (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt();
            assert!((measured / f64::from(std) - 1.0).abs() < 0.05, "{ty}: {measured} instead of {std}");
            assert!(mean.abs() < 0.12 * f64::from(std), "{ty}: mean {mean}");
        }
    }
}

#[test]
fn hard_blocks_are_finite_and_hard() {
    for ty in WeightType::ALL {
        for (name, bytes) in hard_blocks(ty, 5) {
            let values = decoded(ty, &bytes);
            assert_eq!(values.len(), HARD_WEIGHTS, "{ty}, {name}");
            assert!(values.iter().all(|v| v.abs() < 1.0), "{ty}, {name}");
            let zero = matches!(name, "zero" | "negative zero" | "zero scale");
            assert_eq!(values.iter().all(|&v| v == 0.0), zero, "{ty}, {name}");
        }
    }
}

#[test]
fn generator_is_the_published_one() {
    // SplitMix64 from seed 1234567, as in its reference implementation.
    let mut rng = Rng::new(1_234_567);
    assert_eq!([rng.next_u64(), rng.next_u64()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    assert!((0..1000).all(|_| rng.below(7) < 7 && (0.0..1.0).contains(&rng.next_f32()) && rng.normal().abs() <= 6.0));
}

/// Found by fuzzing: the offset of a row far out of range overflowed.
#[test]
fn rows_out_of_range_are_zero() {
    for ty in WeightType::ALL {
        let k = 4 * ty.block_len();
        let planes = Planes::new(ty, 1, k as u64).expect("whole blocks");
        let words = vec![[u32::MAX; 4]; planes.vec4s() as usize];
        let raw = vec![0xFF; planes.file_row_bytes() as usize];
        for row in [1_u64 << 20, u64::from(u32::MAX), 1 << 62, u64::MAX - 7, u64::MAX] {
            let mut out = vec![1.0; k];
            planes.decode_row(&words, row, &mut out);
            // Bytes out of range are zero, which some formats decode to -0.0.
            assert!(out.iter().all(|&weight| weight == 0.0), "{ty} row {row}");
            assert!(!planes.pack(row - row % ROW_STEP, &raw).is_empty());
        }
    }
}
