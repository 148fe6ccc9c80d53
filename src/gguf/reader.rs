//! A cursor over untrusted bytes. Lengths are checked against the length of the file before anything is allocated.

use super::GgufError;

/// Memory limit for metadata and tensor directory in bytes. A model with 150,000 tokens needs about 20 MiB.
pub(super) const BUDGET: u64 = 256 << 20;

/// A position in the file, of which the beginning is present, and the rest of the memory budget.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    file_len: u64,
    position: usize,
    budget: u64,
    wanted: Option<u64>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], file_len: u64) -> Self {
        Self { bytes, file_len, position: 0, budget: BUDGET, wanted: None }
    }

    /// Returns how many bytes from the start of the file are needed, after an error because the file has more bytes than are
    /// present.
    pub(super) fn wanted(&self) -> Option<u64> {
        self.wanted
    }

    /// Returns the bytes that are present.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the length of the file.
    pub(super) fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Returns the position in bytes from the start of the file.
    pub(super) fn offset(&self) -> u64 {
        self.position as u64
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.position..).unwrap_or_default()
    }

    /// Returns the bytes from the position to the end of the file.
    fn remaining(&self) -> u64 {
        self.file_len.saturating_sub(self.offset())
    }

    /// Returns the error for `needed` bytes that are not present.
    fn missing(&mut self, what: &'static str, needed: u64) -> GgufError {
        let remaining = self.remaining();
        if needed <= remaining {
            self.wanted = Some(self.offset() + needed);
            return GgufError::Truncated { what, offset: self.offset(), needed, remaining: self.rest().len() as u64 };
        }
        GgufError::Truncated { what, offset: self.offset(), needed, remaining }
    }

    /// Checks that the file has `count · size` bytes more.
    pub(super) fn check(&mut self, what: &'static str, count: u64, size: u64) -> Result<(), GgufError> {
        let needed = count.saturating_mul(size);
        if needed <= self.remaining() { Ok(()) } else { Err(self.missing(what, needed)) }
    }

    /// Takes `count · size` bytes from the memory budget.
    pub(super) fn charge(&mut self, count: u64, size: usize) -> Result<(), GgufError> {
        let cost = count.saturating_mul(size as u64);
        match self.budget.checked_sub(cost) {
            Some(left) => self.budget = left,
            None => return Err(GgufError::Budget { offset: self.offset(), limit: BUDGET }),
        }
        Ok(())
    }

    /// Reads the next `len` bytes.
    pub(super) fn take(&mut self, what: &'static str, len: u64) -> Result<&'a [u8], GgufError> {
        let taken = usize::try_from(len).ok().and_then(|len| self.rest().get(..len));
        let taken = taken.ok_or_else(|| self.missing(what, len))?;
        self.position += taken.len();
        Ok(taken)
    }

    /// Reads the next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        match self.rest().first_chunk() {
            Some(taken) => {
                self.position += N;
                Ok(*taken)
            }
            None => Err(self.missing(what, N as u64)),
        }
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }
}
