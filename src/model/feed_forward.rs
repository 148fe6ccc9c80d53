//! The feed-forward block of a layer, dense or of experts.

use super::{
    Config, FeedForward,
    activations::Routing,
    decoder::Decoder,
    expert_cache::LoadExperts,
    matmul::{ExpertIds, Input, MatmulKind, MatmulRows, MatrixShape, Output},
    weights::{FeedForwardWeights, GateUp, LayerWeights, Matrix, MatrixPart},
};
use crate::{
    gpu::{Buffer, GpuError, Recorder, Scope, Stage},
    kernels::{
        elementwise::silu_mul,
        linear::{self, Epilogue, gemv_sum},
        moe::{bucket, router_topk, weighted_sum},
    },
};

/// A round of products over a layer's (token, expert) pairs.
struct ExpertPass<'a> {
    /// What the host does first.
    before: Option<LoadExperts>,
    chosen: ExpertIds<'a>,
    /// How many rounds there are.
    of: u32,
}

/// How many experts there are, and how a token uses them.
#[derive(Clone, Copy, Debug)]
struct Experts {
    count: u32,
    used: u32,
    normalise: bool,
}

impl Experts {
    fn of(config: &Config) -> Option<Self> {
        match config.feed_forward {
            FeedForward::Dense { .. } => None,
            FeedForward::Experts { count, used, normalise, .. } => Some(Self { count, used, normalise }),
        }
    }
}

