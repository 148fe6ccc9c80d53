//! Parses arbitrary bytes as a file: an error of one line, or a file that keeps its invariants.
#![no_main]

use ferrum_wgpu::{Gguf, low_level::quant::decode};
use ferrum_wgpu_fuzz::check_line;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = match Gguf::from_bytes(bytes.to_vec()) {
        Ok(file) => file,
        Err(error) => return check_line(error),
    };
    let mut total = 0;
    for tensor in file.tensors() {
        let data = file.data(tensor);
        assert_eq!(data.len() as u64, tensor.bytes);
        assert!(tensor.offset.is_multiple_of(file.alignment()));
        assert_eq!(file.tensor(&tensor.name), Some(tensor));
        let mut weights = vec![0.0; tensor.elements() as usize];
        decode(tensor.ty, data, &mut weights).expect("the lengths fit");
        total += tensor.bytes;
    }
    assert!(total <= file.file_len());
    let metadata = file.metadata();
    for (key, value) in metadata.iter() {
        assert!(metadata.get(key).is_some());
        check_line(value);
        let errors = [
            metadata.u32(key).err(),
            metadata.u64(key).err(),
            metadata.f32(key).err(),
            metadata.bool(key).err(),
            metadata.str(key).err(),
            metadata.strings(key).err(),
            metadata.i32s(key).err(),
            metadata.f32s(key).err(),
        ];
        errors.into_iter().flatten().for_each(check_line);
    }
});
