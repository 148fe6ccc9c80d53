//! The feed-forward block of a layer, dense or of experts.

use super::{
    Activation, Config, DownProj, FeedForward, MatmulKind,
    activations::Routing,
    decoder::Decoder,
    expert_cache::LoadExperts,
    matmul::{ExpertIds, Input, MatmulRows, Output},
    tree::{GateUp, SharedExpert},
    weights::{FeedForwardWeights, LayerWeights, Linear, Matrix, MatrixPart},
};
use crate::{
    gpu::{Buffer, GpuError, Recorder, Scope, Stage},
    kernels::{
        elementwise::gated_activation::{self, Layout},
        linear::{Epilogue, gemv_moe_combine},
        moe::{combine, router_topk, sort},
    },
};

/// A pass over a layer's assignments: one, or several where the expert cache has fewer slots than experts are chosen.
struct ExpertPass<'a> {
    /// What the host loads first.
    load: Option<LoadExperts>,
    experts: ExpertIds<'a>,
    /// The number of passes.
    passes: u32,
}

/// The experts of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Experts {
    /// Those that the router chooses from.
    pub(super) count: u32,
    /// Those of a token that the router chooses.
    chosen: u32,
    normalise: bool,
    shared: router_topk::Shared,
}

impl Experts {
    pub(super) fn of(config: &Config) -> Option<Self> {
        match config.feed_forward {
            FeedForward::Dense { .. } => None,
            FeedForward::Experts { count, used, normalise, shared, .. } => Some(Self {
                count,
                chosen: used,
                normalise,
                shared: match shared {
                    None => router_topk::Shared::None,
                    Some(shared) if shared.gated => router_topk::Shared::Gated,
                    Some(_) => router_topk::Shared::Ungated,
                },
            }),
        }
    }

    /// Returns the number of a token's experts: with a shared one as the last.
    fn used(self) -> u32 {
        self.chosen + self.shared.count()
    }

    /// Returns the number of ids of experts: the shared one has the last.
    fn ids(self) -> u32 {
        self.count + self.shared.count()
    }
}

