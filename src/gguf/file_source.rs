//! Files of the file system: mapped into memory, or read in ranges.

use super::{
    GgufError,
    source::{ByteSource, ReadFuture, beyond_end, slice},
};
use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

fn io_error(path: &Path, error: io::Error) -> GgufError {
    GgufError::Io { path: path.to_owned(), source: error.into() }
}

/// A file that is mapped into memory.
struct Mapped {
    path: PathBuf,
    map: memmap2::Mmap,
    file: File,
}

/// Maps a file into memory.
pub(super) fn map(path: &Path) -> Result<Arc<dyn ByteSource>, GgufError> {
    let map = |file: File| -> io::Result<Arc<dyn ByteSource>> {
        // An empty file cannot be mapped everywhere.
        if file.metadata()?.len() == 0 {
            return Ok(Arc::new(Vec::new()));
        }
        // SAFETY: the mapping is owned by this value and only read. Other processes may still truncate or rewrite
        // the file; `Gguf::open` documents that, and all uses treat the bytes as untrusted.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Arc::new(Mapped { path: path.to_owned(), map, file }))
    };
    File::open(path).and_then(map).map_err(|error| io_error(path, error))
}

/// Reads a file into memory.
pub(super) fn read(path: &Path) -> Result<Arc<dyn ByteSource>, GgufError> {
    let bytes = std::fs::read(path).map_err(|error| io_error(path, error))?;
    Ok(Arc::new(bytes))
}

impl ByteSource for Mapped {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn byte_len(&self) -> u64 {
        self.map.len() as u64
    }

    fn read(&self, range: Range<u64>) -> ReadFuture<'_> {
        Box::pin(std::future::ready(slice(&self.map, &range).map(Cow::Borrowed).ok_or_else(beyond_end)))
    }

    fn bytes(&self) -> Option<&[u8]> {
        Some(&self.map)
    }

    fn current_len(&self) -> Option<u64> {
        self.file.metadata().map(|metadata| metadata.len()).ok()
    }

    /// Drops the pages of `range` from memory (`MADV_DONTNEED`), where the system supports it.
    #[cfg_attr(not(unix), allow(unused_variables))]
    fn advise_dontneed(&self, range: Range<u64>) {
        #[cfg(unix)]
        if let Some(bytes) = slice(&self.map, &range).filter(|bytes| !bytes.is_empty()) {
            // SAFETY: the mapping is backed by the file and never written, so dropped pages are read from the file
            // again on the next access.
            #[allow(unsafe_code)]
            let advised = unsafe {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                self.map.unchecked_advise_range(advice, range.start as usize, bytes.len())
            };
            // A hint: on failure the pages stay until the file is unmapped.
            let _ = advised;
        }
    }

    /// Reads `range` ahead of use (`MADV_WILLNEED`), where the system supports it.
    #[cfg_attr(not(unix), allow(unused_variables))]
    fn prefetch(&self, range: Range<u64>) {
        #[cfg(unix)]
        if let Some(bytes) = slice(&self.map, &range).filter(|bytes| !bytes.is_empty()) {
            // A hint: on failure the pages are read on first access.
            let _ = self.map.advise_range(memmap2::Advice::WillNeed, range.start as usize, bytes.len());
        }
    }
}

/// A file that is read in ranges, not mapped: for file systems that cannot map files, and files that another process may
/// truncate. Reads block.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    file: Mutex<File>,
    len: u64,
}

impl FileSource {
    /// Opens a file.
    ///
    /// # Errors
    /// [`GgufError::Io`] if the file cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        let path = path.as_ref();
        let open = |file: File| Ok(Self { path: path.to_owned(), len: file.metadata()?.len(), file: Mutex::new(file) });
        File::open(path).and_then(open).map_err(|error| io_error(path, error))
    }

    fn read_now(&self, range: &Range<u64>) -> io::Result<Vec<u8>> {
        let len = range.end.saturating_sub(range.start);
        let mut bytes = Vec::new();
        if range.end > self.len || usize::try_from(len).is_ok_and(|len| bytes.try_reserve_exact(len).is_err()) {
            return Err(beyond_end());
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(range.start))?;
        (&mut *file).take(len).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl ByteSource for FileSource {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn byte_len(&self) -> u64 {
        self.len
    }

    fn read(&self, range: Range<u64>) -> ReadFuture<'_> {
        Box::pin(async move { self.read_now(&range).map(Cow::Owned) })
    }
}
