//! The feed-forward block of a layer, dense or of experts.

use super::{
    Config, FeedForward,
    activations::Routing,
    decoder::Decoder,
    product::{By, Input, Output, Rows},
    weights::{FeedForwardWeights, GateUp, LayerWeights, Matrix, MatrixPart},
};
use crate::{
    gpu::{Buffer, GpuError, Recorder},
    kernels::{
        elementwise::silu_mul,
        linear::{Epilogue, gemv_sum},
        moe::{bucket, router_topk, weighted_sum},
    },
};

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
        scope: &str,
        layer: &LayerWeights,
        next_norm: Option<&Buffer<f32>>,
    ) -> Result<bool, GpuError> {
        let (a, rows, block) = (self.activations, self.pass.rows, &layer.feed_forward);
        let single = self.tokens_by(rows) == By::Row;
        // Activations are made from the same configuration as the weights: all three are there, or none.
        let (Some(router), Some(routing), Some(experts)) = (&block.router, &a.routing, Experts::of(self.config)) else {
            rec.scope(format!("{scope} gate up"));
            let input = self.normed(rec, &layer.ffn_norm, single)?;
            self.gate_up(rec, block, Rows::Tokens(rows), input)?;
            rec.scope(format!("{scope} down"));
            self.biased(rec, &block.down, Input::plain(&a.gate), self.residual())?;
            return Ok(false);
        };
        let (pairs, hidden) = (rows * experts.used, self.config.hidden);
        let by = self.pairs_by(pairs, experts.count);
        rec.scope(format!("{scope} route"));
        let input = self.normed(rec, &layer.ffn_norm, single && by == By::Row)?;
        self.route(rec, router, routing, experts, input)?;
        if by != By::Row {
            self.bucket(rec, block, routing, experts, by)?;
        }
        rec.scope(format!("{scope} gate up"));
        self.gate_up(rec, block, Rows::Pairs { pairs, share: experts.used, by, grid: 0, routing }, input)?;
        rec.scope(format!("{scope} down"));
        if let ([down], By::Row, true) = (&block.down.matrix.parts[..], by, self.options.fused && !self.tiers.int8())
            && self.choices.choose("down", rows, ("with the sum", true), &[("then the sum", false)])
        {
            self.down_and_sum(rec, &block.down.matrix, down, routing, experts)?;
            return Ok(false);
        }
        let rows_of_pairs = Rows::Pairs { pairs, share: 1, by, grid: 1, routing };
        let out = Output::new(&routing.outputs, hidden);
        self.linear(rec, &block.down.matrix, rows_of_pairs, Input::plain(&a.gate), out)?;
        rec.scope(format!("{scope} weighted sum"));
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

    /// The experts' outputs of each token, weighted and added to the residual, from a stack that one binding holds.
    fn down_and_sum(
        &self,
        rec: &mut Recorder,
        matrix: &Matrix,
        part: &MatrixPart,
        routing: &Routing,
        experts: Experts,
    ) -> Result<(), GpuError> {
        let (a, planes) = (self.activations, &part.planes);
        rec.dispatch(
            gemv_sum::GemvSum,
            gemv_sum::Variant { ty: planes.ty(), lanes: self.tiers.lanes },
            gemv_sum::Params {
                rows: self.pass.rows,
                n: matrix.n,
                k: matrix.k,
                row_units: planes.row_units(),
                units: planes.units(),
                share: experts.used,
                experts: experts.count,
                matrix_rows: matrix.n,
            },
            gemv_sum::Binds {
                w: &part.words,
                x: &a.gate.cast(),
                ids: &routing.ids,
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
        self.linear(rec, router, Rows::Tokens(rows), input, Output::new(&routing.logits, count))?;
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
        experts: Experts,
        by: By,
    ) -> Result<(), GpuError> {
        let (pairs, b) = (self.pass.rows * experts.used, &routing.buckets);
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
                experts: experts.count,
                tile_rows: by.tile_rows(),
                max_tiles: bucket::max_tiles(pairs, experts.count, by.tile_rows()),
                first_grid: by.grid_width(gate_up),
                second_grid: by.grid_width(block.down.matrix.n),
            },
            bucket::Binds {
                ids: &routing.ids,
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
        rows: Rows<'_>,
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
