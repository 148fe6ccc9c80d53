//! Refused GGUF files, each with its own error.
//!
//! They include the cases of llama.cpp's `test-gguf` and of known bugs in other readers, after which tests are named.

use crate::common::ranges::Ranges;
use ferrum_wgpu::{Gguf, GgufError};

/// A file assembled from raw fields, so that any of them can be wrong.
#[derive(Clone)]
struct Raw(Vec<u8>);

impl Raw {
    fn header(tensors: u64, entries: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(entries)
    }
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }
    fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }
    fn text(self, text: impl AsRef<[u8]>) -> Self {
        self.u64(text.as_ref().len() as u64).bytes(text.as_ref())
    }
    /// Appends a metadata entry without its value.
    fn entry(self, key: &str, type_id: u32) -> Self {
        self.text(key).u32(type_id)
    }
    /// Appends an array without its elements.
    fn array(self, type_id: u32, len: u64) -> Self {
        self.u32(type_id).u64(len)
    }
    fn tensor(self, name: &str, shape: &[u64], type_id: u32, offset: u64) -> Self {
        let named = self.text(name).u32(shape.len() as u32);
        shape.iter().fold(named, |raw, &n| raw.u64(n)).u32(type_id).u64(offset)
    }
    /// Appends padding to an alignment of 32, then `len` bytes of data.
    fn data(mut self, len: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + len, 0);
        self
    }
}

const U8: u32 = 0;
const U32: u32 = 4;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;
const F32: u32 = 0;
const Q4_K: u32 = 12;

fn key_of(key: &str) -> Raw {
    Raw::header(0, 1).text(key)
}

fn aligned(type_id: u32, alignment: u32) -> Raw {
    Raw::header(0, 1).entry("general.alignment", type_id).u32(alignment)
}

fn one_tensor(shape: &[u64], type_id: u32, offset: u64, data: usize) -> Raw {
    Raw::header(1, 0).tensor("t", shape, type_id, offset).data(data)
}

/// Defines tests that a file is refused with an error that matches a pattern and has a message.
macro_rules! refused {
    ($($name:ident: $file:expr => $pattern:pat, $message:expr;)*) => {
        $(#[test]
        fn $name() {
            let error = Gguf::from_bytes($file.0).expect_err("must be refused");
            assert!(matches!(error, $pattern), "{error:?}");
            assert_eq!(error.to_string(), $message);
            let streamed = pollster::block_on(Gguf::from_source(Ranges::new($file.0)));
            assert_eq!(streamed.expect_err("must be refused").to_string(), $message);
        })*
    };
}

// Header.
refused! {
    empty_file: Raw(vec![]) => GgufError::NotGguf { .. }, "not a GGUF file: it begins with \"\" instead of \"GGUF\"";
    other_magic: Raw(b"ggjt\x03\0\0\0".to_vec()) => GgufError::NotGguf { .. },
        "not a GGUF file: it begins with \"ggjt\" instead of \"GGUF\"";
    zip_magic: Raw(b"PK\x03\x04".to_vec()) => GgufError::NotGguf { .. },
        "not a GGUF file: it begins with \"PK\\x03\\x04\" instead of \"GGUF\"";
    version_0: Raw(b"GGUF\0\0\0\0".to_vec()) => GgufError::Version { version: 0 },
        "GGUF version 0 is not supported (supported: 2, 3)";
    version_1: Raw(b"GGUF\x01\0\0\0".to_vec()) => GgufError::Version { version: 1 },
        "GGUF version 1 is not supported (supported: 2, 3)";
    version_4: Raw(b"GGUF\x04\0\0\0".to_vec()) => GgufError::Version { version: 4 },
        "GGUF version 4 is not supported (supported: 2, 3)";
    big_endian: Raw(b"GGUF\0\0\0\x03".to_vec()) => GgufError::BigEndian,
        "this is a big-endian GGUF file; only little-endian files are supported (convert it with gguf-py)";
    no_version: Raw(b"GGUF\x03\0".to_vec()) => GgufError::Truncated { .. },
        "the file ends too early: the version at byte 4 needs 4 bytes, 2 are left";
    cve_2024_21836_tensor_count: Raw::header(u64::MAX, 0) => GgufError::Truncated { .. },
        "the file ends too early: the tensor directory at byte 24 needs 18446744073709551615 bytes, 0 are left";
    cve_2024_23605_entry_count: Raw::header(0, u64::MAX / 14 + 2) => GgufError::Truncated { .. },
        "the file ends too early: the metadata at byte 24 needs 18446744073709551615 bytes, 0 are left";
}

