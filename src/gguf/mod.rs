//! GGUF files: the metadata and tensors of a language model in one file.
//!
//! The format is ggml's (`docs/gguf.md` in the ggml repository), versions 2 and 3, little-endian:
//!
//! ```text
//! "GGUF"  version u32  tensor count u64  metadata count u64
//! metadata:  key string, value type u32, value       (a string is: length u64, UTF-8 bytes)
//! tensors:   name string, number of dimensions u32, dimensions u64.., type u32, data offset u64
//! padding to the alignment (`general.alignment` in the metadata, 32 by default)
//! tensor data, each at a multiple of the alignment
//! ```
//!
//! Files are not trusted. A [`Gguf`] has been validated: lengths are checked against the bytes present, sizes for
//! overflow, tensor data for being inside the file and not overlapping. No allocation is sized by a length that was not
//! checked, and metadata and tensor directory together take at most 256 MiB.

mod directory;
mod error;
mod index;
mod metadata;
mod read_value;
mod reader;
mod shown;
mod source;
#[cfg(not(target_arch = "wasm32"))]
mod split;
mod tensor;
mod value;
#[cfg(any(test, feature = "test-util"))]
mod writer;

pub(crate) use shown::{Quoted, Shown};

pub use error::GgufError;
pub use metadata::Metadata;
pub use tensor::{TensorInfo, UnreadTensor};
pub use value::{Array, Value};
#[cfg(any(test, feature = "test-util"))]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub use writer::GgufWriter;

use directory::Directory;
use source::Source;
use std::fmt;
use std::ops::Range;
#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;
use std::sync::Arc;

/// A GGUF file, or all files of a split model: metadata, tensor directory and data. Cloning is cheap: clones share the files.
#[derive(Clone)]
pub struct Gguf {
    /// The parts of a split model, else one.
    sources: Arc<Vec<Source>>,
    directory: Arc<Directory>,
}

