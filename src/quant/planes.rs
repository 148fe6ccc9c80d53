//! The layout of weights in device memory: the file's bytes, rearranged into planes for loads of 16 bytes.
//!
//! WGSL reads words of four bytes, and the blocks of most formats are not a multiple of that. So each field of a block
//! (codes, high bits, scales, d) has a plane of its own, which starts at a multiple of 16 bytes. Blocks of Q4_K and Q5_K are
//! whole vec4s and stay as they are. Before the planes of a format with a grid is its table, the same for every tensor: kernels
//! look points up in the weights' own binding. Float rows are padded with zeros to multiples of 32. [`fields`] lists the planes, and
//! `wgsl/quant/*.wgsl` read them.

use super::{WeightType, decode, grids::grid};

/// Weights of a block: what a kernel decodes at once. The super-blocks of K-quants have 8 blocks.
pub const BLOCK: u64 = 32;

/// The rows of a [`Planes::pack`] call start at a multiple of this, so that every plane is cut at a whole vec4.
pub const ROW_STEP: u64 = 16;

/// The layout of a matrix in device memory: `rows` rows of `k` weights of one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planes {
    ty: WeightType,
    rows: u64,
    k: u64,
    k_blocks: u32,
    blocks: u32,
}

/// A part of a plane, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanePart {
    /// Where it starts, in vec4s of four words.
    pub start: u64,
    /// Its contents.
    pub words: Vec<[u32; 4]>,
}

/// Returns the fields of a cell that become planes, as (offset, length) in bytes. A cell is a block of the file, or 32
/// floats. That of NVFP4 has its row's scale at the end.
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
        WeightType::Q2K => &[(16, 64), (0, 16), (80, 4)],
        WeightType::Q3K => &[(32, 64), (0, 32), (96, 12), (108, 2)],
        WeightType::IQ4NL => &[(2, 16), (0, 2)],
        WeightType::IQ4XS => &[(8, 128), (0, 8)],
        WeightType::TQ2_0 => &[(0, 64), (64, 2)],
        WeightType::MXFP4 => &[(1, 16), (0, 1)],
        WeightType::IQ2XXS => &[(2, 64), (0, 2)],
        WeightType::IQ2XS => &[(2, 64), (66, 8), (0, 2)],
        WeightType::IQ2S => &[(2, 64), (66, 16), (0, 2)],
        WeightType::IQ3XXS => &[(2, 64), (66, 32), (0, 2)],
        WeightType::IQ3S => &[(2, 64), (74, 32), (66, 8), (106, 4), (0, 2)],
        WeightType::IQ1S => &[(2, 32), (34, 16), (0, 2)],
        WeightType::IQ1M => &[(0, 32), (32, 16), (48, 8)],
        WeightType::TQ1_0 => &[(0, 48), (48, 4), (52, 2)],
        WeightType::NVFP4 => &[(4, 32), (0, 4), (36, 4)],
    }
}

/// The longest cell, in bytes and in weights.
const MAX_CELL_BYTES: usize = 210;
const MAX_CELL: usize = 256;

impl Planes {
    /// Returns the layout of `rows` rows of `k` weights. `None` if `k` is no multiple of 4 or of the file's block, or if there
    /// are more than 2³² blocks of 32.
    pub fn new(ty: WeightType, rows: u64, k: u64) -> Option<Self> {
        if k == 0 || rows == 0 || !k.is_multiple_of(4) || !k.is_multiple_of(ty.block_len() as u64) {
            return None;
        }
        let k_blocks = u32::try_from(k.div_ceil(BLOCK)).ok()?;
        let blocks = u32::try_from(rows.checked_mul(u64::from(k_blocks))?).ok()?;
        Some(Self { ty, rows, k, k_blocks, blocks })
    }

