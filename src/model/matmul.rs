//! Products of rows with weights: which kernel each is given to.

use super::{
    PrefillMatmul,
    activations::Routing,
    decoder::{Decoder, Phase},
    weights::{Linear, Matrix, MatrixPart},
};
use crate::{
    gpu::{Buffer, GpuError, Kernel, Recorder},
    kernels::{
        elementwise::add_rows,
        linear::{
            self, Epilogue, Group, Lanes, Mma,
            gemm::{self, TileRows},
            gemv,
            gemv_columns::{self, Columns},
            gemv_q8, quantise,
        },
        moe::bucket,
    },
    quant::WeightType,
};

/// The rows of a product, and which matrices they meet.
#[derive(Clone, Copy, Debug)]
pub(super) enum MatmulRows<'a> {
    /// So many tokens, all with the same matrix.
    Tokens(u32),
    /// (token, expert) pairs, each with its expert's matrix.
    Assignments {
        pairs: u32,
        /// Pairs in a row that have the same input row.
        share: u32,
        /// How they are grouped.
        by: MatmulKind,
        /// Which of the buckets' two grids is this product's.
        grid: u32,
        chosen: ExpertIds<'a>,
        routing: &'a Routing,
    },
}

/// The experts of (token, expert) pairs.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpertIds<'a> {
    /// Each pair's, by its place in the stacks.
    pub(super) ids: &'a Buffer<u32>,
    /// How many these can be: pairs of others than a stack has are left out.
    pub(super) experts: u32,
}

impl MatmulRows<'_> {
    pub(super) fn count(self) -> u32 {
        match self {
            Self::Tokens(count) | Self::Assignments { pairs: count, .. } => count,
        }
    }
}

/// How many rows a kernel takes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MatmulKind {
    /// One by one.
    Gemv,
    /// Some at a time, with one row's sums.
    GemvBatched(Columns),
    /// By tiles, with sums of their own.
    Gemm(TileRows),
}

impl MatmulKind {
    /// Rows of a tile.
    pub(super) fn tile_rows(self) -> u32 {
        match self {
            Self::Gemv => 1,
            Self::GemvBatched(columns) => columns.count(),
            Self::Gemm(rows) => rows.count(),
        }
    }

    /// Workgroups that a product of buckets with a matrix of `n` rows has side by side.
    pub(super) fn grid_width(self, n: u32) -> u32 {
        match self {
            // Rows have no buckets, whose grids these are.
            Self::Gemv => 0,
            Self::GemvBatched(_) => n.div_ceil(gemv_columns::TILE),
            Self::Gemm(_) => n.div_ceil(gemm::TILE_N),
        }
    }
}

/// A matrix, or one of a stack: its format, rows, and the weights of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatrixShape {
    pub(super) ty: WeightType,
    pub(super) rows: u32,
    pub(super) k: u32,
}

/// Of more rows some at once are multiplied without asking.
const MOST_BY_CHOICE: u32 = 64;

/// What is multiplied: rows as they are, or normed by weights, which only [`MatmulKind::Gemv`] does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input<'a> {
    pub(super) x: &'a Buffer<f32>,
    pub(super) norm: Option<&'a Buffer<f32>>,
}

impl<'a> Input<'a> {
    pub(super) fn plain(x: &'a Buffer<f32>) -> Self {
        Self { x, norm: None }
    }
}

/// Where a product goes: rows of `stride` elements, from element `offset` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output<'a> {
    pub(super) y: &'a Buffer<f32>,
    pub(super) stride: u32,
    pub(super) offset: u32,
    pub(super) epilogue: Epilogue,
}

impl<'a> Output<'a> {
    pub(super) fn new(y: &'a Buffer<f32>, stride: u32) -> Self {
        Self { y, stride, offset: 0, epilogue: Epilogue::Store }
    }
}

