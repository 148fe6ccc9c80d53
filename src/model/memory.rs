//! The device memory of a model, before anything is allocated.

use super::{Activations, CacheShape, Config, ModelError, Sampling, WorkspaceSize, split::split, tensors::Tensors};
use crate::{gguf::Gguf, quant::Planes};

/// Device memory of a model and an engine for it, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// Weights, without offloaded experts.
    pub weights: u64,
    /// One expert of every layer; 0 for dense models.
    pub expert: u64,
    /// Experts of a layer, with a shared one that is in the same stacks.
    pub experts: u32,
    /// Experts of these that a token uses.
    pub experts_used: u32,
    /// Experts of a layer that are on the device at once: the slots of the expert cache, or all.
    pub expert_slots: u32,
    /// The KV cache, its block tables, and RoPE's table.
    pub kv: u64,
    /// The part of it in which layers with a sliding window keep the last positions; 0 where they keep all.
    pub kv_windows: u64,
    /// The states of gated delta nets, of running sequences and of snapshots.
    pub states: u64,
    /// The buffers between kernels.
    pub activations: u64,
    /// The name and bytes of the largest piece that cannot be split over buffers: a row of a matrix, an expert, a layer's KV
    /// cache, a buffer between kernels. A device must be able to bind it.
    pub largest: (String, u64),
    /// The largest buffer on a device that can bind every matrix whole.
    pub largest_whole: u64,
    pub(crate) matrices: Vec<Stack>,
    /// The bytes of a state of one layer, and the number of states of sequences, drafts and snapshots.
    pub(crate) layer_states: (u64, u32),
}

/// A matrix, or one for each expert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stack {
    name: String,
    planes: Planes,
    step: u32,
    experts: u32,
}

/// A matrix in several buffers, on a device that cannot bind it whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitMatrix {
    /// The name of its first tensor.
    pub name: String,
    /// The bytes of each part.
    pub parts: Vec<u64>,
}

impl MemoryPlan {
    /// Returns the plan for `gguf` with a KV cache, and a workspace for each phase.
    ///
    /// # Errors
    /// [`ModelError`] for a file that is no supported model.
    pub(crate) fn new(gguf: &Gguf, cache: CacheShape, workspace_sizes: [WorkspaceSize; 2]) -> Result<Self, ModelError> {
        let config = Config::from_gguf(gguf)?;
        let tensors = Tensors::find(gguf, &config)?;
        let (mut weights, mut matrices, mut expert) = (0, 0, 0);
        let mut largest = (String::new(), 0);
        let mut stacks = Vec::new();
        let mut piece = |name: &str, bytes: u64| {
            if bytes > largest.1 {
                largest = (name.to_owned(), bytes);
            }
        };
        for matrix in tensors.matrices() {
            let whole = matrix.planes.vec4s() * 16;
            weights += whole;
            stacks.push(Stack {
                name: matrix.name().to_owned(),
                planes: matrix.planes,
                step: matrix.step(),
                experts: matrix.experts,
            });
            if matrix.experts > 1 {
                expert += whole / u64::from(matrix.experts);
            }
            matrices = whole.max(matrices);
            let what = if matrix.experts > 1 { "an expert of" } else { "a row of" };
            let bytes = matrix.planes.file_row_bytes() * u64::from(matrix.step());
            piece(&format!("{what} {}", matrix.name()), bytes);
        }
        weights += tensors.vectors().map(|vector| vector.elements() * 4).sum::<u64>();
        piece("the KV cache of a layer", cache.layer_bytes(&config));
        let net = config.delta_net.as_ref().map_or(0, |net| 4 * u64::from(net.heads().state()));
        piece(&format!("the {} states of a layer", cache.states), u64::from(cache.states) * net);
        piece("the table of rotations", cache.rotation_bytes(&config));
        for (name, bytes) in workspace_sizes.iter().flat_map(|room| Activations::buffers(&config, *room)) {
            piece(name, bytes);
        }
        let draws = workspace_sizes.iter().map(|room| room.logit_rows).max().unwrap_or(0);
        let activations: u64 =
            workspace_sizes.iter().flat_map(|room| Activations::buffers(&config, *room)).map(|(_, bytes)| bytes).sum();
        let (experts, used) = tensors.experts(&config);
        Ok(Self {
            weights,
            expert,
            experts,
            experts_used: used,
            expert_slots: experts,
            kv: cache.bytes(&config),
            kv_windows: cache.windowed.map_or(0, |_| cache.group_bytes(&config, 1)),
            states: cache.state_bytes(&config),
            activations: activations + Sampling::bytes(draws, workspace_sizes[1].rows, config.vocab),
            largest_whole: matrices.max(largest.1),
            largest,
            matrices: stacks,
            layer_states: (net, cache.states),
        })
    }

    /// Returns the matrices that are split on a device that binds at most `limit` bytes. Those with a piece above it are left
    /// out: see `largest`.
    pub fn splits(&self, limit: u64) -> Vec<SplitMatrix> {
        let parts = |stack: &Stack| {
            let held = if stack.experts > 1 { self.expert_slots.min(stack.experts) } else { stack.experts };
            let rows = stack.planes.rows() / u64::from(stack.experts.max(1)) * u64::from(held);
            split(&Planes::new(stack.planes.ty(), rows, stack.planes.k())?, stack.step, limit)
        };
        let split = |stack: &Stack| {
            let parts: Vec<u64> = parts(stack)?.iter().map(|part| 16 * part.planes.vec4s()).collect();
            (parts.len() > 1).then(|| SplitMatrix { name: stack.name.clone(), parts })
        };
        self.matrices.iter().filter_map(split).collect()
    }

    /// Returns the number of states of gated delta nets, and the largest that a device which binds at most `limit` bytes has: a
    /// layer's states share a binding. `None` for models without them.
    pub fn states_within(&self, limit: u64) -> Option<(u32, u64)> {
        let (bytes, states) = self.layer_states;
        Some((states, limit.checked_div(bytes)?))
    }

    /// Returns the plan with expert caches of `slots` ([`Model::load_offloaded`](super::Model::load_offloaded)).
    #[must_use]
    pub fn offloaded(&self, slots: u32) -> Self {
        let left_out = self.expert * u64::from(self.expert_slots.saturating_sub(slots));
        Self {
            weights: self.weights.saturating_sub(left_out),
            expert_slots: slots.min(self.expert_slots),
            ..self.clone()
        }
    }

    /// Returns the plan with the most expert slots that fit in `budget` bytes; `None` if the experts of a token do not.
    pub fn within(&self, budget: u64) -> Option<Self> {
        if self.total() <= budget {
            return Some(self.clone());
        }
        let without = self.offloaded(0).total();
        let slots = budget.checked_sub(without)?.checked_div(self.expert)?;
        (slots >= u64::from(self.experts_used)).then(|| self.offloaded(slots as u32))
    }

    /// Returns the least total: with the experts of one token on the device.
    pub fn least(&self) -> u64 {
        self.offloaded(self.experts_used).total()
    }

    /// Returns the slots of the expert cache, unless all experts are on the device.
    pub fn slots(&self) -> Option<u32> {
        (self.expert_slots < self.experts).then_some(self.expert_slots)
    }

    /// Returns the sum.
    pub fn total(&self) -> u64 {
        self.weights + self.kv + self.states + self.activations
    }
}
