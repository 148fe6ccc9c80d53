//! Sources of a file's bytes: the trait, and files that are in memory.

use super::GgufError;
use std::{borrow::Cow, future::Future, io, ops::Range, pin::Pin};

/// `Send + Sync`, except in a browser, whose values belong to one thread.
#[cfg(not(target_arch = "wasm32"))]
pub trait MaybeSendSync: Send + Sync {}
#[cfg(not(target_arch = "wasm32"))]
impl<T: Send + Sync + ?Sized> MaybeSendSync for T {}
/// `Send + Sync`, except in a browser, whose values belong to one thread.
#[cfg(target_arch = "wasm32")]
pub trait MaybeSendSync {}
#[cfg(target_arch = "wasm32")]
impl<T: ?Sized> MaybeSendSync for T {}

/// The bytes of a range, or why they cannot be read. `Send`, except in a browser.
#[cfg(not(target_arch = "wasm32"))]
pub type ReadFuture<'a> = Pin<Box<dyn Future<Output = io::Result<Cow<'a, [u8]>>> + Send + 'a>>;
/// The bytes of a range, or why they cannot be read. `Send`, except in a browser.
#[cfg(target_arch = "wasm32")]
pub type ReadFuture<'a> = Pin<Box<dyn Future<Output = io::Result<Cow<'a, [u8]>>> + 'a>>;

/// A source of a file's bytes, which are read in ranges: a file, a `Blob`, a handle of the origin private file system, HTTP
/// range requests.
///
/// A source is not trusted: ranges of another length than was asked for are errors. It is expected to return the same bytes
/// for the same range each time.
///
/// ```
/// use std::{borrow::Cow, future, ops::Range};
/// use ferrum_wgpu::gguf::{ByteSource, ReadFuture};
///
/// /// A file of zeros.
/// struct Zeros(u64);
///
/// impl ByteSource for Zeros {
///     fn name(&self) -> String {
///         "zeros".to_owned()
///     }
///
///     fn byte_len(&self) -> u64 {
///         self.0
///     }
///
///     fn read(&self, range: Range<u64>) -> ReadFuture<'_> {
///         Box::pin(future::ready(Ok(Cow::Owned(vec![0; (range.end - range.start) as usize]))))
///     }
/// }
/// ```
pub trait ByteSource: MaybeSendSync {
    /// Returns a name for messages: a path, a URL.
    fn name(&self) -> String;

    /// Returns the length of the file in bytes. It must not change.
    fn byte_len(&self) -> u64;

    /// Starts to read the bytes of `range`, which is within the file. Dropping the future cancels the read. Two reads may be
    /// in progress at once. Work that does not need the caller, such as a request, is best started before or by the first
    /// poll: loading a model polls the next read once before it converts the bytes of the one before.
    fn read(&self, range: Range<u64>) -> ReadFuture<'_>;

    /// Returns all bytes, if they are in memory or mapped into it. Nothing is copied then, and [`read`](Self::read) is not
    /// called.
    fn bytes(&self) -> Option<&[u8]> {
        None
    }

    /// Returns the current length of a file that may have been truncated since it was opened, if it is known.
    fn current_len(&self) -> Option<u64> {
        None
    }

    /// Says that the bytes of `range` are not needed soon.
    fn advise_dontneed(&self, _range: Range<u64>) {}

    /// Says that the bytes of `range` will be read soon.
    fn prefetch(&self, _range: Range<u64>) {}
}

impl<T: ByteSource + ?Sized> ByteSource for std::sync::Arc<T> {
    fn name(&self) -> String {
        (**self).name()
    }

    fn byte_len(&self) -> u64 {
        (**self).byte_len()
    }

    fn read(&self, range: Range<u64>) -> ReadFuture<'_> {
        (**self).read(range)
    }

    fn bytes(&self) -> Option<&[u8]> {
        (**self).bytes()
    }

    fn current_len(&self) -> Option<u64> {
        (**self).current_len()
    }

    fn advise_dontneed(&self, range: Range<u64>) {
        (**self).advise_dontneed(range);
    }

    fn prefetch(&self, range: Range<u64>) {
        (**self).prefetch(range);
    }
}

impl ByteSource for Vec<u8> {
    fn name(&self) -> String {
        "a file in memory".to_owned()
    }

    fn byte_len(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, range: Range<u64>) -> ReadFuture<'_> {
        Box::pin(std::future::ready(slice(self, &range).map(Cow::Borrowed).ok_or_else(beyond_end)))
    }

    fn bytes(&self) -> Option<&[u8]> {
        Some(self)
    }
}

/// Reads exactly the bytes of `range`.
pub(super) async fn read_exact(source: &dyn ByteSource, range: Range<u64>) -> Result<Cow<'_, [u8]>, GgufError> {
    let (offset, wanted) = (range.start, range.end.saturating_sub(range.start));
    if let Some(bytes) = source.bytes() {
        let bytes = slice(bytes, &range).ok_or_else(|| read_error(source, offset, wanted, beyond_end()))?;
        return Ok(Cow::Borrowed(bytes));
    }
    if wanted == 0 {
        return Ok(Cow::Borrowed(&[]));
    }
    let bytes = source.read(range).await.map_err(|error| read_error(source, offset, wanted, error))?;
    let found = bytes.len() as u64;
    if found == wanted { Ok(bytes) } else { Err(GgufError::WrongRange { name: source.name(), offset, wanted, found }) }
}

fn read_error(source: &dyn ByteSource, offset: u64, len: u64, error: io::Error) -> GgufError {
    GgufError::Read { name: source.name(), offset, len, source: error.into() }
}

/// Returns the bytes of `range`, if all are there.
pub(super) fn slice<'a>(bytes: &'a [u8], range: &Range<u64>) -> Option<&'a [u8]> {
    bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}

pub(super) fn beyond_end() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the range is beyond the end")
}

/// The beginning of a file whose data are not needed.
#[cfg(any(feature = "cli", feature = "test-util"))]
pub(super) struct Header {
    pub(super) bytes: Vec<u8>,
    pub(super) file_len: u64,
}

#[cfg(any(feature = "cli", feature = "test-util"))]
impl ByteSource for Header {
    fn name(&self) -> String {
        "the beginning of a file".to_owned()
    }

    fn byte_len(&self) -> u64 {
        self.file_len
    }

    fn read(&self, range: Range<u64>) -> ReadFuture<'_> {
        self.bytes.read(range)
    }

    fn bytes(&self) -> Option<&[u8]> {
        Some(&self.bytes)
    }
}
