//! Products of activations with weight matrices.

use super::{
    ExpertGrids, MatmulKind,
    activations::Routing,
    decoder::Decoder,
    feed_forward::Experts,
    weights::{Linear, Matrix, MatrixPart},
};
use crate::{
    gpu::{Buffer, GpuError, Grid, Kernel, Recorder},
    kernels::{
        elementwise::add_rows,
        linear::{self, Epilogue, Indexing, Matmul, gemm, gemv, gemv_batched, gemv_q8, quantise},
        moe::{add_expert_bias, sort},
    },
};

/// The rows of a product, and their matrices.
#[derive(Clone, Copy, Debug)]
pub(super) enum MatmulRows<'a> {
    /// Tokens, all with the same matrix.
    Tokens(u32),
    /// Assignments of tokens to experts, each with its expert's matrix.
    Assignments {
        /// Their number.
        count: u32,
        /// Consecutive assignments that have the same input row.
        rows_per_input: u32,
        /// The kernel.
        kind: MatmulKind,
        /// Which of the two indirect grids is this product's.
        grid: u32,
        /// Their experts.
        experts: ExpertIds<'a>,
        routing: &'a Routing,
    },
}

/// The experts of assignments.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpertIds<'a> {
    /// The expert of each, as an index into the stacks.
    pub(super) ids: &'a Buffer<u32>,
    /// The number of indices. Assignments to experts that a stack lacks are left out.
    pub(super) count: u32,
    /// Experts of a token.
    pub(super) used: u32,
}

impl MatmulRows<'_> {
    pub(super) fn count(self) -> u32 {
        match self {
            Self::Tokens(count) | Self::Assignments { count, .. } => count,
        }
    }
}

/// The left operand of a product, with the weights of an RMS norm before it, which only [`MatmulKind::Gemv`] computes.
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