// Metadata.
refused! {
    empty_key: key_of("").u32(U8).bytes(&[0, 0]) => GgufError::KeyLength { .. },
        "the metadata key at byte 24 is 0 bytes long (allowed: 1 to 65535)";
    long_key: key_of(&"k".repeat(65_536)).u32(U8) => GgufError::KeyLength { .. },
        "the metadata key at byte 24 is 65536 bytes long (allowed: 1 to 65535)";
    key_not_utf8: Raw::header(0, 1).text(b"a\xFFb").u32(U8).bytes(&[0]) => GgufError::Utf8 { .. },
        "metadata key a\u{FFFD}b at byte 32 is not UTF-8";
    duplicate_key: Raw::header(0, 3).entry("k", U8).bytes(&[0]).entry("j", U8).bytes(&[0]).entry("k", U8).bytes(&[0])
        => GgufError::DuplicateKey { .. }, "metadata key k occurs twice";
    value_type: Raw::header(0, 1).entry("k", 13).bytes(&[0]) => GgufError::ValueType { id: 13, .. },
        "metadata key k has value type 13 at byte 33, which GGUF does not define";
    element_type: Raw::header(0, 1).entry("k", ARRAY).array(99, 0) => GgufError::ValueType { id: 99, .. },
        "metadata key k has value type 99 at byte 37, which GGUF does not define";
    boolean_of_2: Raw::header(0, 1).entry("k", BOOL).bytes(&[2]) => GgufError::Bool { byte: 2, .. },
        "metadata key k has a boolean with the value 2 at byte 37 (allowed: 0, 1)";
    boolean_of_2_in_an_array: Raw::header(0, 1).entry("k", ARRAY).array(BOOL, 2).bytes(&[1, 2])
        => GgufError::Bool { byte: 2, .. }, "metadata key k has a boolean with the value 2 at byte 50 (allowed: 0, 1)";
    string_not_utf8: Raw::header(0, 1).entry("k", STRING).text(b"\xC3") => GgufError::Utf8 { .. },
        "the value of metadata key k at byte 45 is not UTF-8";
    element_not_utf8: Raw::header(0, 1).entry("k", ARRAY).array(STRING, 2).text("a").text(b"\xC3")
        => GgufError::Utf8 { .. }, "the value of metadata key k at byte 66 is not UTF-8";
    cve_2024_23496_string_length: Raw::header(0, 1).entry("k", STRING).u64(u64::MAX) => GgufError::Truncated { .. },
        "the file ends too early: the value of metadata key at byte 45 needs 18446744073709551615 bytes, 0 are left";
    // A token length that is negative as a signed integer.
    cve_2025_49847_token_length: Raw::header(0, 1).entry("tokenizer.ggml.tokens", ARRAY).array(STRING, 2).text("a")
        .u64(1 << 63).bytes(b"b") => GgufError::Truncated { .. },
        "the file ends too early: the value of metadata key at byte 86 needs 9223372036854775808 bytes, 1 are left";
    cve_2025_49847_token_length_of_32_bits: Raw::header(0, 1).entry("tokenizer.ggml.tokens", ARRAY).array(STRING, 1)
        .u64(1 << 31).data(64) => GgufError::Truncated { .. },
        "the file ends too early: the value of metadata key at byte 77 needs 2147483648 bytes, 83 are left";
    cve_2024_21825_array_length: Raw::header(0, 1).entry("k", ARRAY).array(U64, u64::MAX / 8 + 1)
        => GgufError::Truncated { .. },
        "the file ends too early: an array at byte 49 needs 18446744073709551615 bytes, 0 are left";
    // A tiny file that claims 2⁴⁰ strings.
    ollama_17042_string_count: Raw::header(0, 1).entry("k", ARRAY).array(STRING, 1 << 40).text("a")
        => GgufError::Truncated { .. },
        "the file ends too early: an array at byte 49 needs 8796093022208 bytes, 9 are left";
    array_count: Raw::header(0, 1).entry("k", ARRAY).array(ARRAY, 2).array(U8, 0) => GgufError::Truncated { .. },
        "the file ends too early: an array at byte 49 needs 24 bytes, 12 are left";
    arrays_five_deep: (0..4).fold(Raw::header(0, 1).entry("k", ARRAY), |raw, _| raw.array(ARRAY, 1)).array(U8, 0)
        => GgufError::Nesting { limit: 4, .. }, "metadata key k nests arrays more than 4 levels deep (at byte 85)";
    // Empty strings need three times as much memory as file space.
    more_metadata_than_the_budget: Raw::header(0, 1).entry("k", ARRAY).array(STRING, 11_200_000).data(89_600_000)
        => GgufError::Budget { .. }, "metadata and tensor directory need more than 256 MiB of memory (at byte 49)";
    escapes_in_a_key: Raw::header(0, 1).entry("\u{1b}[2J\n", 13).bytes(&[0]) => GgufError::ValueType { .. },
        "metadata key \\u{1b}[2J\\n has value type 13 at byte 37, which GGUF does not define";
}

