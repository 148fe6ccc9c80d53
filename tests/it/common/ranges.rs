//! A source of bytes that is read in ranges and counts what is asked of it.

use std::{
    borrow::Cow,
    future::poll_fn,
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};

use ferrum_wgpu::gguf::{ByteSource, ReadFuture};

/// What was asked of a [`Ranges`].
#[derive(Debug, Default)]
pub struct Asked {
    /// The number of ranges.
    pub reads: AtomicU64,
    /// The bytes of all ranges.
    pub bytes: AtomicU64,
    /// The bytes of the longest range of tensor data.
    pub longest: AtomicU64,
    /// The reads in progress, and the most of them.
    now: AtomicU64,
    pub most: AtomicU64,
}

/// Bytes of which the library does not know that they are in memory.
#[derive(Clone)]
pub struct Ranges {
    pub bytes: Arc<Vec<u8>>,
    /// The length that it says it has.
    pub len: u64,
    /// The first byte of the tensors' data.
    pub data: u64,
    /// The polls for which each read is pending.
    pub pending: u32,
    /// The read that fails, counted from 0.
    pub fails_at: Option<u64>,
    /// The bytes that a read has more than was asked for.
    pub longer: i64,
    /// The read from which on `longer` counts.
    pub longer_from: u64,
    pub asked: Arc<Asked>,
}

impl Ranges {
    pub fn new(bytes: Vec<u8>) -> Self {
        let len = bytes.len() as u64;
        Self {
            bytes: Arc::new(bytes),
            len,
            data: 0,
            pending: 0,
            fails_at: None,
            longer: 0,
            longer_from: 0,
            asked: Arc::default(),
        }
    }

    fn answer(&self, range: &Range<u64>, read: u64) -> io::Result<Vec<u8>> {
        if self.fails_at == Some(read) {
            return Err(io::Error::other("the connection was lost"));
        }
        let longer = if read >= self.longer_from { self.longer } else { 0 };
        let len = (range.end - range.start).saturating_add_signed(longer) as usize;
        let mut bytes: Vec<u8> = self.bytes.iter().skip(range.start as usize).copied().collect();
        if longer > 0 {
            bytes.resize(bytes.len().max(len), 0);
        }
        bytes.truncate(len);
        Ok(bytes)
    }
}

impl ByteSource for Ranges {
    fn name(&self) -> String {
        "https://example.com/model.gguf".to_owned()
    }

    fn byte_len(&self) -> u64 {
        self.len
    }

    fn read(&self, range: Range<u64>) -> ReadFuture<'_> {
        let asked = &self.asked;
        let read = asked.reads.fetch_add(1, Ordering::Relaxed);
        let len = range.end - range.start;
        asked.bytes.fetch_add(len, Ordering::Relaxed);
        if self.data > 0 && range.start >= self.data {
            asked.longest.fetch_max(len, Ordering::Relaxed);
        }
        let mut pending = self.pending;
        Box::pin(async move {
            let now = asked.now.fetch_add(1, Ordering::Relaxed) + 1;
            asked.most.fetch_max(now, Ordering::Relaxed);
            poll_fn(|context| match pending.checked_sub(1) {
                None => Poll::Ready(()),
                Some(left) => {
                    pending = left;
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
            })
            .await;
            asked.now.fetch_sub(1, Ordering::Relaxed);
            self.answer(&range, read).map(Cow::Owned)
        })
    }
}
