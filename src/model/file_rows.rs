//! The rows of a matrix in its file.

use std::{borrow::Cow, ops::Range};

use super::tensor_rows::{Join, MatrixInfo, RowRange};
use crate::gguf::{Gguf, GgufError, TensorInfo};

/// The rows of a matrix in its file: of one tensor, or of several.
#[derive(Debug)]
pub(super) struct FileRows {
    gguf: Gguf,
    tensors: Vec<(TensorInfo, RowRange)>,
    /// A factor of each tensor, or of each of its experts' matrices. None is 1.
    scales: Vec<Vec<f32>>,
    join: Join,
    row_bytes: u64,
}

impl FileRows {
    pub(super) fn new(gguf: &Gguf, info: &MatrixInfo<'_>) -> Self {
        let tensors = info.rows.iter().map(|rows| (rows.tensor.clone(), rows.range)).collect();
        let scales = |tensor: &TensorInfo| {
            let bytes = gguf.data(tensor).as_chunks().0;
            bytes.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        };
        let scales = info.rows.iter().map(|rows| rows.scales.map(scales).unwrap_or_default()).collect();
        Self { gguf: gguf.clone(), tensors, scales, join: info.join, row_bytes: info.planes.file_row_bytes() }
    }

    /// Returns the factors of `rows`; none if no tensor has any.
    pub(super) fn scales(&self, rows: Range<u64>) -> Vec<f32> {
        if self.scales.iter().all(Vec::is_empty) {
            return Vec::new();
        }
        let of = |i: usize, row: u64| {
            let (tensor, range) = &self.tensors[i];
            let of_expert = (tensor.rows() / (self.scales[i].len() as u64).max(1)).max(1);
            self.scales[i].get((range.in_tensor(row) / of_expert) as usize).copied().unwrap_or(1.0)
        };
        let turns = self.tensors.len().max(1) as u64;
        if self.join == Join::Interleaved {
            return rows.map(|row| of((row % turns) as usize, row / turns)).collect();
        }
        let parts = self.parts(rows).enumerate();
        parts.flat_map(|(i, (_, _, rows))| rows.map(move |row| (i, row))).map(|(i, row)| of(i, row)).collect()
    }

    /// Returns the bytes of `rows`.
    ///
    /// # Errors
    /// [`GgufError::Shortened`] if the file no longer has all of them.
    pub(super) fn get(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>, GgufError> {
        self.gguf.check_length()?;
        let of = |tensor, rows: Range<u64>| {
            let bytes = self.bytes(rows);
            self.gguf.data(tensor).get(bytes.start as usize..bytes.end as usize).unwrap_or_default()
        };
        if let [(tensor, range)] = &self.tensors[..]
            && range.is_whole()
        {
            return Ok(of(tensor, rows).into());
        }
        let mut joined = Vec::with_capacity(((rows.end - rows.start) * self.row_bytes) as usize);
        match self.join {
            Join::Concat => {
                for (tensor, range, rows) in self.parts(rows) {
                    if range.is_whole() {
                        joined.extend_from_slice(of(tensor, rows));
                        continue;
                    }
                    for row in rows.map(|row| range.in_tensor(row)) {
                        joined.extend_from_slice(of(tensor, row..row + 1));
                    }
                }
            }
            Join::Interleaved => {
                let turns = self.tensors.len().max(1) as u64;
                for row in rows {
                    let (tensor, range) = &self.tensors[(row % turns) as usize];
                    let row = range.in_tensor(row / turns);
                    joined.extend_from_slice(of(tensor, row..row + 1));
                }
            }
        }
        Ok(joined.into())
    }

    /// Advises the system that `rows` of a mapped file are not needed soon.
    pub(super) fn advise_dontneed(&self, rows: Range<u64>) {
        self.parts(rows).for_each(|(tensor, range, rows)| self.gguf.advise_dontneed(tensor, self.span(range, rows)));
    }

    /// Advises the system to read `rows` of a mapped file ahead.
    pub(super) fn prefetch(&self, rows: Range<u64>) {
        self.parts(rows).for_each(|(tensor, range, rows)| self.gguf.prefetch(tensor, self.span(range, rows)));
    }

    fn bytes(&self, rows: Range<u64>) -> Range<u64> {
        rows.start * self.row_bytes..rows.end * self.row_bytes
    }

    /// Returns the bytes of a tensor from the first of `rows` of a range to the last.
    fn span(&self, range: RowRange, rows: Range<u64>) -> Range<u64> {
        if rows.is_empty() {
            return 0..0;
        }
        self.bytes(range.in_tensor(rows.start)..range.in_tensor(rows.end - 1) + 1)
    }

    /// Returns the rows of each tensor's range that are among `rows`.
    fn parts(&self, rows: Range<u64>) -> impl Iterator<Item = (&TensorInfo, RowRange, Range<u64>)> {
        let turns = self.tensors.len().max(1) as u64;
        let mut begins = 0;
        self.tensors.iter().map(move |(tensor, range)| match self.join {
            Join::Interleaved => (tensor, *range, rows.start / turns..rows.end.div_ceil(turns)),
            Join::Concat => {
                let count = tensor.bytes / self.row_bytes.max(1) / range.stride.max(1) * range.count;
                let within = |row: u64| row.saturating_sub(begins).min(count);
                let part = within(rows.start)..within(rows.end);
                begins += count;
                (tensor, *range, part)
            }
        })
    }
}
