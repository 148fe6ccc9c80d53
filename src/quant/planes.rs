//! The layout of weights in device memory: the file's bytes, rearranged into planes that can be read 16 bytes at a time.
//!
//! A block of most formats is no multiple of four bytes long, and WGSL reads words. So the fields of a block (codes, high
//! bits, scales, d) each go to a plane of their own, one block after the other, each plane starting at a multiple of 16
//! bytes. Q4_K and Q5_K blocks are whole vec4s and stay as they are. Float rows are padded with zeros to multiples of 32.
//! What the planes are is in [`fields`]; `wgsl/quant/*.wgsl` read them.

use super::{WeightType, decode};

/// Weights that a kernel decodes at once.
pub const UNIT: u64 = 32;

/// Rows in one [`Planes::pack`] call must start at a multiple of this, so that every plane is cut at a whole vec4.
pub const ROW_STEP: u64 = 8;

/// Where a matrix's weights are in device memory: `rows` rows of `k` weights of one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planes {
    ty: WeightType,
    rows: u64,
    k: u64,
    row_units: u32,
    units: u32,
}

/// A part of a plane, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanePart {
    /// Where it starts, in vec4s of four words.
    pub start: u64,
    /// Its contents.
    pub words: Vec<[u32; 4]>,
}

/// The fields of a cell that become planes, as (offset, length) in bytes. A cell is a block, or 32 floats.
fn fields(ty: WeightType) -> &'static [(usize, usize)] {
    match ty {
        WeightType::F32 => &[(0, 128)],
        WeightType::F16 | WeightType::BF16 => &[(0, 64)],
        WeightType::Q8_0 => &[(2, 32), (0, 2)],
        WeightType::Q4_0 => &[(2, 16), (0, 2)],
        WeightType::Q4_1 => &[(4, 16), (0, 4)],
        WeightType::Q5_0 => &[(6, 16), (2, 4), (0, 2)],
        WeightType::Q5_1 => &[(8, 16), (4, 4), (0, 4)],
        WeightType::Q4K => &[(0, 144)],
        WeightType::Q5K => &[(0, 176)],
        WeightType::Q6K => &[(0, 128), (128, 64), (192, 16), (208, 2)],
    }
}

/// The longest cell, in bytes and in weights.
const MAX_CELL_BYTES: usize = 210;
const MAX_CELL: usize = 256;

impl Planes {
    /// The layout of `rows` rows of `k` weights; `None` when `k` is no multiple of 4 or of the block, or when there are
    /// more than 2³² units.
    pub fn new(ty: WeightType, rows: u64, k: u64) -> Option<Self> {
        if k == 0 || rows == 0 || !k.is_multiple_of(4) || !k.is_multiple_of(ty.block_len() as u64) {
            return None;
        }
        let row_units = u32::try_from(k.div_ceil(UNIT)).ok()?;
        let units = u32::try_from(rows.checked_mul(u64::from(row_units))?).ok()?;
        Some(Self { ty, rows, k, row_units, units })
    }

    /// The format.
    pub fn ty(&self) -> WeightType {
        self.ty
    }

    /// Rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Weights in a row.
    pub fn k(&self) -> u64 {
        self.k
    }

    /// Units in a row.
    pub fn row_units(&self) -> u32 {
        self.row_units
    }

    /// Units in all: kernels find the planes from it.
    pub fn units(&self) -> u32 {
        self.units
    }

    /// The size of all planes, in vec4s of 16 bytes.
    pub fn vec4s(&self) -> u64 {
        fields(self.ty).iter().map(|(_, length)| self.plane_vec4s(*length)).sum()
    }

    fn cell_len(&self) -> u64 {
        (self.ty.block_len() as u64).max(UNIT)
    }

    fn row_cells(&self) -> u64 {
        self.k.div_ceil(self.cell_len())
    }

    fn plane_vec4s(&self, length: usize) -> u64 {
        (self.rows * self.row_cells() * length as u64).div_ceil(16)
    }

    /// Bytes of a row as the file has it.
    pub fn file_row_bytes(&self) -> u64 {
        self.k / self.ty.block_len() as u64 * self.ty.block_bytes() as u64
    }

    /// The planes' parts for whole rows from `first_row` on, a multiple of [`ROW_STEP`], with the file's bytes `raw`.
    pub fn pack(&self, first_row: u64, raw: &[u8]) -> Vec<PlanePart> {
        let row_bytes = self.file_row_bytes() as usize;
        let cell_bytes: usize = fields(self.ty).iter().map(|(_, length)| length).sum();
        let padded_row = self.row_cells() as usize * cell_bytes;
        let cells: std::borrow::Cow<'_, [u8]> = if row_bytes == padded_row {
            raw.into()
        } else {
            let mut padded = Vec::with_capacity(raw.len() / row_bytes * padded_row);
            for row in raw.chunks_exact(row_bytes) {
                padded.extend_from_slice(row);
                padded.resize(padded.len() + padded_row - row_bytes, 0);
            }
            padded.into()
        };
        let first_cell = first_row.saturating_mul(self.row_cells());
        let mut plane = 0;
        let mut parts = Vec::new();
        for &(offset, length) in fields(self.ty) {
            let plane_bytes = cells.len() / cell_bytes * length;
            let mut words = vec![[0u32; 4]; plane_bytes.div_ceil(16)];
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
            if length == cell_bytes {
                bytes[..plane_bytes].copy_from_slice(&cells[..plane_bytes]);
            } else {
                for (to, cell) in bytes.chunks_exact_mut(length).zip(cells.chunks_exact(cell_bytes)) {
                    to.copy_from_slice(&cell[offset..offset + length]);
                }
            }
            let start = first_cell.saturating_mul(length as u64) / 16;
            parts.push(PlanePart { start: start.saturating_add(plane), words });
            plane += self.plane_vec4s(length);
        }
        parts
    }

    /// Decodes row `row` of packed `words` into `out`, `k` weights, by the CPU oracle; zeros for what is not there.
    pub fn decode_row(&self, words: &[[u32; 4]], row: u64, out: &mut [f32]) {
        let memory: &[u8] = bytemuck::cast_slice(words);
        let mut weights = [0.0; MAX_CELL];
        for (i, out) in out.chunks_mut(self.cell_len() as usize).enumerate() {
            let mut cell = [0u8; MAX_CELL_BYTES];
            let number = row.saturating_mul(self.row_cells()).saturating_add(i as u64);
            let mut plane = 0;
            let mut cell_bytes = 0;
            for &(offset, length) in fields(self.ty) {
                // A row that is not there may be any.
                let at = usize::try_from(number.saturating_mul(length as u64).saturating_add(plane * 16));
                let range = at.ok().and_then(|at| Some(at..at.checked_add(length)?));
                if let Some(bytes) = range.and_then(|range| memory.get(range)) {
                    cell[offset..offset + length].copy_from_slice(bytes);
                }
                plane += self.plane_vec4s(length);
                cell_bytes += length;
            }
            let weights = &mut weights[..self.cell_len() as usize];
            if decode(self.ty, &cell[..cell_bytes], weights).is_err() {
                weights.fill(0.0);
            }
            out.copy_from_slice(&weights[..out.len()]);
        }
    }
}
