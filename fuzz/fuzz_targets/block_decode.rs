//! Decodes arbitrary blocks of every format, in the file's layout and in device memory's.
#![no_main]

use ferrum_wgpu::low_level::quant::{decode, decode_block, Planes, ROW_STEP, WeightType};
use ferrum_wgpu_fuzz::{Input, check_line};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let ty = WeightType::ALL[input.pick(WeightType::ALL.len())];
    let (room, blocks, row) = (usize::from(input.byte()), u64::from(input.byte() % 8), input.number());
    let raw = input.rest();

    let mut any = vec![1.0; room];
    match decode(ty, raw, &mut any) {
        Ok(()) => assert_eq!(raw.len() / ty.block_bytes() * ty.block_len(), room),
        Err(error) => {
            check_line(error);
            assert!(any.iter().all(|&weight| weight == 1.0));
        }
    }
    decode_block(ty, raw, &mut any);

    let whole = &raw[..raw.len() / ty.block_bytes() * ty.block_bytes()];
    let mut weights = vec![0.0; whole.len() / ty.block_bytes() * ty.block_len()];
    decode(ty, whole, &mut weights).expect("whole blocks");
    for (block, expected) in whole.chunks_exact(ty.block_bytes()).zip(weights.chunks_exact(ty.block_len())) {
        let mut out = vec![0.0; ty.block_len()];
        decode_block(ty, block, &mut out);
        assert!(same(&out, expected));
    }

    // Rows of a few blocks; rows of floats have a multiple of four values.
    let k = (blocks * ty.block_len() as u64).next_multiple_of(4);
    let Some(row_bytes) = ty.row_bytes(k as usize).filter(|&bytes| bytes > 0) else { return };
    let Some(planes) = Planes::new(ty, (raw.len() / row_bytes) as u64, k) else { return };
    let mut words = vec![[0; 4]; planes.vec4s() as usize];
    let slice = ROW_STEP as usize * row_bytes;
    for (i, slice) in raw[..planes.rows() as usize * row_bytes].chunks(slice).enumerate() {
        for part in planes.pack(i as u64 * ROW_STEP, slice) {
            words[part.start as usize..][..part.words.len()].copy_from_slice(&part.words);
        }
    }
    let mut out = vec![0.0; k as usize];
    for (i, expected) in weights.chunks_exact(k as usize).enumerate() {
        planes.decode_row(&words, i as u64, &mut out);
        assert!(same(&out, expected), "{ty} row {i}");
    }
    // Rows out of range, and buffers of wrong sizes.
    planes.decode_row(&words, row, &mut out);
    planes.decode_row(&words, 0, &mut any);
    planes.pack(row, raw);
});

/// Returns whether two slices are bitwise equal. All NaNs are equal.
fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
}