impl Gguf {
    /// Opens a file by mapping it into memory; pages are read on first use. A split model is opened by its first part,
    /// `…-00001-of-0000N.gguf`: the other parts are beside it.
    ///
    /// The file must not change while it is open. Renaming another file over it is safe; writing to it changes what
    /// [`data`](Self::data) returns. If the file is truncated, the operating system kills a process that touches the
    /// missing part. Loading a model calls [`check_length`](Self::check_length) every few MiB to detect this, but a
    /// race remains; use [`read`](Self::read) if the file may be truncated.
    ///
    /// # Errors
    /// [`GgufError::Io`] if a file cannot be opened or mapped; [`GgufError::Part`] for a part that is missing or wrong;
    /// [`GgufError::NotFirstPart`]; the errors of [`from_bytes`](Self::from_bytes).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        Self::parts_from(path.as_ref(), Source::map)?.readable()
    }

    /// Reads a whole file into memory, or all parts of a split model.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        Self::parts_from(path.as_ref(), Source::read)?.readable()
    }

    /// Opens a file as [`open`](Self::open) does if `map`, else as [`read`](Self::read), also one with tensors of types that
    /// this crate does not read, from which no model can be loaded: [`unread_tensors`](Self::unread_tensors) lists them.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), but for [`GgufError::TensorType`].
    #[cfg(all(not(target_arch = "wasm32"), any(feature = "cli", feature = "test-util")))]
    pub fn inspect(path: impl AsRef<Path>, map: bool) -> Result<Self, GgufError> {
        Self::parts_from(path.as_ref(), if map { Source::map } else { Source::read })
    }

    /// Refuses a file with tensors of types that are not read.
    fn readable(self) -> Result<Self, GgufError> {
        self.directory.unread.first().map_or(Ok(()), |tensor| Err(tensor.reason()))?;
        Ok(self)
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn parts_from(path: &Path, open: fn(&Path) -> Result<Source, GgufError>) -> Result<Self, GgufError> {
        let first = open(path)?;
        let directory = Directory::parse(first.bytes(), first.len())?;
        let (sources, directory) = split::join(path, first, directory, open)?;
        Ok(Self { sources: Arc::new(sources), directory: Arc::new(directory) })
    }

    /// Parses the bytes of a whole file.
    ///
    /// # Errors
    /// A [`GgufError`] that says what is invalid or not supported.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::parse(Source::Owned(bytes))
    }

    /// Parses the beginning of a file of `file_len` bytes: metadata and tensor directory. [`data`](Self::data) returns nothing
    /// for tensors beyond it.
    ///
    /// # Errors
    /// Those of [`from_bytes`](Self::from_bytes).
    #[cfg(any(feature = "cli", feature = "test-util"))]
    pub fn from_header(bytes: Vec<u8>, file_len: u64) -> Result<Self, GgufError> {
        Self::parse(Source::Header { bytes, file_len })
    }

    fn parse(source: Source) -> Result<Self, GgufError> {
        let directory = Directory::parse(source.bytes(), source.len())?;
        Self { sources: Arc::new(vec![source]), directory: Arc::new(directory) }.readable()
    }

    /// Returns the number of files: the parts of a split model that were opened, else 1.
    pub fn parts(&self) -> u32 {
        self.sources.len() as u32
    }

    /// Returns the version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.directory.version
    }

    /// Returns the alignment of tensor data in bytes: a power of two from 8 to 65536.
    pub fn alignment(&self) -> u64 {
        self.directory.alignment
    }

    /// Returns the length of all files in bytes.
    pub fn file_len(&self) -> u64 {
        self.sources.iter().map(Source::len).sum()
    }

    fn source(&self, tensor: &TensorInfo) -> Option<&Source> {
        self.sources.get(tensor.part as usize)
    }

    /// Returns the metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.directory.metadata
    }

    /// Returns all tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.directory.tensors
    }

    /// Returns the tensors of types that this crate does not read, in file order: none, but of a file that was opened by
    /// `inspect`.
    pub fn unread_tensors(&self) -> &[UnreadTensor] {
        &self.directory.unread
    }

    /// Returns the tensor named `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.directory.index.find(&self.directory.tensors, |tensor| &tensor.name, name)
    }

    /// Tells the operating system that the bytes `range` of a tensor's data are not needed soon (`MADV_DONTNEED`).
    ///
    /// The pages of a mapped file are then dropped from memory and read again on the next use. The data does not
    /// change. The part of the range beyond the tensor is ignored.
    pub fn advise_dontneed(&self, tensor: &TensorInfo, range: Range<u64>) {
        if let (Some(range), Some(source)) = (file_range(tensor, range), self.source(tensor)) {
            source.advise_dontneed(range);
        }
    }

    /// Asks the operating system to read the bytes `range` of a tensor's data ahead of use (`MADV_WILLNEED`).
    pub fn prefetch(&self, tensor: &TensorInfo, range: Range<u64>) {
        if let (Some(range), Some(source)) = (file_range(tensor, range), self.source(tensor)) {
            source.prefetch(range);
        }
    }

    /// Checks that a mapped file has not been truncated since it was opened.
    ///
    /// # Errors
    /// [`GgufError::Shortened`] if it has.
    pub fn check_length(&self) -> Result<(), GgufError> {
        for source in self.sources.iter() {
            let was = source.len();
            if let Some(len) = source.current_len().filter(|len| *len < was) {
                return Err(GgufError::Shortened { was, len });
            }
        }
        Ok(())
    }

    /// Returns the data of a tensor: `tensor.bytes` bytes, row after row, each row a whole number of blocks.
    ///
    /// For a tensor of another file this is the same byte range of this file, or empty if out of bounds.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        let range = || {
            let start = usize::try_from(tensor.offset).ok()?;
            let end = start.checked_add(usize::try_from(tensor.bytes).ok()?)?;
            self.source(tensor)?.bytes().get(start..end)
        };
        range().unwrap_or_default()
    }
}

/// Returns the range of the file that holds `range` of a tensor's data, clamped to the tensor.
fn file_range(tensor: &TensorInfo, range: Range<u64>) -> Option<Range<usize>> {
    let at = |byte: u64| tensor.offset.checked_add(byte).and_then(|at| usize::try_from(at).ok());
    let end = range.end.min(tensor.bytes);
    if range.start < end { Some(at(range.start)?..at(end)?) } else { None }
}

impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gguf")
            .field("version", &self.version())
            .field("file_len", &self.file_len())
            .field("metadata", &self.metadata().len())
            .field("tensors", &self.tensors().len())
            .finish_non_exhaustive()
    }
}
