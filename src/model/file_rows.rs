//! The rows of a matrix in its file.

use std::{borrow::Cow, ops::Range};

use super::tensor_rows::{Join, MatrixInfo, RowRange};
use crate::gguf::{Gguf, GgufError, TensorInfo};

/// The bytes of a tensor in memory that are packed and sent at a time.
const SLICE: u64 = 8 << 20;
/// The most bytes of a read for each byte that is wanted.
const MOST_READ: u64 = 2;

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

/// Bytes of a tensor, and their place among those of the rows that were asked for.
struct Piece {
    tensor: usize,
    from: Range<u64>,
    to: usize,
}

impl FileRows {
    /// Returns the rows of a matrix. Only its scales are read: not if the rows are only to be `planned`.
    pub(super) async fn new(gguf: &Gguf, info: &MatrixInfo<'_>, planned: bool) -> Result<Self, GgufError> {
        let tensors = info.rows.iter().map(|rows| (rows.tensor.clone(), rows.range)).collect();
        let mut scales = Vec::new();
        for tensor in info.rows.iter().map(|rows| rows.scales.filter(|_| !planned)) {
            scales.push(match tensor {
                Some(tensor) => {
                    let bytes = gguf.read_data(tensor, 0..tensor.bytes).await?;
                    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
                }
                None => Vec::new(),
            });
        }
        Ok(Self { gguf: gguf.clone(), tensors, scales, join: info.join, row_bytes: info.planes.file_row_bytes() })
    }

    /// Returns the number of rows, a multiple of `step`, to read at a time.
    pub(super) fn rows_at_once(&self, step: u64) -> u64 {
        let bytes = if self.is_in_memory() { SLICE } else { self.gguf.slice_bytes() };
        (bytes / self.row_bytes.max(1) / step).max(1) * step
    }

    /// Returns whether the file is in memory, so that nothing is gained by reading ahead.
    pub(super) fn is_in_memory(&self) -> bool {
        self.gguf.is_in_memory()
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
        if self.join == Join::Interleaved {
            return rows.map(|row| self.interleaved(row)).map(|(i, row)| of(i, row)).collect();
        }
        let parts = self.parts(rows).enumerate();
        parts.flat_map(|(i, (_, _, rows))| rows.map(move |row| (i, row))).map(|(i, row)| of(i, row)).collect()
    }

    /// Reads the bytes of `rows`.
    ///
    /// # Errors
    /// [`GgufError::Shortened`] if a mapped file no longer has all of them; the errors of [`Gguf::read_data`].
    pub(super) async fn get(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>, GgufError> {
        let bytes = (rows.end - rows.start) * self.row_bytes;
        let mut pieces = self.pieces(rows);
        if let [piece] = &pieces[..] {
            return match self.tensors.get(piece.tensor) {
                Some((tensor, _)) => self.gguf.read_data(tensor, piece.from.clone()).await,
                None => Ok(Cow::default()),
            };
        }
        let mut joined = vec![0; bytes as usize];
        // Pieces of a tensor that are near to each other are one read.
        pieces.sort_unstable_by_key(|piece| (piece.tensor, piece.from.start));
        let mut rest = &pieces[..];
        while let Some(first) = rest.first() {
            let (mut span, mut wanted, mut count) = (first.from.clone(), 0, 0);
            for piece in rest {
                let (end, needed) = (span.end.max(piece.from.end), wanted + (piece.from.end - piece.from.start));
                if piece.tensor != first.tensor || end - span.start > MOST_READ * needed {
                    break;
                }
                (span.end, wanted, count) = (end, needed, count + 1);
            }
            let (near, others) = rest.split_at(count);
            let Some((tensor, _)) = self.tensors.get(first.tensor) else { break };
            let read = self.gguf.read_data(tensor, span.clone()).await?;
            for piece in near {
                let at = (piece.from.start - span.start) as usize;
                let len = (piece.from.end - piece.from.start) as usize;
                if let (Some(from), Some(to)) = (read.get(at..at + len), joined.get_mut(piece.to..piece.to + len)) {
                    to.copy_from_slice(from);
                }
            }
            rest = others;
        }
        Ok(joined.into())
    }

    /// Returns where the bytes of `rows` are, in their order, neighbours as one.
    fn pieces(&self, rows: Range<u64>) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut to = 0;
        let mut add = |tensor: usize, rows: Range<u64>| {
            let from = self.bytes(rows);
            let len = (from.end - from.start) as usize;
            match pieces.last_mut().filter(|last| last.tensor == tensor && last.from.end == from.start) {
                Some(last) => last.from.end = from.end,
                None => pieces.push(Piece { tensor, from, to }),
            }
            to += len;
        };
        match self.join {
            Join::Concat => {
                for (i, (_, range, rows)) in self.parts(rows).enumerate().filter(|(_, (_, _, rows))| !rows.is_empty()) {
                    if range.is_whole() {
                        add(i, rows);
                        continue;
                    }
                    rows.map(|row| range.in_tensor(row)).for_each(|row| add(i, row..row + 1));
                }
            }
            Join::Interleaved => {
                for (i, row) in rows.map(|row| self.interleaved(row)) {
                    let row = self.tensors.get(i).map_or(0, |(_, range)| range.in_tensor(row));
                    add(i, row..row + 1);
                }
            }
        }
        pieces
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

    /// Returns the rows of tensor `i` that belong to the matrix.
    fn count(&self, i: usize) -> u64 {
        let rows = |(tensor, range): &(TensorInfo, RowRange)| {
            tensor.bytes / self.row_bytes.max(1) / range.stride.max(1) * range.count
        };
        self.tensors.get(i).map_or(0, rows)
    }

    /// Returns the tensor that has row `row` of an interleaved matrix, and which of its rows that is.
    fn interleaved(&self, row: u64) -> (usize, u64) {
        let half = self.tensors.len() / 2;
        let (mut i, mut row) = ((row % 2) as usize * half, row / 2);
        while !(i + 1).is_multiple_of(half.max(1)) && row >= self.count(i) {
            row -= self.count(i);
            i += 1;
        }
        (i, row)
    }

    /// Returns the rows of each tensor's range that are among `rows`.
    fn parts(&self, rows: Range<u64>) -> impl Iterator<Item = (&TensorInfo, RowRange, Range<u64>)> {
        let turns = if self.join == Join::Interleaved { 2 } else { 1 };
        let rows = rows.start / turns..rows.end.div_ceil(turns);
        let half = (self.tensors.len() / turns as usize).max(1);
        let mut begins = 0;
        self.tensors.iter().enumerate().map(move |(i, (tensor, range))| {
            if i.is_multiple_of(half) {
                begins = 0;
            }
            let count = self.count(i);
            let within = |row: u64| row.saturating_sub(begins).min(count);
            let part = within(rows.start)..within(rows.end);
            begins += count;
            (tensor, *range, part)
        })
    }
}