impl Decoder<'_> {
    /// How `rows` of the pass's tokens are multiplied.
    pub(super) fn tokens_by(&self, rows: u32) -> MatmulKind {
        self.rows_by("tokens", self.pass.phase, rows)
    }

    fn rows_by(&self, what: &str, kind: Phase, rows: u32) -> MatmulKind {
        match (kind, self.kernels.prefill) {
            (Phase::Prefill, PrefillMatmul::Gemm) => self.tiles(what, rows, 1),
            _ if self.kernels.int8() => MatmulKind::Gemv,
            _ => self.row_or_columns(what, rows, rows >= self.kernels.columns_rows, self.kernels.columns(rows, 1)),
        }
    }

    /// Tiles of as many rows as are quicker by measurement, where `rows` with so many matrices fill more than the lowest.
    fn tiles(&self, what: &str, rows: u32, matrices: u32) -> MatmulKind {
        let (low, high) = (("32 rows", TileRows::ThirtyTwo), ("64 rows", TileRows::SixtyFour));
        let fills = rows / matrices.max(1) > TileRows::ThirtyTwo.count();
        MatmulKind::Gemm(if fills && self.kernels.mma == Mma::Fma {
            self.choices.choose(&format!("tiles of {what}"), self.pass.rows, low, &[high])
        } else {
            low.1
        })
    }

    /// Rows one by one or some at a time, which has the same sums: by measurement where both may be quicker.
    fn row_or_columns(&self, what: &str, rows: u32, columns: bool, at_once: Columns) -> MatmulKind {
        let (row, at_once) = (("one by one", MatmulKind::Gemv), ("some at once", MatmulKind::GemvBatched(at_once)));
        let (default, other) = if columns { (at_once, row) } else { (row, at_once) };
        if (2..=MOST_BY_CHOICE).contains(&rows) {
            self.choices.choose(what, rows, default, &[other])
        } else {
            default.1
        }
    }

    /// How many weight rows lanes of units have at a time when `rows` single rows are multiplied with matrices of this kind: by
    /// measurement, since small matrices fill a large device with many workgroups only.
    pub(super) fn lanes_group(&self, matrix: &MatrixShape, rows: u32, input: linear::Input) -> Group {
        if self.kernels.lanes == Lanes::Rows {
            return Group::Four;
        }
        let MatrixShape { ty, rows: n, k } = *matrix;
        let normed = if input == linear::Input::Normed { ", normed" } else { "" };
        let site = format!("weight rows at a time of {n} by {k} in {ty}{normed}");
        self.choices.choose(&site, rows, ("four", Group::Four), &[("one", Group::One)])
    }

    /// How `pairs` of tokens with `experts` are multiplied.
    pub(super) fn pairs_by(&self, pairs: u32, experts: u32) -> MatmulKind {
        match (self.pass.phase, self.kernels.prefill) {
            (Phase::Prefill, PrefillMatmul::Gemm) => self.tiles("experts", pairs, experts),
            _ if self.kernels.int8() => MatmulKind::Gemv,
            _ => {
                let columns = pairs >= self.kernels.bucket_pairs.saturating_mul(experts);
                self.row_or_columns("experts", self.pass.rows, columns, self.kernels.columns(pairs, experts))
            }
        }
    }

    /// The input times a matrix, plus its bias.
    pub(super) fn biased(
        &self,
        rec: &mut Recorder,
        linear: &Linear,
        input: Input<'_>,
        out: Output<'_>,
    ) -> Result<(), GpuError> {
        self.linear(rec, &linear.matrix, MatmulRows::Tokens(self.pass.rows), input, out)?;
        self.bias(rec, linear, out)
    }

    pub(super) fn bias(&self, rec: &mut Recorder, linear: &Linear, out: Output<'_>) -> Result<(), GpuError> {
        let Some(bias) = &linear.bias else { return Ok(()) };
        rec.dispatch(
            add_rows::AddRows,
            (),
            add_rows::Params {
                rows: self.pass.rows,
                n: linear.matrix.n,
                x_stride: 0,
                x_offset: 0,
                y_stride: out.stride,
                y_offset: out.offset,
                factor: 1.0,
            },
            add_rows::Binds { x: bias, y: out.y },
        )
    }

    /// The input times a matrix, or times each pair's expert.
    pub(super) fn linear(
        &self,
        rec: &mut Recorder,
        matrix: &Matrix,
        rows: MatmulRows<'_>,
        input: Input<'_>,
        out: Output<'_>,
    ) -> Result<(), GpuError> {
        let by = match rows {
            MatmulRows::Tokens(rows) => self.tokens_by(rows),
            MatmulRows::Assignments { by, .. } => by,
        };
        self.linear_by(rec, matrix, rows, by, input, out)
    }

    /// Logits: the same sums for a prompt's rows as for drawn ones, since there are few of either.
    pub(super) fn head(&self, rec: &mut Recorder, matrix: &Matrix, rows: u32) -> Result<(), GpuError> {
        let (a, by) = (self.activations, self.rows_by("head", Phase::Decode, rows));
        self.linear_by(
            rec,
            matrix,
            MatmulRows::Tokens(rows),
            by,
            Input::plain(&a.normed),
            Output::new(&a.logits, matrix.n),
        )
    }

    fn linear_by(
        &self,
        rec: &mut Recorder,
        matrix: &Matrix,
        rows: MatmulRows<'_>,
        by: MatmulKind,
        input: Input<'_>,
        out: Output<'_>,
    ) -> Result<(), GpuError> {
        let (k, x, lanes) = (matrix.k, &input.x.cast(), self.kernels.lanes);
        let Output { y, stride: y_stride, epilogue, .. } = out;
        let (count, share, kind, tiles, experts, chosen) = match rows {
            MatmulRows::Tokens(count) => (count, 1, linear::Rows::Dense, count.div_ceil(by.tile_rows()), 1, None),
            MatmulRows::Assignments { pairs, share, routing, chosen: ExpertIds { ids, experts }, .. } => {
                let tiles = bucket::max_tiles(pairs, experts, by.tile_rows());
                (pairs, share, linear::Rows::Expert, tiles, experts, Some((ids, &routing.buckets)))
            }
        };
        let ids = chosen.map(|(ids, _)| ids);
        let int8 = self.activations.int8.as_ref().filter(|_| by == MatmulKind::Gemv && self.kernels.int8());
        if let (Some(int8), true) = (int8, matrix.parts.iter().any(|part| gemv_q8::available(part.planes.ty()))) {
            let params = quantise::Params { blocks: (count / share) * (k / quantise::BLOCK) };
            rec.dispatch(quantise::Quantise, (), params, quantise::Binds { x, scales: &int8.scales, y: &int8.codes })?;
        }
        for MatrixPart { words: w, planes, first_row } in &matrix.parts {
            let (ty, row_units, units) = (planes.ty(), planes.row_units(), planes.units());
            // A single matrix is split by rows, a stack by experts.
            let (matrix_rows, first_output, first_expert) = match kind {
                linear::Rows::Dense => (planes.rows() as u32, epilogue.outputs(*first_row), 0),
                linear::Rows::Expert => (matrix.n, 0, first_row / matrix.n),
            };
            let (n, y_offset) = (epilogue.outputs(matrix_rows), out.offset + first_output);
            let held = planes.rows() as u32 / matrix_rows;
            let pairs = chosen.map(|(_, buckets)| &buckets.pairs);
            let lists = chosen.map(|(_, buckets)| &buckets.tiles);
            // What the three kernels' parameters have in common.
            macro_rules! params {
                ($kernel:ident, $($field:ident: $value:expr),+) => {
                    $kernel::Params {
                        rows: count,
                        n,
                        k,
                        row_units,
                        units,
                        y_stride,
                        y_offset,
                        share,
                        experts,
                        first_expert,
                        held,
                        matrix_rows,
                        $($field: $value),+
                    }
                };
            }
            if let (Some(codes), MatmulKind::Gemv, true) = (&int8, by, gemv_q8::available(ty)) {
                let variant = gemv_q8::Variant { ty, rows: kind, epilogue };
                let (x, scales) = (&codes.codes, &codes.scales);
                let binds = gemv_q8::Binds { w, x, scales, ids, y };
                rec.dispatch(gemv_q8::GemvQ8, variant, params!(gemv_q8, ids_offset: 0), binds)?;
                continue;
            }
            match by {
                MatmulKind::Gemv => {
                    let norm = input.norm.map(Buffer::cast);
                    let input = if norm.is_some() { linear::Input::Normed } else { linear::Input::Plain };
                    let group = self.lanes_group(&MatrixShape { ty, rows: matrix_rows, k }, count, input);
                    let variant = gemv::Variant { ty, rows: kind, epilogue, lanes, group, input };
                    let params = params!(gemv, x_offset: 0, ids_offset: 0, eps: self.config.eps);
                    let binds = gemv::Binds { w, x, norm: norm.as_ref(), ids, y };
                    rec.dispatch(gemv::Gemv, variant, params, binds)?;
                }
                MatmulKind::GemvBatched(columns) => {
                    let variant = gemv_columns::Variant { ty, rows: kind, epilogue, lanes, columns };
                    let params = params!(gemv_columns, tiles: tiles, x_offset: 0);
                    let binds = gemv_columns::Binds { w, x, pairs, tiles: lists, y };
                    self.tiled(rec, gemv_columns::GemvColumns, variant, params, binds, rows)?;
                }
                MatmulKind::Gemm(tile_rows) => {
                    let (tile, mma) = (self.kernels.tile, self.kernels.mma);
                    let variant = gemm::Variant { ty, rows: kind, epilogue, tile, mma, tile_rows };
                    let binds = gemm::Binds { w, x, pairs, tiles: lists, y };
                    self.tiled(rec, gemm::Gemm, variant, params!(gemm, tiles: tiles), binds, rows)?;
                }
            }
        }
        Ok(())
    }

    /// Whether buckets' own grids were measured to be quicker than the largest.
    fn indirect_pays(&self) -> bool {
        self.choices.choose("grids of experts", self.pass.rows, ("largest", false), &[("indirect", true)])
    }

    /// A product by tiles: of as many as there can be, or of as many as the buckets have.
    fn tiled<K: Kernel>(
        &self,
        rec: &mut Recorder,
        kernel: K,
        variant: K::Variant,
        params: K::Params,
        binds: K::Binds<'_>,
        rows: MatmulRows<'_>,
    ) -> Result<(), GpuError> {
        match rows {
            MatmulRows::Assignments { grid, routing, .. } if self.options.indirect || self.indirect_pays() => {
                rec.dispatch_indirect(kernel, variant, params, binds, &routing.buckets.grids, 3 * grid)
            }
            _ => rec.dispatch(kernel, variant, params, binds),
        }
    }
}