/// The destination of a product: rows of `stride` elements, from element `offset` on.
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
    /// Records the product of the input with a matrix, plus its bias.
    pub(super) fn biased(
        &self,
        rec: &mut Recorder,
        linear: &Linear,
        input: Input<'_>,
        out: Output<'_>,
    ) -> Result<(), GpuError> {
        self.linear(rec, &linear.matrix, MatmulRows::Tokens(self.pass.rows), input, out)?;
        self.bias(rec, linear, self.pass.rows, out)
    }

    /// Records the addition of a bias, if there is one.
    fn bias(&self, rec: &mut Recorder, linear: &Linear, rows: u32, out: Output<'_>) -> Result<(), GpuError> {
        let Some(bias) = &linear.bias else { return Ok(()) };
        rec.dispatch(
            add_rows::AddRows,
            (),
            add_rows::Params {
                rows,
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

    /// Records the product of the input with a matrix, or with each assignment's expert.
    pub(super) fn linear(
        &self,
        rec: &mut Recorder,
        matrix: &Matrix,
        rows: MatmulRows<'_>,
        input: Input<'_>,
        out: Output<'_>,
    ) -> Result<(), GpuError> {
        let kind = match rows {
            MatmulRows::Tokens(_) => self.pass_kernels().dense,
            MatmulRows::Assignments { kind, .. } => kind,
        };
        self.matmul(rec, matrix, rows, kind, input, out)
    }

    /// Records the products of assignments with their experts' matrices, plus their biases.
    pub(super) fn biased_rows(
        &self,
        rec: &mut Recorder,
        linear: &Linear,
        rows: MatmulRows<'_>,
        input: Input<'_>,
        out: Output<'_>,
    ) -> Result<(), GpuError> {
        self.linear(rec, &linear.matrix, rows, input, out)?;
        match rows {
            MatmulRows::Tokens(count) => self.bias(rec, linear, count, out),
            MatmulRows::Assignments { count, routing, .. } => self.expert_bias(rec, linear, count, routing, out.y),
        }
    }

    /// Records the addition of the experts' biases, if there are any.
    pub(super) fn expert_bias(
        &self,
        rec: &mut Recorder,
        linear: &Linear,
        assignments: u32,
        routing: &Routing,
        y: &Buffer<f32>,
    ) -> Result<(), GpuError> {
        let (Some(bias), Some(Experts { count: experts, .. })) = (&linear.bias, Experts::of(self.config)) else {
            return Ok(());
        };
        rec.dispatch(
            add_expert_bias::AddExpertBias,
            (),
            add_expert_bias::Params { assignments, n: linear.matrix.n, experts },
            // Not the slots of an expert cache: all biases are on the device.
            add_expert_bias::Binds { ids: &routing.ids, bias, y },
        )
    }

    /// Records the logits.
    pub(super) fn head(&self, rec: &mut Recorder, rows: u32) -> Result<(), GpuError> {
        let (a, kind, tree) = (self.activations, self.pass_kernels().head, &self.weights.tree);
        let matrix = tree.output.as_ref().map_or(&tree.embedding, |output| &output.matrix);
        let (input, out) = (Input::plain(&a.normed), Output::new(&a.logits, matrix.n));
        self.matmul(rec, matrix, MatmulRows::Tokens(rows), kind, input, out)?;
        tree.output.as_ref().map_or(Ok(()), |output| self.bias(rec, output, rows, out))
    }

    fn matmul(
        &self,
        rec: &mut Recorder,
        matrix: &Matrix,
        rows: MatmulRows<'_>,
        kind: MatmulKind,
        input: Input<'_>,
        out: Output<'_>,
    ) -> Result<(), GpuError> {
        let (k, x, split) = (matrix.k, &input.x.cast(), self.kernels.split);
        let Output { y, stride: y_stride, epilogue, .. } = out;
        let (count, rows_per_input, indexing, tiles, experts, per_token, chosen) = match rows {
            MatmulRows::Tokens(count) => (count, 1, Indexing::Dense, count.div_ceil(kind.tile_rows()), 1, 1, None),
            MatmulRows::Assignments {
                count,
                rows_per_input,
                routing,
                experts: ExpertIds { ids, count: experts, used },
                ..
            } => {
                let tiles = sort::max_tiles(count, experts, kind.tile_rows());
                (count, rows_per_input, Indexing::Expert, tiles, experts, used, Some((ids, &routing.sorted)))
            }
        };
        let ids = chosen.map(|(ids, _)| ids);
        let int8 = self.activations.int8.as_ref().filter(|_| kind == MatmulKind::Gemv && self.kernels.int8());
        if let (Some(int8), true) = (int8, matrix.parts.iter().any(|part| gemv_q8::available(part.planes.ty()))) {
            let params = quantise::Params { blocks: (count / rows_per_input) * (k / quantise::BLOCK) };
            rec.dispatch(quantise::Quantise, (), params, quantise::Binds { x, scales: &int8.scales, y: &int8.codes })?;
        }
        for MatrixPart { words: w, planes, first_row } in &matrix.parts {
            let ty = planes.ty();
            // A single matrix is split by rows, a stack by experts.
            let (weight_rows, first_output, first_expert) = match indexing {
                Indexing::Dense => (planes.rows() as u32, epilogue.outputs(*first_row), 0),
                Indexing::Expert => (matrix.n, 0, first_row / matrix.n),
            };
            let shape = Matmul {
                rows: count,
                n: epilogue.outputs(weight_rows),
                k,
                k_blocks: planes.k_blocks(),
                n_blocks: planes.blocks(),
                weight_rows,
                y_stride,
                y_offset: out.offset + first_output,
                epilogue: epilogue.code(),
                rows_per_input,
                experts,
                first_expert,
                local_experts: planes.rows() as u32 / weight_rows,
            };
            let assignments = chosen.map(|(_, sorted)| &sorted.assignments);
            let lists = chosen.map(|(_, sorted)| &sorted.tiles);
            if let (Some(codes), MatmulKind::Gemv, true) = (&int8, kind, gemv_q8::available(ty)) {
                let (x, scales) = (&codes.codes, &codes.scales);
                let binds = gemv_q8::Binds { w, x, scales, ids, y };
                let params = gemv_q8::Params { matmul: shape, ids_offset: 0 };
                rec.dispatch(gemv_q8::GemvQ8, gemv_q8::Variant { ty, indexing }, params, binds)?;
                continue;
            }
            match kind {
                MatmulKind::Gemv => {
                    let norm = input.norm.map(Buffer::cast);
                    let input = if norm.is_some() { linear::Input::Normed } else { linear::Input::Plain };
                    let rows_per_group = match indexing {
                        Indexing::Dense => self.kernels.rows_per_group(weight_rows, per_token),
                        Indexing::Expert => self.kernels.rows_per_group(weight_rows, per_token).at_least_one(),
                    };
                    let variant = gemv::Variant { ty, indexing, split, rows_per_group, input };
                    let params = gemv::Params { matmul: shape, x_offset: 0, ids_offset: 0, eps: self.config.eps };
                    let binds = gemv::Binds { w, x, norm: norm.as_ref(), ids, y };
                    rec.dispatch(gemv::Gemv, variant, params, binds)?;
                }
                MatmulKind::GemvBatched => {
                    let variant = gemv_batched::Variant { ty, indexing, split };
                    let params = gemv_batched::Params { matmul: shape, tiles, x_offset: 0 };
                    let binds = gemv_batched::Binds { w, x, assignments, tiles: lists, y };
                    self.tiled(rec, gemv_batched::GemvBatched, variant, params, binds, rows)?;
                }
                MatmulKind::Gemm(tile_rows) => {
                    let (tile, mma) = (self.kernels.tile, self.kernels.mma);
                    let variant = gemm::Variant { ty, indexing, tile, mma, tile_rows };
                    let binds = gemm::Binds { w, x, assignments, tiles: lists, y };
                    self.tiled(rec, gemm::Gemm, variant, gemm::Params { matmul: shape, tiles }, binds, rows)?;
                }
            }
        }
        Ok(())
    }

    /// Records a product by tiles: of the most that there can be, or of as many as the device has counted.
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
            // An indirect grid cannot be folded.
            MatmulRows::Assignments { grid, routing, .. }
                if self.kernels.expert_grids == ExpertGrids::Indirect && K::grid(variant, &params).x <= Grid::FOLD =>
            {
                rec.dispatch_indirect(kernel, variant, params, binds, &routing.sorted.grids, 3 * grid)
            }
            _ => rec.dispatch(kernel, variant, params, binds),
        }
    }
}
