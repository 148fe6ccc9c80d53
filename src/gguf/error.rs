//! Everything that can be wrong with a GGUF file.

use super::shown::Shown;
use crate::quant::{WeightType, ggml_type_name};
use std::fmt;
use std::path::PathBuf;

/// Why a GGUF file could not be read, written, or asked for a value.
///
/// Offsets and lengths are in bytes; offsets count from the start of the file. Messages are one line each; names that
/// come from the file are cut when long, and their control characters escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file could not be opened, mapped or read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A mapped file has become shorter than it was when it was opened.
    #[error("the file was shortened while in use: {len} bytes are left of {was}")]
    Shortened {
        /// Its length when it was opened.
        was: u64,
        /// Its length now.
        len: u64,
    },
    /// The file does not begin with `GGUF`.
    #[error("not a GGUF file: it begins with \"{}\" instead of \"GGUF\"", found.escape_ascii())]
    NotGguf {
        /// The first bytes, four at most.
        found: Vec<u8>,
    },
    /// The file is for big-endian machines.
    #[error("this is a big-endian GGUF file; only little-endian files are supported (convert it with gguf-py)")]
    BigEndian,
    /// The version is none of those that are supported.
    #[error("GGUF version {version} is not supported (supported: 2, 3)")]
    Version {
        /// The file's version.
        version: u32,
    },
    /// The file ends inside something, or claims a length that reaches past its end.
    #[error("the file ends too early: {what} at byte {offset} needs {needed} bytes, {remaining} are left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where it begins.
        offset: u64,
        /// Bytes it needs at least.
        needed: u64,
        /// Bytes between there and the end of the file.
        remaining: u64,
    },
    /// Metadata and tensor directory need more memory than allowed.
    #[error("metadata and tensor directory need more than {} MiB of memory (at byte {offset})", limit >> 20)]
    Budget {
        /// Where the limit was passed.
        offset: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A metadata key is empty or longer than the format allows.
    #[error("the metadata key at byte {offset} is {len} bytes long (allowed: 1 to {max})")]
    KeyLength {
        /// Where the key begins.
        offset: u64,
        /// Its length.
        len: u64,
        /// The greatest length allowed.
        max: u64,
    },
    /// A tensor's name is empty or longer than the format allows.
    #[error("the tensor name at byte {offset} is {len} bytes long (allowed: 1 to {max})")]
    NameLength {
        /// Where the name begins.
        offset: u64,
        /// Its length.
        len: u64,
        /// The greatest length allowed.
        max: u64,
    },
    /// A string is not UTF-8.
    #[error("{what} {} at byte {offset} is not UTF-8", Shown(name))]
    Utf8 {
        /// What kind of string: a metadata key, the value of one, or a tensor name.
        what: &'static str,
        /// The key, or the name as far as it can be read.
        name: String,
        /// Where the string begins.
        offset: u64,
    },
    /// Two metadata entries have one key.
    #[error("metadata key {} occurs twice", Shown(key))]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A metadata value is of a type that the format does not know.
    #[error("metadata key {} has value type {id} at byte {offset}, which GGUF does not define", Shown(key))]
    ValueType {
        /// The key.
        key: String,
        /// The type's number.
        id: u32,
        /// Where the number is.
        offset: u64,
    },
    /// A boolean is neither 0 nor 1.
    #[error("metadata key {} has a boolean of {byte} at byte {offset} (allowed: 0, 1)", Shown(key))]
    Bool {
        /// The key.
        key: String,
        /// What is there.
        byte: u8,
        /// Where it is.
        offset: u64,
    },
    /// Arrays within arrays within arrays.
    #[error("metadata key {} nests arrays more than {limit} deep (at byte {offset})", Shown(key))]
    Nesting {
        /// The key.
        key: String,
        /// The greatest depth allowed.
        limit: u32,
        /// Where the first array too many begins.
        offset: u64,
    },
    /// A metadata value is not of the kind asked for, or does not fit in it.
    #[error("metadata key {} should be {expected}, but is {found}", Shown(key))]
    WrongType {
        /// The key.
        key: String,
        /// What was asked for.
        expected: &'static str,
        /// What is there: type and value, cut when long.
        found: String,
    },
    /// `general.alignment` is not a power of two between 8 and 65536.
    #[error("general.alignment is {found} (allowed: powers of two from 8 to 65536)")]
    Alignment {
        /// The value.
        found: u32,
    },
    /// Two tensors have one name.
    #[error("tensor {} occurs twice", Shown(tensor))]
    DuplicateTensor {
        /// The name.
        tensor: String,
    },
    /// A tensor has no dimension, or more than four.
    #[error("tensor {} has {found} dimensions (allowed: 1 to 4)", Shown(tensor))]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// How many it has.
        found: u32,
    },
    /// A dimension of a tensor is zero.
    #[error("dimension {axis} of tensor {} is zero", Shown(tensor))]
    ZeroDimension {
        /// The tensor.
        tensor: String,
        /// Which dimension, from 0.
        axis: usize,
    },
    /// A tensor's weights or bytes cannot be counted in 63 bits.
    #[error("tensor {} of shape {shape:?} is too large to count its bytes", Shown(tensor))]
    TensorSize {
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        shape: Vec<u64>,
    },
    /// A tensor is of a type that this crate does not read.
    #[error("tensor {} has type {}, which is not supported (supported: {})", Shown(tensor), TypeName(*id), Supported)]
    TensorType {
        /// The tensor.
        tensor: String,
        /// ggml's number of the type; [`ggml_type_name`] knows its name.
        id: u32,
    },
    /// Rows of a tensor do not divide into its type's blocks.
    #[error("tensor {} has rows of {row_len} weights, not a multiple of {ty}'s {}", Shown(tensor), ty.block_len())]
    PartialBlock {
        /// The tensor.
        tensor: String,
        /// Its row length.
        row_len: u64,
        /// Its type.
        ty: WeightType,
    },
    /// A tensor's data do not begin at a multiple of the file's alignment.
    #[error("tensor {} has data offset {offset}, not a multiple of the alignment {alignment}", Shown(tensor))]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Where its data begin, counted from the start of the data section.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A tensor's data are not wholly within the file.
    #[error(
        "tensor {} has {bytes} bytes from {offset} in the data section, which has only {available} in this file",
        Shown(tensor)
    )]
    OutOfFile {
        /// The tensor.
        tensor: String,
        /// Where its data begin, counted from the start of the data section.
        offset: u64,
        /// How many bytes they are.
        bytes: u64,
        /// Bytes of the data section.
        available: u64,
    },
    /// Two tensors share bytes.
    #[error("the data of tensors {} and {} overlap", Shown(first), Shown(second))]
    Overlap {
        /// The tensor that begins first.
        first: String,
        /// The tensor that begins before the first one's end.
        second: String,
    },
    /// A tensor given to the writer has another number of bytes than its type and shape need.
    #[error("tensor {} needs {expected} bytes, but was given {found}", Shown(tensor))]
    DataLength {
        /// The tensor.
        tensor: String,
        /// Bytes by type and shape.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
}

struct TypeName(u32);

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ggml_type_name(self.0) {
            Some(name) => f.write_str(name),
            None => write!(f, "number {}", self.0),
        }
    }
}

struct Supported;

impl fmt::Display for Supported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, ty) in WeightType::ALL.into_iter().enumerate() {
            write!(f, "{}{ty}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
