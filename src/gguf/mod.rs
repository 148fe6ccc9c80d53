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
#[cfg(not(target_arch = "wasm32"))]
mod file_source;
mod index;
mod metadata;
mod read_value;
mod reader;
mod shown;
mod source;
mod split;
mod tensor;
mod value;
#[cfg(any(test, feature = "test-util"))]
mod writer;

pub(crate) use shown::{Quoted, Shown};

pub use error::GgufError;
#[cfg(not(target_arch = "wasm32"))]
pub use file_source::FileSource;
pub use metadata::Metadata;
pub use source::{ByteSource, MaybeSendSync, ReadFuture};
pub use tensor::{TensorInfo, UnreadTensor};
pub use value::{Array, Value};
#[cfg(any(test, feature = "test-util"))]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub use writer::GgufWriter;

use directory::Directory;
use source::{read_exact, slice};
use split::SplitModel;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The bytes of a source that loading a model holds at most, by default.
const READ_WINDOW: u64 = 64 << 20;

/// A GGUF file, or all files of a split model: metadata, tensor directory and data. Cloning is cheap: clones share the files.
#[derive(Clone)]
pub struct Gguf {
    /// The parts of a split model, else one.
    sources: Arc<Vec<Arc<dyn ByteSource>>>,
    directory: Arc<Directory>,
    read_window: u64,
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
        Self::parts_from(path.as_ref(), file_source::map)?.readable()
    }

    /// Reads a whole file into memory, or all parts of a split model.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        Self::parts_from(path.as_ref(), file_source::read)?.readable()
    }

    /// Opens a file as [`open`](Self::open) does if `map`, else as [`read`](Self::read), also one with tensors of types that
    /// this crate does not read, from which no model can be loaded: [`unread_tensors`](Self::unread_tensors) lists them.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), but for [`GgufError::TensorType`].
    #[cfg(all(not(target_arch = "wasm32"), any(feature = "cli", feature = "test-util")))]
    pub fn inspect(path: impl AsRef<Path>, map: bool) -> Result<Self, GgufError> {
        Self::parts_from(path.as_ref(), if map { file_source::map } else { file_source::read })
    }

    /// Refuses a file with tensors of types that are not read.
    fn readable(self) -> Result<Self, GgufError> {
        self.directory.unread.first().map_or(Ok(()), |tensor| Err(tensor.reason()))?;
        Ok(self)
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn parts_from(path: &Path, open: fn(&Path) -> Result<Arc<dyn ByteSource>, GgufError>) -> Result<Self, GgufError> {
        let parse = |source: &dyn ByteSource| Directory::parse(source.bytes().unwrap_or_default(), source.byte_len());
        let first = open(path)?;
        let mut model = SplitModel::new(path, parse(&*first)?)?;
        let mut sources = vec![first];
        for number in 1..model.count() {
            let part = model.path(path, number)?;
            let source = open(&part).map_err(|error| match error {
                GgufError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                    model.wrong(number, &part, "the file is missing".to_owned())
                }
                error => error,
            })?;
            model.add(number, &part, parse(&*source))?;
            sources.push(source);
        }
        Ok(Self::new(sources, model.finish(path)?))
    }

    fn new(sources: Vec<Arc<dyn ByteSource>>, directory: Directory) -> Self {
        Self { sources: Arc::new(sources), directory: Arc::new(directory), read_window: READ_WINDOW }
    }

    /// Opens a file by its source. Only metadata and tensor directory are read, in growing ranges from the start on; loading a
    /// model reads the tensors. All checks are those of [`from_bytes`](Self::from_bytes).
    ///
    /// # Errors
    /// A [`GgufError`] that says what is invalid or not supported; [`GgufError::Read`] and [`GgufError::WrongRange`] if the
    /// source fails.
    pub async fn from_source(source: impl ByteSource + 'static) -> Result<Self, GgufError> {
        Self::from_sources([source]).await
    }

    /// Opens a split model by the sources of all its parts, in their order, or a whole file by one source.
    ///
    /// # Errors
    /// Those of [`from_source`](Self::from_source); [`GgufError::Part`] for a part that is missing or wrong;
    /// [`GgufError::NotFirstPart`].
    pub async fn from_sources<S: ByteSource + 'static>(parts: impl IntoIterator<Item = S>) -> Result<Self, GgufError> {
        let sources: Vec<Arc<dyn ByteSource>> =
            parts.into_iter().map(|part| Arc::new(part) as Arc<dyn ByteSource>).collect();
        let Some(first) = sources.first() else { return Err(GgufError::NotGguf { found: Vec::new() }) };
        let name = first.name();
        let path = Path::new(&name);
        let mut model = SplitModel::new(path, Directory::fetch(&**first).await?)?;
        for (source, number) in sources.iter().zip(0..).skip(1) {
            let name = source.name();
            if number >= model.count() {
                return Err(model.wrong(number, Path::new(&name), "it is more than the first part says".to_owned()));
            }
            model.add(number, Path::new(&name), Directory::fetch(&**source).await)?;
        }
        let given = sources.len() as u32;
        if given < model.count() {
            return Err(model.wrong(given, path, format!("only {given} of the parts were given")));
        }
        let directory = model.finish(path)?;
        Self::new(sources, directory).readable()
    }

    /// Sets the bytes that loading a model from a source holds at most at a time (default: 64 MiB): of the file, and of the
    /// same in the layout of device memory. A vector, or 16 rows of a matrix, are held though they exceed it. Sources in
    /// memory are not copied, whatever the window.
    #[must_use]
    pub fn read_window(self, bytes: u64) -> Self {
        Self { read_window: bytes, ..self }
    }

    /// Parses the bytes of a whole file.
    ///
    /// # Errors
    /// A [`GgufError`] that says what is invalid or not supported.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::parse(bytes)
    }

    /// Parses the beginning of a file of `file_len` bytes: metadata and tensor directory. [`data`](Self::data) returns nothing
    /// for tensors beyond it.
    ///
    /// # Errors
    /// Those of [`from_bytes`](Self::from_bytes).
    #[cfg(any(feature = "cli", feature = "test-util"))]
    pub fn from_header(bytes: Vec<u8>, file_len: u64) -> Result<Self, GgufError> {
        Self::parse(source::Header { bytes, file_len })
    }

    fn parse(source: impl ByteSource + 'static) -> Result<Self, GgufError> {
        let directory = Directory::parse(source.bytes().unwrap_or_default(), source.byte_len())?;
        Self::new(vec![Arc::new(source)], directory).readable()
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
        self.sources.iter().map(|source| source.byte_len()).sum()
    }

    fn source(&self, tensor: &TensorInfo) -> Option<&dyn ByteSource> {
        self.sources.get(tensor.part as usize).map(|source| &**source)
    }

    /// Returns whether all bytes are in memory or mapped into it, so that [`data`](Self::data) returns them.
    pub fn is_in_memory(&self) -> bool {
        self.sources.iter().all(|source| source.bytes().is_some())
    }

    /// Returns the bytes of a source that may be read at once: an eighth of the window, since loading holds those being sent
    /// and those read ahead, each in the file's layout and another.
    pub(crate) fn slice_bytes(&self) -> u64 {
        self.read_window / 8
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
            let was = source.byte_len();
            if let Some(len) = source.current_len().filter(|len| *len < was) {
                return Err(GgufError::Shortened { was, len });
            }
        }
        Ok(())
    }

    /// Returns the data of a tensor: `tensor.bytes` bytes, row after row, each row a whole number of blocks. Returns nothing if
    /// the file is [not in memory](Self::is_in_memory).
    ///
    /// For a tensor of another file this is the same byte range of this file, or empty if out of bounds.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        let range = || slice(self.source(tensor)?.bytes()?, &file_range(tensor, 0..tensor.bytes)?);
        range().unwrap_or_default()
    }

    /// Reads the bytes `range` of a tensor's data, clamped to the tensor. Nothing is copied if the file is in memory.
    ///
    /// # Errors
    /// [`GgufError::Read`] or [`GgufError::WrongRange`] if the source fails; [`GgufError::Shortened`] if a mapped file has been
    /// truncated.
    pub async fn read_data(&self, tensor: &TensorInfo, range: Range<u64>) -> Result<Cow<'_, [u8]>, GgufError> {
        self.check_length()?;
        match (file_range(tensor, range), self.source(tensor)) {
            (Some(range), Some(source)) => read_exact(source, range).await,
            _ => Ok(Cow::Borrowed(&[])),
        }
    }
}

/// Returns the range of the file that holds `range` of a tensor's data, clamped to the tensor.
fn file_range(tensor: &TensorInfo, range: Range<u64>) -> Option<Range<u64>> {
    let end = range.end.min(tensor.bytes);
    if range.start < end {
        Some(tensor.offset.checked_add(range.start)?..tensor.offset.checked_add(end)?)
    } else {
        None
    }
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
