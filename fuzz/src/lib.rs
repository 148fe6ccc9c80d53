//! Shared code of the fuzz targets: a memory limit, and inputs decoded into values.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fmt::Display,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The limit on allocated memory. Metadata of a file may take 256 MiB.
const LIMIT: usize = 768 << 20;

/// The system's allocator with a limit of [`LIMIT`] in total. It catches large allocations even if the memory is never
/// touched.
struct Limited(AtomicUsize);

#[global_allocator]
static ALLOCATOR: Limited = Limited(AtomicUsize::new(0));

// SAFETY: every call is forwarded to the system's allocator unchanged.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.0.fetch_add(layout.size(), Relaxed).saturating_add(layout.size()) > LIMIT {
            std::process::abort();
        }
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.0.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Checks that an error message or a displayed value is one short line without control characters.
pub fn check_line(shown: impl Display) {
    let line = shown.to_string();
    assert!(line.len() < 20_000 && !line.chars().any(char::is_control), "{line:?}");
}

/// A decoder of values from an input. Yields zeros after its end.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    pub fn u64(&mut self) -> u64 {
        let mut word = [0; 8];
        let taken = self.bytes(8);
        word[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(word)
    }

    /// Returns a number, often an edge case: small, near a power of two, or arbitrary.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=0x7F => small.into(),
            power @ 0x80..=0xBF => 1 << (power & 63),
            power @ 0xC0..=0xEF => (1_u64 << (power & 63).min(63)).wrapping_sub(1),
            0xF0..=0xF7 => u64::MAX - u64::from(self.byte()),
            0xF8..=0xFB => u64::from(self.byte()) | u64::from(self.byte()) << 8,
            _ => self.u64(),
        }
    }

    /// Returns text of up to 255 bytes.
    pub fn text(&mut self) -> String {
        let len = self.byte();
        String::from_utf8_lossy(self.bytes(len.into())).into_owned()
    }

    /// Returns an index into a list of `len` elements, below 65,536.
    pub fn index(&mut self, len: usize) -> usize {
        (usize::from(self.byte()) | usize::from(self.byte()) << 8) % len.max(1)
    }

    /// Returns an index into a list of `len` elements, below 256.
    pub fn pick(&mut self, len: usize) -> usize {
        usize::from(self.byte()) % len.max(1)
    }
}