// Alignment.
refused! {
    alignment_0: aligned(U32, 0) => GgufError::Alignment { found: 0 },
        "general.alignment is 0 (allowed: powers of two from 8 to 65536)";
    alignment_4: aligned(U32, 4) => GgufError::Alignment { found: 4 },
        "general.alignment is 4 (allowed: powers of two from 8 to 65536)";
    alignment_48: aligned(U32, 48) => GgufError::Alignment { found: 48 },
        "general.alignment is 48 (allowed: powers of two from 8 to 65536)";
    llama_cpp_24997_alignment_2_gib: aligned(U32, 1 << 31) => GgufError::Alignment { .. },
        "general.alignment is 2147483648 (allowed: powers of two from 8 to 65536)";
    llama_cpp_26318_alignment_of_another_type: aligned(U64, 32).u32(0) => GgufError::WrongType { .. },
        "metadata key general.alignment should be a u32, but is u64 32";
}

// Tensor directory.
refused! {
    empty_tensor_name: Raw::header(1, 0).tensor("", &[4], F32, 0).data(16) => GgufError::NameLength { .. },
        "the tensor name at byte 24 is 0 bytes long (allowed: 1 to 64)";
    long_tensor_name: Raw::header(1, 0).tensor(&"t".repeat(65), &[4], F32, 0).data(16) => GgufError::NameLength { .. },
        "the tensor name at byte 24 is 65 bytes long (allowed: 1 to 64)";
    tensor_name_not_utf8: Raw::header(1, 0).text(b"\xFF").data(64) => GgufError::Utf8 { .. },
        "tensor name \u{FFFD} at byte 32 is not UTF-8";
    duplicate_tensor: Raw::header(2, 0).tensor("t", &[4], F32, 0).tensor("t", &[4], F32, 32).data(64)
        => GgufError::DuplicateTensor { .. }, "tensor t occurs twice";
    no_dimension: one_tensor(&[], F32, 0, 64) => GgufError::Dimensions { found: 0, .. },
        "tensor t has 0 dimensions (allowed: 1 to 4)";
    five_dimensions: one_tensor(&[1; 5], F32, 0, 64) => GgufError::Dimensions { found: 5, .. },
        "tensor t has 5 dimensions (allowed: 1 to 4)";
    cve_2024_21802_dimension_count: Raw::header(1, 0).text("t").u32(u32::MAX).data(64) => GgufError::Dimensions { .. },
        "tensor t has 4294967295 dimensions (allowed: 1 to 4)";
    ghsa_96jg_zero_dimension: one_tensor(&[4, 0], F32, 0, 64) => GgufError::ZeroDimension { axis: 1, .. },
        "dimension 1 of tensor t is zero";
    ghsa_96jg_negative_dimension: one_tensor(&[i64::MIN as u64], F32, 0, 64) => GgufError::TensorSize { .. },
        "the size of tensor t of shape [9223372036854775808] overflows";
    ghsa_96jg_elements_wrap: one_tensor(&[1 << 32, 1 << 32], F32, 0, 64) => GgufError::TensorSize { .. },
        "the size of tensor t of shape [4294967296, 4294967296] overflows";
    ghsa_96jg_bytes_wrap: one_tensor(&[1 << 62], F32, 0, 64) => GgufError::TensorSize { .. },
        "the size of tensor t of shape [4611686018427387904] overflows";
    ghsa_96jg_padded_end_wraps: one_tensor(&[4], F32, u64::MAX - 31, 64) => GgufError::OutOfFile { .. },
        "tensor t has 16 bytes at offset 18446744073709551584 of the data section, which has only 64 bytes";
    cve_2025_53630_sum_of_sizes_wraps:
        (0..4).fold(Raw::header(4, 0), |raw, i| raw.tensor(&format!("t{i}"), &[1 << 60], F32, i << 62)).data(64)
        => GgufError::OutOfFile { .. },
        "tensor t0 has 4611686018427387904 bytes at offset 0 of the data section, which has only 64 bytes";
    // Each size is valid, but the sum of in-memory or padded sizes would wrap.
    cve_2026_27940_memory_of_all_tensors_wraps:
        (0..2).fold(Raw::header(2, 0), |raw, i| raw.tensor(&format!("t{i}"), &[(1 << 61) - 1], F32, i << 63)).data(64)
        => GgufError::OutOfFile { .. },
        "tensor t0 has 9223372036854775804 bytes at offset 0 of the data section, which has only 64 bytes";
    cve_2026_27940_last_tensor_wraps:
        Raw::header(2, 0).tensor("a", &[8], F32, 0).tensor("b", &[(1 << 60) - 8], F32, 32).data(64)
        => GgufError::OutOfFile { .. },
        "tensor b has 4611686018427387872 bytes at offset 32 of the data section, which has only 64 bytes";
    unsupported_type: Raw::header(1, 0).tensor("blk.0.ffn_down_exps.weight", &[256], 36, 0).data(66)
        => GgufError::TensorType { id: 36, .. },
        "tensor blk.0.ffn_down_exps.weight has type IQ4_NL_4_4, which is not supported (supported: F32, F16, BF16, Q8_0, \
         Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K, Q2_K, Q3_K, IQ4_NL, IQ4_XS, TQ2_0, MXFP4, IQ2_XXS, IQ2_XS, IQ2_S, \
         IQ3_XXS, IQ3_S, IQ1_S, IQ1_M, TQ1_0, NVFP4)";
    unknown_type: one_tensor(&[4], 9999, 0, 64) => GgufError::TensorType { id: 9999, .. },
        "tensor t has type number 9999, which is not supported (supported: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, \
         Q5_1, Q4_K, Q5_K, Q6_K, Q2_K, Q3_K, IQ4_NL, IQ4_XS, TQ2_0, MXFP4, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, \
         IQ1_S, IQ1_M, TQ1_0, NVFP4)";
    partial_block: one_tensor(&[128, 2], Q4_K, 0, 144) => GgufError::PartialBlock { .. },
        "tensor t has rows of 128 weights, not a multiple of the block length of Q4_K, 256";
    misaligned_tensor: one_tensor(&[4], F32, 16, 64) => GgufError::Misaligned { .. },
        "tensor t has the data offset 16, not a multiple of the alignment 32";
    cve_2026_7482_tensor_past_the_end: one_tensor(&[4], F32, 0, 15) => GgufError::OutOfFile { .. },
        "tensor t has 16 bytes at offset 0 of the data section, which has only 15 bytes";
    tensor_data_missing: Raw::header(1, 0).tensor("t", &[4], F32, 0) => GgufError::OutOfFile { .. },
        "tensor t has 16 bytes at offset 0 of the data section, which has only 0 bytes";
    overlapping_tensors: Raw::header(2, 0).tensor("late", &[4], F32, 32).tensor("early", &[9], F32, 0).data(64)
        => GgufError::Overlap { .. }, "the data of tensors early and late overlap";
    tensors_in_one_place: Raw::header(2, 0).tensor("a", &[4], F32, 0).tensor("b", &[4], F32, 0).data(64)
        => GgufError::Overlap { .. }, "the data of tensors a and b overlap";
}
