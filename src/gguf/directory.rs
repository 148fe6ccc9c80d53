//! The file up to the tensor data: header, metadata and tensor directory.

use super::index::Index;
use super::metadata::{Metadata, wrong_type};
use super::reader::Reader;
use super::source::{ByteSource, read_exact};
use super::tensor::{self, Entry, TensorInfo, UnreadTensor};
use super::{GgufError, Value, read_value};

pub(super) const MAGIC: [u8; 4] = *b"GGUF";
/// Version 3 only added big-endian files to version 2.
pub(super) const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";
pub(super) const DEFAULT_ALIGNMENT: u32 = 32;
/// Size in bytes of the shortest metadata entry: key length, one byte of key, type, one byte of value.
const MIN_ENTRY: u64 = 8 + 1 + 4 + 1;
/// The bytes that are read first of a source, and the bytes from which on each read doubles them.
const FIRST_READ: u64 = 64 << 10;
const FAST_GROWTH: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Directory {
    pub(super) version: u32,
    pub(super) alignment: u64,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) unread: Vec<UnreadTensor>,
    pub(super) index: Index,
}

impl Directory {
    /// Reads the directory at the beginning of a file of `file_len` bytes.
    pub(super) fn parse(bytes: &[u8], file_len: u64) -> Result<Self, GgufError> {
        Self::read(&mut Reader::new(bytes, file_len))
    }

    /// Reads the directory of a source in ranges: its length is unknown before it is read.
    pub(super) async fn fetch(source: &dyn ByteSource) -> Result<Self, GgufError> {
        if let Some(bytes) = source.bytes() {
            return Self::parse(bytes, source.byte_len());
        }
        let file_len = source.byte_len();
        let mut bytes = Vec::new();
        let mut wanted = FIRST_READ;
        loop {
            let have = bytes.len() as u64;
            bytes.extend_from_slice(&read_exact(source, have..wanted.min(file_len)).await?);
            let mut reader = Reader::new(&bytes, file_len);
            let result = Self::read(&mut reader);
            match reader.wanted() {
                None => return result,
                Some(needed) => {
                    let have = bytes.len() as u64;
                    let growth = if have < FAST_GROWTH { 4 } else { 2 };
                    wanted = needed.max(growth * have);
                }
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, GgufError> {
        let (bytes, file_len) = (reader.bytes(), reader.file_len());
        if !bytes.starts_with(&MAGIC) {
            return Err(GgufError::NotGguf { found: bytes.iter().take(MAGIC.len()).copied().collect() });
        }
        reader.take("the header", MAGIC.len() as u64)?;
        let version = reader.u32("the version")?;
        if !VERSIONS.contains(&version) {
            let swapped = (1..=*VERSIONS.end()).contains(&version.swap_bytes());
            return Err(if swapped { GgufError::BigEndian } else { GgufError::Version { version } });
        }
        let tensor_count = reader.u64("the number of tensors")?;
        let entry_count = reader.u64("the number of metadata entries")?;

        reader.check("the metadata", entry_count, MIN_ENTRY)?;
        let mut entries = Vec::new();
        for _ in 0..entry_count {
            entries.push(read_value::entry(reader)?);
        }
        let metadata = Metadata::new(entries)?;
        let alignment = alignment(&metadata)?;

        reader.check("the tensor directory", tensor_count, tensor::MIN_ENTRY)?;
        let (mut tensors, mut unread) = (Vec::new(), Vec::new());
        for _ in 0..tensor_count {
            match tensor::entry(reader, alignment)? {
                Entry::Read(tensor) => tensors.push(tensor),
                Entry::Unread(tensor) => unread.push(tensor),
            }
        }
        let index =
            Index::new(&tensors, |tensor| &tensor.name).map_err(|tensor| GgufError::DuplicateTensor { tensor })?;
        // At most 64 KiB past an offset in memory, so this does not saturate.
        let data_start = reader.offset().div_ceil(alignment).saturating_mul(alignment);
        tensor::place(&mut tensors, data_start, file_len)?;
        Ok(Self { version, alignment, metadata, tensors, unread, index })
    }
}

/// Returns whether the format allows this alignment of tensor data.
pub(super) fn alignment_is_valid(alignment: u32) -> bool {
    alignment.is_power_of_two() && (8..=65_536).contains(&alignment)
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let alignment = match metadata.get(ALIGNMENT_KEY) {
        None => DEFAULT_ALIGNMENT,
        // ggml refuses any other integer type.
        Some(Value::U32(alignment)) => *alignment,
        Some(value) => return Err(wrong_type(ALIGNMENT_KEY, "a u32", value)),
    };
    if alignment_is_valid(alignment) { Ok(alignment.into()) } else { Err(GgufError::Alignment { found: alignment }) }
}
