//! The feed-forward block of a layer, dense or of experts.

use super::{
    Config, FeedForward,
    activations::Routing,
    decoder::Decoder,
    product::{By, Output, Rows},
    weights::{FeedForwardWeights, GateUp, LayerWeights, Matrix},
};
use crate::{
    gpu::{Buffer, GpuError, Recorder},
    kernels::{
        elementwise::silu_mul,
        linear::Epilogue,
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
    /// Adds the block's output to the residual, and norms that with `next_norm` where a kernel does both.
    pub(super) fn feed_forward(
        &self,
        rec: &mut Recorder,
        scope: &str,
        layer: &LayerWeights,
        next_norm: Option<&Buffer<f32>>,
    ) -> Result<(), GpuError> {
        let (a, rows, block) = (self.activations, self.pass.rows, &layer.feed_forward);
        rec.scope(format!("{scope} route"));
        self.norm(rec, &layer.ffn_norm)?;
        // Activations are made from the same configuration as the weights: all three are there, or none.
        let (Some(router), Some(routing), Some(experts)) = (&block.router, &a.routing, Experts::of(self.config)) else {
            rec.scope(format!("{scope} gate up"));
            self.gate_up(rec, block, Rows::Tokens(rows))?;
            rec.scope(format!("{scope} down"));
            return self.biased(rec, &block.down, &a.gate, self.residual());
        };
        let (pairs, hidden) = (rows * experts.used, self.config.hidden);
        let by = self.pairs_by(pairs, experts.count);
        self.route(rec, router, routing, experts)?;
        if by != By::Row {
            self.bucket(rec, block, routing, experts, by)?;
        }
        rec.scope(format!("{scope} gate up"));
        self.gate_up(rec, block, Rows::Pairs { pairs, share: experts.used, by, grid: 0, routing })?;
        rec.scope(format!("{scope} down"));
        let rows_of_pairs = Rows::Pairs { pairs, share: 1, by, grid: 1, routing };
        self.linear(rec, &block.down.matrix, rows_of_pairs, &a.gate, Output::new(&routing.outputs, hidden))?;
        rec.scope(format!("{scope} weighted sum"));
        rec.dispatch(
            weighted_sum::WeightedSum,
            match next_norm {
                Some(_) => weighted_sum::Variant::AddNorm(self.reduce),
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
        )
    }

    /// Each token's experts and their weights.
    fn route(&self, rec: &mut Recorder, router: &Matrix, routing: &Routing, experts: Experts) -> Result<(), GpuError> {
        let (rows, Experts { count, used, normalise }) = (self.pass.rows, experts);
        self.linear(rec, router, Rows::Tokens(rows), &self.activations.normed, Output::new(&routing.logits, count))?;
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

    /// The gated inner values, from the normed residual.
    fn gate_up(&self, rec: &mut Recorder, block: &FeedForwardWeights, rows: Rows<'_>) -> Result<(), GpuError> {
        let a = self.activations;
        match &block.gate_up {
            GateUp::Fused(matrix) if self.options.fused => {
                let out = Output { epilogue: Epilogue::Gate, ..Output::new(&a.gate, matrix.n / 2) };
                self.linear(rec, matrix, rows, &a.normed, out)
            }
            GateUp::Fused(matrix) => {
                self.linear(rec, matrix, rows, &a.normed, Output::new(&a.up, matrix.n))?;
                self.silu_mul(rec, silu_mul::Layout::Alternating, rows.count(), matrix.n / 2)
            }
            GateUp::Separate { gate, up } => {
                let inner = gate.matrix.n;
                for (linear, y) in [(gate, &a.gate), (up, &a.up)] {
                    self.linear(rec, &linear.matrix, rows, &a.normed, Output::new(y, inner))?;
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