impl Decoder<'_> {
    /// Records the feed-forward block, which adds its output to the residual. Returns whether the residual is normed by
    /// `next_norm` already.
    pub(super) fn feed_forward(
        &self,
        rec: &mut Recorder,
        number: usize,
        layer: &LayerWeights,
        next_norm: Option<&Buffer<f32>>,
    ) -> Result<bool, GpuError> {
        let scope = |stage| Scope::layer(number as u32, stage);
        let (a, rows, block, kernels) = (self.activations, self.pass.rows, &layer.feed_forward, self.pass_kernels());
        // Activations are made for the same shape as the weights: all three are there, or none.
        let (Some(routing), Some(experts)) = (&a.routing, Experts::of(self.config)) else {
            rec.scope(scope(Stage::GateUp));
            let input = self.normed(rec, &layer.ffn_norm, kernels.ffn_norm)?;
            self.gate_up(rec, &block.gate_up, MatmulRows::Tokens(rows), input)?;
            rec.scope(scope(Stage::DownProj));
            self.add_block(rec, &block.down, Input::plain(&a.gate), layer.ffn_post_norm.as_ref())?;
            return Ok(false);
        };
        let (used, hidden, kind) = (experts.used(), self.config.hidden, kernels.experts);
        let count = rows * used;
        rec.scope(scope(Stage::Router));
        let input = self.normed(rec, &layer.ffn_norm, kernels.ffn_norm)?;
        self.route(rec, &block.router, routing, experts, input)?;
        let separate = match &block.shared {
            SharedExpert::Separate { gate_up, down } => {
                rec.scope(scope(Stage::GateUp));
                self.gate_up(rec, gate_up, MatmulRows::Tokens(rows), input)?;
                rec.scope(scope(Stage::DownProj));
                let out = Output { offset: experts.chosen * hidden, ..Output::new(&routing.outputs, used * hidden) };
                self.biased(rec, down, Input::plain(&a.gate), out)?;
                true
            }
            SharedExpert::None | SharedExpert::Stacked => false,
        };
        for ExpertPass { load, experts: ids, passes } in self.expert_passes(number, routing, count, experts, separate) {
            if let Some(load) = load {
                rec.before(load);
            }
            if kind != MatmulKind::Gemv {
                self.sort(rec, block, routing, count, ids, kind)?;
            }
            rec.scope(scope(Stage::GateUp));
            let rows = |rows_per_input, grid| MatmulRows::Assignments {
                count,
                rows_per_input,
                kind,
                grid,
                experts: ids,
                routing,
            };
            self.gate_up(rec, &block.gate_up, rows(used, 0), input)?;
            rec.scope(scope(Stage::DownProj));
            // The sum needs all of a token's experts at once, in one binding.
            let fused = self.options.fused && !separate;
            if let (DownProj::Combined, true, 1, [down], None) =
                (kernels.down_proj, fused, passes, &block.down.matrix.parts[..], &block.down.bias)
            {
                self.combined_down_proj(rec, &block.down.matrix, down, ids, routing)?;
                return Ok(false);
            }
            let out = Output::new(&routing.outputs, hidden);
            self.linear(rec, &block.down.matrix, rows(1, 1), Input::plain(&a.gate), out)?;
        }
        // Once, after all passes over the assignments.
        self.expert_bias(rec, &block.down, count, routing, &routing.outputs)?;
        rec.scope(scope(Stage::MoeCombine));
        rec.dispatch(
            combine::MoeCombine,
            match next_norm {
                Some(_) => combine::Variant::AddNorm,
                None => combine::Variant::Add,
            },
            combine::Params { rows, n: hidden, top_k: used, eps: self.config.eps },
            combine::Binds {
                weights: &routing.weights,
                outputs: &routing.outputs,
                w: next_norm,
                residual: &a.residual,
                y: next_norm.map(|_| &a.normed),
            },
        )?;
        Ok(next_norm.is_some())
    }

    /// Returns the passes over a layer's `count` assignments. Those of a `separate` shared expert are left out.
    fn expert_passes<'a>(
        &'a self,
        layer: usize,
        routing: &'a Routing,
        count: u32,
        experts: Experts,
        separate: bool,
    ) -> Vec<ExpertPass<'a>> {
        let used = experts.used();
        let (Some(cache), Some(slots)) = (&self.weights.expert_cache, &routing.slots) else {
            let experts = ExpertIds { ids: &routing.ids, count: experts.ids(), used };
            return vec![ExpertPass { load: None, experts, passes: 1 }];
        };
        let stacked = experts.ids() - u32::from(separate);
        let passes = cache.passes(count / used * (used - u32::from(separate)), stacked);
        // Of several passes an assignment whose turn it is not has an index beyond the slots.
        let experts = ExpertIds { ids: &slots.slots, count: cache.slots() + u32::from(passes > 1 || separate), used };
        let loads = slots.loads(cache, layer, &routing.ids, count, stacked, passes);
        loads.map(|load| ExpertPass { load: Some(load), experts, passes }).collect()
    }

    /// Records the down projection of all of a token's experts with their weighted sum, from a stack in one binding.
    fn combined_down_proj(
        &self,
        rec: &mut Recorder,
        matrix: &Matrix,
        part: &MatrixPart,
        experts: ExpertIds<'_>,
        routing: &Routing,
    ) -> Result<(), GpuError> {
        let (a, planes) = (self.activations, &part.planes);
        rec.dispatch(
            gemv_moe_combine::GemvMoeCombine,
            gemv_moe_combine::Variant { ty: planes.ty(), split: self.kernels.split },
            gemv_moe_combine::Params {
                rows: self.pass.rows,
                n: matrix.n,
                k: matrix.k,
                k_blocks: planes.k_blocks(),
                n_blocks: planes.blocks(),
                top_k: experts.used,
                experts: experts.count,
                weight_rows: matrix.n,
            },
            gemv_moe_combine::Binds {
                w: &part.words,
                x: &a.gate.cast(),
                ids: experts.ids,
                weights: &routing.weights,
                y: &a.residual,
            },
        )
    }

    /// Records the router: each token's experts and their weights.
    fn route(
        &self,
        rec: &mut Recorder,
        router: &[Linear],
        routing: &Routing,
        experts: Experts,
        input: Input<'_>,
    ) -> Result<(), GpuError> {
        let (rows, Experts { count, chosen, normalise, shared }) = (self.pass.rows, experts);
        let (stride, mut offset) = (router.iter().map(|linear| linear.matrix.n).sum(), 0);
        for linear in router {
            self.biased(rec, linear, input, Output { offset, ..Output::new(&routing.logits, stride) })?;
            offset += linear.matrix.n;
        }
        rec.on_host(self.options.host_routing);
        rec.dispatch(
            router_topk::RouterTopk,
            router_topk::Variant { normalise, shared },
            router_topk::Params { rows, experts: count, top_k: chosen, scale: self.config.scales.residual as f32 },
            router_topk::Binds { logits: &routing.logits, ids: &routing.ids, weights: &routing.weights },
        )?;
        rec.on_host(false);
        Ok(())
    }

    /// Records the sort of assignments by expert, and the grids of the two products over them.
    fn sort(
        &self,
        rec: &mut Recorder,
        block: &FeedForwardWeights,
        routing: &Routing,
        assignments: u32,
        ExpertIds { ids, count: experts, .. }: ExpertIds<'_>,
        kind: MatmulKind,
    ) -> Result<(), GpuError> {
        let b = &routing.sorted;
        let gate_up = match &block.gate_up {
            GateUp::Fused(matrix) => matrix.n,
            GateUp::Separate { gate, .. } => gate.matrix.n,
        };
        rec.on_host(self.options.host_routing);
        rec.dispatch(
            sort::MoeSort,
            (),
            sort::Params {
                assignments,
                experts,
                tile_rows: kind.tile_rows(),
                max_tiles: sort::max_tiles(assignments, experts, kind.tile_rows()),
                first_grid: kind.grid_width(gate_up, self.kernels.split),
                second_grid: kind.grid_width(block.down.matrix.n, self.kernels.split),
            },
            sort::Binds {
                ids,
                counts: &b.counts,
                offsets: &b.offsets,
                sorted: &b.assignments,
                tiles: &b.tiles,
                grids: &b.grids,
            },
        )?;
        rec.on_host(false);
        Ok(())
    }

    /// Records the gate and up projections with the activation.
    fn gate_up(
        &self,
        rec: &mut Recorder,
        gate_up: &GateUp<Matrix, Buffer<f32>>,
        rows: MatmulRows<'_>,
        input: Input<'_>,
    ) -> Result<(), GpuError> {
        let (a, activation) = (self.activations, self.config.activation);
        let epilogue = match activation {
            Activation::SwiGlu => Some(Epilogue::Gate),
            Activation::GeGlu => Some(Epilogue::GateGelu),
            // Its models have biases between the products and the activation.
            Activation::SwiGluOai => None,
        };
        match gate_up {
            GateUp::Fused(matrix) => match epilogue.filter(|_| self.options.fused) {
                Some(epilogue) => {
                    let out = Output { epilogue, ..Output::new(&a.gate, matrix.n / 2) };
                    self.linear(rec, matrix, rows, input, out)
                }
                None => {
                    self.linear(rec, matrix, rows, input, Output::new(&a.up, matrix.n))?;
                    self.activation(rec, Layout::Interleaved, rows.count(), matrix.n / 2)
                }
            },
            GateUp::Separate { gate, up } => {
                let inner = gate.matrix.n;
                for (linear, y) in [(gate, &a.gate), (up, &a.up)] {
                    self.biased_rows(rec, linear, rows, input, Output::new(y, inner))?;
                }
                self.activation(rec, Layout::Split, rows.count(), inner)
            }
        }
    }

    fn activation(&self, rec: &mut Recorder, layout: Layout, rows: u32, n: u32) -> Result<(), GpuError> {
        let a = self.activations;
        rec.dispatch(
            gated_activation::GatedActivation,
            gated_activation::Variant { layout, activation: self.config.activation },
            gated_activation::Params { rows, n },
            gated_activation::Binds { x: &a.up, y: &a.gate },
        )
    }
}
