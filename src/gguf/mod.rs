//! GGUF files: metadata and tensors of a language model in one file.
//!
//! The format is ggml's (`docs/gguf.md` in the ggml repository), versions 2 and 3, little-endian:
//!
//! ```text
//! "GGUF"  version u32  tensor count u64  metadata count u64
//! metadata:  key string, value type u32, value       (a string is: length u64, UTF-8 bytes)
//! tensors:   name string, number of dimensions u32, dimensions u64.., type u32, data offset u64
//! padding to the alignment (32, or what the metadata entry `general.alignment` says)
//! data of the tensors, each at a multiple of the alignment
//! ```
//!
//! Files are not trusted. Whatever a [`Gguf`] holds has been checked: every length against the bytes that are there,
//! every size without overflow, every tensor's data to be within the file and its own. Nothing is allocated because a
//! file claims a length, and metadata and directory together take at most 256 MiB.

mod directory;
mod error;
mod index;
mod metadata;
mod read_value;
mod reader;
mod shown;
mod source;
mod tensor;
mod value;
mod writer;

pub(crate) use shown::{Quoted, Shown};

pub use error::GgufError;
pub use metadata::Metadata;
pub use tensor::TensorInfo;
pub use value::{Array, Value};
pub use writer::GgufWriter;

use directory::Directory;
use source::Source;
use std::fmt;
use std::ops::Range;
#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;
use std::sync::Arc;

/// A GGUF file: its bytes, and what they say. Clones share it.
#[derive(Clone)]
pub struct Gguf {
    source: Arc<Source>,
    directory: Arc<Directory>,
}

impl Gguf {
    /// Opens a file by mapping it into memory: only what is used is read.
    ///
    /// The file must not change while it is open. Replacing it by renaming another over it is safe; writing to it
    /// changes what [`data`](Self::data) returns. Where it has been shortened, the system ends a process that touches the part
    /// that is gone: call [`check_length`](Self::check_length) before data are looked at, as loading a model does every few
    /// MiB. In between it can still happen; where that cannot be ruled out, use [`read`](Self::read).
    ///
    /// # Errors
    /// [`GgufError::Io`] if the file cannot be opened or mapped, and all that [`from_bytes`](Self::from_bytes) gives.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        Self::parse(Source::map(path.as_ref())?)
    }

    /// Reads a whole file into memory.
    ///
    /// # Errors
    /// [`GgufError::Io`] if the file cannot be read, and all that [`from_bytes`](Self::from_bytes) gives.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        Self::parse(Source::read(path.as_ref())?)
    }

    /// Takes the bytes of a whole file.
    ///
    /// # Errors
    /// A [`GgufError`] that says what in the file is not as it should be, or not supported.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::parse(Source::Owned(bytes))
    }

    fn parse(source: Source) -> Result<Self, GgufError> {
        let directory = Directory::parse(source.bytes())?;
        Ok(Self { source: Arc::new(source), directory: Arc::new(directory) })
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.directory.version
    }

    /// What the tensors' data are aligned to, in bytes: a power of two from 8 to 65536.
    pub fn alignment(&self) -> u64 {
        self.directory.alignment
    }

    /// Length of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.source.bytes().len() as u64
    }

    /// The metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.directory.metadata
    }

    /// All tensors, in the directory's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.directory.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.directory.index.find(&self.directory.tensors, |tensor| &tensor.name, name)
    }

    /// Says that of a tensor's data the bytes `range`, counted from the first, will not be looked at soon: those of a mapped
    /// file then take no memory of the process until they are. What they are does not change, and a range that the tensor
    /// does not have is left out.
    pub fn release(&self, tensor: &TensorInfo, range: Range<u64>) {
        if let Some(range) = place(tensor, range) {
            self.source.release(range);
        }
    }

    /// Says that of a tensor's data the bytes `range` will be looked at soon: those of a mapped file are then read meanwhile,
    /// where the system does that.
    pub fn want(&self, tensor: &TensorInfo, range: Range<u64>) {
        if let Some(range) = place(tensor, range) {
            self.source.want(range);
        }
    }

    /// Looks whether the file is still there in full, if it is mapped.
    ///
    /// # Errors
    /// [`GgufError::Shortened`] if it has become shorter than it was.
    pub fn check_length(&self) -> Result<(), GgufError> {
        let was = self.file_len();
        match self.source.present_len() {
            Some(len) if len < was => Err(GgufError::Shortened { was, len }),
            _ => Ok(()),
        }
    }

    /// The data of a tensor of this file: `tensor.bytes` bytes, rows one after another, each whole blocks of its type.
    ///
    /// For the tensor of another file the bytes at its place in this one, or none if there is no such place.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        let range = || {
            let start = usize::try_from(tensor.offset).ok()?;
            let end = start.checked_add(usize::try_from(tensor.bytes).ok()?)?;
            self.source.bytes().get(start..end)
        };
        range().unwrap_or_default()
    }
}

/// Where in the file a range of a tensor's data is, as far as the tensor has it.
fn place(tensor: &TensorInfo, range: Range<u64>) -> Option<Range<usize>> {
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
