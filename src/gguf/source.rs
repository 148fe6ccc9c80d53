//! Where a file's bytes are: in memory, or mapped.

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
            // SAFETY: the map is private to this value and only read. That no other process shortens or rewrites the
            // file meanwhile cannot be ensured; `Gguf::open` says so, and every use treats the bytes as untrusted.
            #[allow(unsafe_code)]
            let map = unsafe { memmap2::Mmap::map(&file)? };
            Ok(Self::Mapped { map, file })
        };
        File::open(path).and_then(map).map_err(|source| GgufError::Io { path: path.to_owned(), source })
    }

    /// Reads a file into memory.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn read(path: &Path) -> Result<Self, GgufError> {
        std::fs::read(path).map(Self::Owned).map_err(|source| GgufError::Io { path: path.to_owned(), source })
    }

    /// How long a mapped file is now, if the system says so.
    pub(super) fn present_len(&self) -> Option<u64> {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Mapped { file, .. } => file.metadata().map(|metadata| metadata.len()).ok(),
            Self::Owned(_) => None,
        }
    }

    /// Gives the memory of some bytes back to the system, where that is possible without losing them.
    #[cfg_attr(not(unix), allow(unused_variables))]
    pub(super) fn release(&self, range: std::ops::Range<usize>) {
        match self {
            #[cfg(unix)]
            Self::Mapped { map, .. } if range.start < range.end && range.end <= map.len() => {
                // SAFETY: the map is shared with the file and never written, so that its pages are the file's: those that
                // are given back are read from it again when they are next looked at.
                #[allow(unsafe_code)]
                let advised =
                    unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
                // Where the system does not do it, the memory is only given back with the map.
                let _ = advised;
            }
            _ => {}
        }
    }

    /// Has some bytes read from the file in advance, where that is possible.
    #[cfg_attr(not(unix), allow(unused_variables))]
    pub(super) fn want(&self, range: std::ops::Range<usize>) {
        match self {
            #[cfg(unix)]
            Self::Mapped { map, .. } if range.start < range.end && range.end <= map.len() => {
                // Where the system does not do it, the bytes are read when they are looked at.
                let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
            }
            _ => {}
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Mapped { map, .. } => map,
            Self::Owned(bytes) => bytes,
        }
    }
}
