//! Storage of a file's bytes: memory-mapped or owned.

#[cfg(not(target_arch = "wasm32"))]
use {super::GgufError, std::fs::File, std::path::Path};

/// The bytes of a whole file.
pub(super) enum Source {
    #[cfg(not(target_arch = "wasm32"))]
    Mapped {
        map: memmap2::Mmap,
        file: File,
    },
    Owned(Vec<u8>),
    /// The beginning of a file whose data are not needed.
    #[cfg(any(feature = "cli", feature = "test-util"))]
    Header {
        bytes: Vec<u8>,
        file_len: u64,
    },
}

impl Source {
    /// Maps a file into memory.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn map(path: &Path) -> Result<Self, GgufError> {
        let map = |file: File| {
            // An empty file cannot be mapped everywhere.
            if file.metadata()?.len() == 0 {
                return Ok(Self::Owned(Vec::new()));
            }
            // SAFETY: the mapping is owned by this value and only read. Other processes may still truncate or rewrite
            // the file; `Gguf::open` documents that, and all uses treat the bytes as untrusted.
            #[allow(unsafe_code)]
            let map = unsafe { memmap2::Mmap::map(&file)? };
            Ok(Self::Mapped { map, file })
        };
        File::open(path).and_then(map).map_err(|source| GgufError::Io { path: path.to_owned(), source: source.into() })
    }

    /// Reads a file into memory.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn read(path: &Path) -> Result<Self, GgufError> {
        std::fs::read(path)
            .map(Self::Owned)
            .map_err(|source| GgufError::Io { path: path.to_owned(), source: source.into() })
    }

    /// Returns the current length of a mapped file, if the system reports it.
    pub(super) fn current_len(&self) -> Option<u64> {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Mapped { file, .. } => file.metadata().map(|metadata| metadata.len()).ok(),
            _ => None,
        }
    }

    /// Drops the pages of `range` from memory (`MADV_DONTNEED`), where the system supports it.
    #[cfg_attr(not(unix), allow(unused_variables))]
    pub(super) fn advise_dontneed(&self, range: std::ops::Range<usize>) {
        match self {
            #[cfg(unix)]
            Self::Mapped { map, .. } if range.start < range.end && range.end <= map.len() => {
                // SAFETY: the mapping is backed by the file and never written, so dropped pages are read from the file
                // again on the next access.
                #[allow(unsafe_code)]
                let advised =
                    unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
                // A hint: on failure the pages stay until the file is unmapped.
                let _ = advised;
            }
            _ => {}
        }
    }

    /// Reads `range` ahead of use (`MADV_WILLNEED`), where the system supports it.
    #[cfg_attr(not(unix), allow(unused_variables))]
    pub(super) fn prefetch(&self, range: std::ops::Range<usize>) {
        match self {
            #[cfg(unix)]
            Self::Mapped { map, .. } if range.start < range.end && range.end <= map.len() => {
                // A hint: on failure the pages are read on first access.
                let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
            }
            _ => {}
        }
    }

    /// Returns the length of the file in bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            #[cfg(any(feature = "cli", feature = "test-util"))]
            Self::Header { file_len, .. } => *file_len,
            _ => self.bytes().len() as u64,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Mapped { map, .. } => map,
            Self::Owned(bytes) => bytes,
            #[cfg(any(feature = "cli", feature = "test-util"))]
            Self::Header { bytes, .. } => bytes,
        }
    }
}