    /// Returns the format.
    pub fn ty(&self) -> WeightType {
        self.ty
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Returns the weights of a row.
    pub fn k(&self) -> u64 {
        self.k
    }

    /// Returns the blocks of 32 weights in a row, the last of which may be padded.
    pub fn k_blocks(&self) -> u32 {
        self.k_blocks
    }

    /// Returns the blocks of 32 weights of all rows. Kernels compute from it where the planes are.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Returns the size of the table and all planes, in vec4s of 16 bytes.
    pub fn vec4s(&self) -> u64 {
        self.table_vec4s() + fields(self.ty).iter().map(|(_, length)| self.plane_vec4s(*length)).sum::<u64>()
    }

    /// Returns the size of the table before the planes, in vec4s.
    fn table_vec4s(&self) -> u64 {
        grid(self.ty).len() as u64 / 4
    }

    fn cell_len(&self) -> u64 {
        (self.ty.block_len() as u64).max(BLOCK)
    }

    /// Returns the bytes of a cell in the file, with a float row's padding.
    fn cell_bytes(&self) -> usize {
        self.cell_len() as usize / self.ty.block_len() * self.ty.block_bytes()
    }

    fn row_cells(&self) -> u64 {
        self.k.div_ceil(self.cell_len())
    }

    fn plane_vec4s(&self, length: usize) -> u64 {
        (self.rows * self.row_cells() * length as u64).div_ceil(16)
    }

    /// Returns the bytes of a row in the file.
    pub fn file_row_bytes(&self) -> u64 {
        self.k / self.ty.block_len() as u64 * self.ty.block_bytes() as u64
    }

    /// Returns the table, and the parts of the planes for whole rows from `first_row` on, a multiple of [`ROW_STEP`]; `raw` are
    /// the file's bytes.
    pub fn pack(&self, first_row: u64, raw: &[u8]) -> Vec<PlanePart> {
        self.pack_scaled(first_row, raw, &[])
    }

    /// Returns what [`pack`](Self::pack) does, for rows with a factor each, or none. Only NVFP4 has a place for factors.
    pub fn pack_scaled(&self, first_row: u64, raw: &[u8], scales: &[f32]) -> Vec<PlanePart> {
        let row_bytes = self.file_row_bytes() as usize;
        let cell_bytes: usize = fields(self.ty).iter().map(|(_, length)| length).sum();
        let padded_row = self.row_cells() as usize * cell_bytes;
        let cells: std::borrow::Cow<'_, [u8]> = if self.ty == WeightType::NVFP4 {
            let mut scaled = Vec::with_capacity(raw.len() / row_bytes * padded_row);
            for (i, row) in raw.chunks_exact(row_bytes).enumerate() {
                for block in row.chunks_exact(self.ty.block_bytes()) {
                    scaled.extend_from_slice(block);
                    scaled.extend_from_slice(&scales.get(i).copied().unwrap_or(1.0).to_le_bytes());
                }
            }
            scaled.into()
        } else if row_bytes == padded_row {
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
        let mut plane = self.table_vec4s();
        let mut parts = Vec::new();
        if plane > 0 {
            parts.push(PlanePart { start: 0, words: grid(self.ty).as_chunks().0.to_vec() });
        }
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

    /// Decodes row `row` of packed `words` into `out`, `k` weights, on the CPU. Missing rows are zeros.
    pub fn decode_row(&self, words: &[[u32; 4]], row: u64, out: &mut [f32]) {
        let memory: &[u8] = bytemuck::cast_slice(words);
        let mut weights = [0.0; MAX_CELL];
        for (i, out) in out.chunks_mut(self.cell_len() as usize).enumerate() {
            let mut cell = [0u8; MAX_CELL_BYTES];
            let number = row.saturating_mul(self.row_cells()).saturating_add(i as u64);
            let mut plane = self.table_vec4s();
            let mut cell_bytes = 0;
            for &(offset, length) in fields(self.ty) {
                // The number of a missing row may be any.
                let at = usize::try_from(number.saturating_mul(length as u64).saturating_add(plane * 16));
                let range = at.ok().and_then(|at| Some(at..at.checked_add(length)?));
                if let Some(bytes) = range.and_then(|range| memory.get(range)) {
                    cell[offset..offset + length].copy_from_slice(bytes);
                }
                plane += self.plane_vec4s(length);
                cell_bytes += length;
            }
            let weights = &mut weights[..self.cell_len() as usize];
            let scale = match self.ty {
                WeightType::NVFP4 => f32::from_le_bytes([cell[36], cell[37], cell[38], cell[39]]),
                _ => 1.0,
            };
            if decode(self.ty, &cell[..cell_bytes.min(self.cell_bytes())], weights).is_err() {
                weights.fill(0.0);
            }
            if scale != 1.0 {
                weights.iter_mut().for_each(|weight| *weight *= scale);
            }
            out.copy_from_slice(&weights[..out.len()]);
        }
    }
}