impl Decoder<'_> {
    /// Adds the block's output to the residual, and norms that with `next_norm` where a kernel does both: whether it did.
    pub(super) fn feed_forward(
        &self,
        rec: &mut Recorder,
        number: usize,
        layer: &LayerWeights,
        next_norm: Option<&Buffer<f32>>,
    ) -> Result<bool, GpuError> {
        let scope = |stage| Scope::layer(number as u32, stage);
        let (a, rows, block) = (self.activations, self.pass.rows, &layer.feed_forward);
        let single = self.tokens_by(rows) == MatmulKind::Gemv;
        // Activations are made from the same configuration as the weights: all three are there, or none.
        let (Some(router), Some(routing), Some(experts)) = (&block.router, &a.routing, Experts::of(self.config)) else {
            rec.scope(scope(Stage::GateUp));
            let input = self.normed(rec, &layer.ffn_norm, single)?;
            self.gate_up(rec, block, MatmulRows::Tokens(rows), input)?;
            rec.scope(scope(Stage::DownProj));
            self.biased(rec, &block.down, Input::plain(&a.gate), self.residual())?;
            return Ok(false);
        };
        let (pairs, hidden) = (rows * experts.used, self.config.hidden);
        let by = self.pairs_by(pairs, experts.count);
        rec.scope(scope(Stage::Router));
        let input = self.normed(rec, &layer.ffn_norm, single && by == MatmulKind::Gemv)?;
        self.route(rec, router, routing, experts, input)?;
        let whole = (by == MatmulKind::Gemv && self.options.fused && !self.kernels.int8())
            .then_some(&block.down.matrix.parts[..]);
        for ExpertPass { before, chosen, of } in self.rounds(number, routing, pairs, experts.count) {
            if let Some(page_in) = before {
                rec.before(page_in);
            }
            if by != MatmulKind::Gemv {
                self.bucket(rec, block, routing, pairs, chosen, by)?;
            }
            rec.scope(scope(Stage::GateUp));
            let of_pairs = |share, grid| MatmulRows::Assignments { pairs, share, by, grid, chosen, routing };
            self.gate_up(rec, block, of_pairs(experts.used, 0), input)?;
            rec.scope(scope(Stage::DownProj));
            if let (Some([down]), 1) = (whole, of)
                && self.choices.choose("down", rows, ("with the sum", true), &[("then the sum", false)])
            {
                self.down_and_sum(rec, &block.down.matrix, down, chosen, routing, experts.used)?;
                return Ok(false);
            }
            let out = Output::new(&routing.outputs, hidden);
            self.linear(rec, &block.down.matrix, of_pairs(1, 1), Input::plain(&a.gate), out)?;
        }
        rec.scope(scope(Stage::MoeCombine));
        rec.dispatch(
            weighted_sum::WeightedSum,
            match next_norm {
                Some(_) => weighted_sum::Variant::AddNorm,
                None => weighted_sum::Variant::Add,
            },
            weighted_sum::Params { rows, n: hidden, k: experts.used, eps: self.config.eps },
            weighted_sum::Binds {
                weights: &routing.weights,
                outputs: &routing.outputs,
                w: next_norm,
                residual: &a.residual,
                y: next_norm.map(|_| &a.normed),
            },
        )?;
        Ok(next_norm.is_some())
    }

    /// The rounds in which a layer's pairs are multiplied: one, unless there are more experts to bring than slots.
    fn rounds<'a>(&'a self, layer: usize, routing: &'a Routing, pairs: u32, experts: u32) -> Vec<ExpertPass<'a>> {
        let (Some(paged), Some(slots)) = (&self.weights.paged, &routing.slots) else {
            return vec![ExpertPass { before: None, chosen: ExpertIds { ids: &routing.ids, experts }, of: 1 }];
        };
        let of = paged.rounds(pairs, experts);
        // Where there are others, a pair may wait for its round: for an expert that there is not.
        let chosen = ExpertIds { ids: &slots.slots, experts: paged.slots() + u32::from(of > 1) };
        let rounds = slots.rounds(paged, layer, &routing.ids, pairs, of);
        rounds.map(|page_in| ExpertPass { before: Some(page_in), chosen, of }).collect()
    }

    /// The experts' outputs of each token, weighted and added to the residual, from a stack that one binding holds.
    fn down_and_sum(
        &self,
        rec: &mut Recorder,
        matrix: &Matrix,
        part: &MatrixPart,
        chosen: ExpertIds<'_>,
        routing: &Routing,
        used: u32,
    ) -> Result<(), GpuError> {
        let (a, planes) = (self.activations, &part.planes);
        let weighed = MatrixShape { ty: planes.ty(), rows: matrix.n, k: matrix.k };
        let group = self.lanes_group(&weighed, self.pass.rows, linear::Input::Plain);
        rec.dispatch(
            gemv_sum::GemvSum,
            gemv_sum::Variant { ty: planes.ty(), lanes: self.kernels.lanes, group },
            gemv_sum::Params {
                rows: self.pass.rows,
                n: matrix.n,
                k: matrix.k,
                row_units: planes.row_units(),
                units: planes.units(),
                share: used,
                experts: chosen.experts,
                matrix_rows: matrix.n,
            },
            gemv_sum::Binds {
                w: &part.words,
                x: &a.gate.cast(),
                ids: chosen.ids,
                weights: &routing.weights,
                y: &a.residual,
            },
        )
    }

    /// Each token's experts and their weights.
    fn route(
        &self,
        rec: &mut Recorder,
        router: &Matrix,
        routing: &Routing,
        experts: Experts,
        input: Input<'_>,
    ) -> Result<(), GpuError> {
        let (rows, Experts { count, used, normalise }) = (self.pass.rows, experts);
        self.linear(rec, router, MatmulRows::Tokens(rows), input, Output::new(&routing.logits, count))?;
        rec.on_host(self.options.host_routing);
        rec.dispatch(
            router_topk::RouterTopk,
            router_topk::Variant { normalise },
            router_topk::Params { rows, experts: count, k: used },
            router_topk::Binds { logits: &routing.logits, ids: &routing.ids, weights: &routing.weights },
        )?;
        rec.on_host(false);
        Ok(())
    }

    /// The pairs of each expert, and the grids of the two products over them.
    fn bucket(
        &self,
        rec: &mut Recorder,
        block: &FeedForwardWeights,
        routing: &Routing,
        pairs: u32,
        ExpertIds { ids, experts }: ExpertIds<'_>,
        by: MatmulKind,
    ) -> Result<(), GpuError> {
        let b = &routing.buckets;
        let gate_up = match &block.gate_up {
            GateUp::Fused(matrix) => matrix.n,
            GateUp::Separate { gate, .. } => gate.matrix.n,
        };
        rec.on_host(self.options.host_routing);
        rec.dispatch(
            bucket::Bucket,
            (),
            bucket::Params {
                pairs,
                experts,
                tile_rows: by.tile_rows(),
                max_tiles: bucket::max_tiles(pairs, experts, by.tile_rows()),
                first_grid: by.grid_width(gate_up),
                second_grid: by.grid_width(block.down.matrix.n),
            },
            bucket::Binds {
                ids,
                counts: &b.counts,
                offsets: &b.offsets,
                sorted: &b.pairs,
                tiles: &b.tiles,
                grids: &b.grids,
            },
        )?;
        rec.on_host(false);
        Ok(())
    }

    /// The gated inner values.
    fn gate_up(
        &self,
        rec: &mut Recorder,
        block: &FeedForwardWeights,
        rows: MatmulRows<'_>,
        input: Input<'_>,
    ) -> Result<(), GpuError> {
        let a = self.activations;
        match &block.gate_up {
            GateUp::Fused(matrix) if self.options.fused => {
                let out = Output { epilogue: Epilogue::Gate, ..Output::new(&a.gate, matrix.n / 2) };
                self.linear(rec, matrix, rows, input, out)
            }
            GateUp::Fused(matrix) => {
                self.linear(rec, matrix, rows, input, Output::new(&a.up, matrix.n))?;
                self.silu_mul(rec, silu_mul::Layout::Alternating, rows.count(), matrix.n / 2)
            }
            GateUp::Separate { gate, up } => {
                let inner = gate.matrix.n;
                for (linear, y) in [(gate, &a.gate), (up, &a.up)] {
                    self.linear(rec, &linear.matrix, rows, input, Output::new(y, inner))?;
                    self.bias(rec, linear, Output::new(y, inner))?;
                }
                self.silu_mul(rec, silu_mul::Layout::Split, rows.count(), inner)
            }
        }
    }

    fn silu_mul(&self, rec: &mut Recorder, layout: silu_mul::Layout, rows: u32, n: u32) -> Result<(), GpuError> {
        let a = self.activations;
        rec.dispatch(silu_mul::SiluMul, layout, silu_mul::Params { rows, n }, silu_mul::Binds { x: &a.up, y: &a.gate })
    }
}
