//! Where a file's bytes are: in memory, or mapped.

#[cfg(not(target_arch = "wasm32"))]
use {super::GgufError, std::fs::File, std::path::Path};

/// The bytes of a whole file.
pub(super) enum Source {
    #[cfg(not(target_arch = "wasm32"))]
    Mapped(memmap2::Mmap),
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
            Ok(Self::Mapped(map))
        };
        File::open(path).and_then(map).map_err(|source| GgufError::Io { path: path.to_owned(), source })
    }

    /// Reads a file into memory.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn read(path: &Path) -> Result<Self, GgufError> {
        std::fs::read(path).map(Self::Owned).map_err(|source| GgufError::Io { path: path.to_owned(), source })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}
