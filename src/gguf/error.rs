//! Errors of the GGUF reader and writer.

use super::shown::Shown;
use crate::quant::{WeightType, ggml_type_name};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// An error from reading or writing a GGUF file, or from looking up metadata.
///
/// Offsets and lengths are in bytes; offsets count from the start of the file unless stated otherwise. Each message is
/// one line: names from the file are truncated and their control characters escaped.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file could not be opened, mapped or read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: Arc<std::io::Error>,
    },
    /// A source of bytes failed.
    #[error("cannot read {len} bytes at byte {offset} of {}", Shown(name))]
    Read {
        /// The source's name.
        name: String,
        /// The offset of the range.
        offset: u64,
        /// The length of the range.
        len: u64,
        /// The source's error.
        source: Arc<std::io::Error>,
    },
    /// A source of bytes returned a range of another length than was asked for.
    #[error("{} returned {found} bytes for the {wanted} bytes at byte {offset}", Shown(name))]
    WrongRange {
        /// The source's name.
        name: String,
        /// The offset of the range.
        offset: u64,
        /// The length that was asked for.
        wanted: u64,
        /// The length that was returned.
        found: u64,
    },
    /// A file is not the first part of a split model.
    #[error("this is part {} of {count} of a split model: open the first part{}", number + 1, OpenFirst(first))]
    NotFirstPart {
        /// Its number, from 0 on.
        number: u32,
        /// The number of parts.
        count: u32,
        /// The name of the first part, if the file's own name says.
        first: Option<PathBuf>,
    },
    /// A part of a split model is missing, or does not belong to it.
    #[error("part {} of {count} of a split model, {}: {reason}", number + 1, path.display())]
    Part {
        /// Its number, from 0 on.
        number: u32,
        /// The number of parts.
        count: u32,
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A memory-mapped file was truncated after it was opened.
    #[error("the file was truncated while in use: it had {was} bytes and now has {len}")]
    Shortened {
        /// The length when it was opened.
        was: u64,
        /// The current length.
        len: u64,
    },
    /// The file does not start with `GGUF`.
    #[error("not a GGUF file: it begins with \"{}\" instead of \"GGUF\"", found.escape_ascii())]
    NotGguf {
        /// The first bytes, four at most.
        found: Vec<u8>,
    },
    /// The file is big-endian.
    #[error("this is a big-endian GGUF file; only little-endian files are supported (convert it with gguf-py)")]
    BigEndian,
    /// The format version is not supported.
    #[error("GGUF version {version} is not supported (supported: 2, 3)")]
    Version {
        /// The file's version.
        version: u32,
    },
    /// The file ends in the middle of a field, or a length in it reaches past its end.
    #[error("the file ends too early: {what} at byte {offset} needs {needed} bytes, {remaining} are left")]
    Truncated {
        /// The part that was being read.
        what: &'static str,
        /// The offset of its first byte.
        offset: u64,
        /// The bytes it needs at least.
        needed: u64,
        /// The bytes from there to the end of the file.
        remaining: u64,
    },
    /// The metadata and the tensor directory need more memory than the reader allows.
    #[error("metadata and tensor directory need more than {} MiB of memory (at byte {offset})", limit >> 20)]
    Budget {
        /// The offset at which the limit was exceeded.
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
    /// A tensor name is empty or longer than the format allows.
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
        /// The kind of string: a metadata key, a metadata value, or a tensor name.
        what: &'static str,
        /// The key or the tensor's name, with invalid bytes replaced.
        name: String,
        /// The offset of the string.
        offset: u64,
    },
    /// Two metadata entries have the same key.
    #[error("metadata key {} occurs twice", Shown(key))]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A metadata value has a type that the format does not define.
    #[error("metadata key {} has value type {id} at byte {offset}, which GGUF does not define", Shown(key))]
    ValueType {
        /// The key.
        key: String,
        /// The type number.
        id: u32,
        /// The offset of the type number.
        offset: u64,
    },
    /// A boolean is neither 0 nor 1.
    #[error("metadata key {} has a boolean with the value {byte} at byte {offset} (allowed: 0, 1)", Shown(key))]
    Bool {
        /// The key.
        key: String,
        /// The value found.
        byte: u8,
        /// Its offset.
        offset: u64,
    },
    /// Arrays are nested too deeply.
    #[error("metadata key {} nests arrays more than {limit} levels deep (at byte {offset})", Shown(key))]
    Nesting {
        /// The key.
        key: String,
        /// The greatest depth allowed.
        limit: u32,
        /// The offset of the first array beyond the limit.
        offset: u64,
    },
    /// A metadata value has another type than the one requested, or is out of range for it.
    #[error("metadata key {} should be {expected}, but is {found}", Shown(key))]
    WrongType {
        /// The key.
        key: String,
        /// The type requested.
        expected: &'static str,
        /// The type and the value found, truncated if long.
        found: String,
    },
    /// `general.alignment` is not a power of two from 8 to 65536.
    #[error("general.alignment is {found} (allowed: powers of two from 8 to 65536)")]
    Alignment {
        /// The value.
        found: u32,
    },
    /// Two tensors have the same name.
    #[error("tensor {} occurs twice", Shown(tensor))]
    DuplicateTensor {
        /// The name.
        tensor: String,
    },
    /// A tensor has no dimensions, or more than four.
    #[error("tensor {} has {found} dimensions (allowed: 1 to 4)", Shown(tensor))]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// The number of dimensions.
        found: u32,
    },
    /// A dimension of a tensor is zero.
    #[error("dimension {axis} of tensor {} is zero", Shown(tensor))]
    ZeroDimension {
        /// The tensor.
        tensor: String,
        /// The index of the dimension, from 0.
        axis: usize,
    },
    /// The number of a tensor's elements or bytes overflows 63 bits.
    #[error("the size of tensor {} of shape {shape:?} overflows", Shown(tensor))]
    TensorSize {
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        shape: Vec<u64>,
    },
    /// A tensor has a type that this crate does not support.
    #[error("tensor {} has type {}, which is not supported (supported: {})", Shown(tensor), TypeName(*id), Supported)]
    TensorType {
        /// The tensor.
        tensor: String,
        /// ggml's number of the type.
        id: u32,
    },
    /// The row length of a tensor is not a multiple of its type's block length.
    #[error(
        "tensor {} has rows of {row_len} weights, not a multiple of the block length of {ty}, {}",
        Shown(tensor),
        ty.block_len()
    )]
    PartialBlock {
        /// The tensor.
        tensor: String,
        /// The row length in weights.
        row_len: u64,
        /// The tensor's type.
        ty: WeightType,
    },
    /// A tensor's data offset is not a multiple of the file's alignment.
    #[error("tensor {} has the data offset {offset}, not a multiple of the alignment {alignment}", Shown(tensor))]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// The offset of its data from the start of the data section.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A tensor's data extends past the end of the file.
    #[error(
        "tensor {} has {bytes} bytes at offset {offset} of the data section, which has only {available} bytes",
        Shown(tensor)
    )]
    OutOfFile {
        /// The tensor.
        tensor: String,
        /// The offset of its data from the start of the data section.
        offset: u64,
        /// The length of the data.
        bytes: u64,
        /// The length of the data section.
        available: u64,
    },
    /// The data of two tensors overlap.
    #[error("the data of tensors {} and {} overlap", Shown(first), Shown(second))]
    Overlap {
        /// The tensor with the lower offset.
        first: String,
        /// The tensor that starts before the first one ends.
        second: String,
    },
    /// The data passed to the writer does not match the tensor's type and shape.
    #[error("tensor {} needs {expected} bytes of data, but {found} were given", Shown(tensor))]
    DataLength {
        /// The tensor.
        tensor: String,
        /// The number of bytes that type and shape need.
        expected: u64,
        /// The number of bytes given.
        found: u64,
    },
}

struct OpenFirst<'a>(&'a Option<PathBuf>);

impl fmt::Display for OpenFirst<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |path| write!(f, ", {}", path.display()))
    }
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
