//! Decoders: shape, weights in device memory, selection of kernels, and forward passes as plans.

mod activations;
mod architecture;
mod attention;
mod cache;
mod config;
mod decoder;
mod delta_net;
mod error;
mod expert_cache;
mod feed_forward;
mod file_rows;
mod keys;
mod matmul;
mod memory;
mod memory_traffic;
mod plan_options;
mod planned;
#[cfg(any(feature = "cli", feature = "test-util"))]
mod presets;
mod sampling;
mod selection;
mod split;
mod tensor_rows;
mod tensors;
#[cfg(any(feature = "cli", feature = "test-util"))]
pub mod time;
mod tree;
mod weights;

use std::sync::Arc;

use crate::{gguf::Gguf, gpu::Device, kernels::check_device};

pub use architecture::Architecture;
pub use config::{
    Activation, Config, DeltaNet, FeedForward, LayerAttention, LayerPattern, QkNorm, QueryTemperature, Rope, Scales,
    SharedExpert, SlidingWindow, Yarn,
};
pub use decoder::Phase;
pub use error::ModelError;
pub use expert_cache::ExpertCacheStats;
pub use memory::{MemoryPlan, SplitMatrix};
pub use memory_traffic::MemoryTraffic;
pub use plan_options::PlanOptions;
pub use planned::{PlannedDispatch, PlannedKernel, PlannedKernels, PlannedPasses, planned, planned_pass};
#[cfg(any(feature = "cli", feature = "test-util"))]
pub use presets::{FileType, PRESETS, Preset};
pub use selection::{
    AttentionKind, DeviceClass, DeviceProfile, DownProj, ExpertGrids, KernelSelection, MatmulKind, NormPlacement,
    PassKernels, PassShape, Precision, PrefillMatmul, Tuning, TuningChoice, TuningKey,
};

pub(crate) use activations::{Activations, WorkspaceSize};
pub(crate) use cache::{CacheShape, KvCache, WindowPool};
pub(crate) use decoder::{Decoder, Pass};
pub(crate) use expert_cache::{ExpertCacheLease, ExpertSlots};
pub(crate) use memory_traffic::weight_bytes;
pub(crate) use sampling::{History, Sampling};
pub(crate) use weights::Weights;

/// A model on a device. It is immutable, and cheap to clone: clones share it.
#[derive(Clone, Debug)]
pub struct Model {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    device: Device,
    config: Config,
    weights: Arc<Weights>,
}

impl Model {
    /// Checks `gguf` and uploads its weights. `progress` is called with the bytes of tensors sent so far, and their total.
    ///
    /// # Errors
    /// [`ModelError`]: nothing is uploaded before every tensor's name, type and shape have been checked.
    pub async fn load(device: &Device, gguf: &Gguf, progress: impl FnMut(u64, u64)) -> Result<Self, ModelError> {
        Self::load_with(device, gguf, None, progress).await
    }

    /// Loads a model with expert offload: each layer has an LRU cache of `slots` experts on the device, and loads an expert from
    /// the file when the router chooses one that is not cached. Results are those of [`Model::load`]. One engine at a time can
    /// use the model. [`Model::expert_cache`] returns counters.
    ///
    /// # Errors
    /// Those of [`Model::load`]; [`ModelError::ExpertSlots`] for fewer slots than a token uses experts, or more than the
    /// experts; [`ModelError::NotOffloadable`] for experts that cannot be loaded one by one.
    pub async fn load_offloaded(
        device: &Device,
        gguf: &Gguf,
        slots: u32,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        Self::load_with(device, gguf, Some(slots), progress).await
    }

    async fn load_with(
        device: &Device,
        gguf: &Gguf,
        slots: Option<u32>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        check_device(device).await?;
        let config = Config::from_gguf(gguf)?;
        let tensors = tensors::Tensors::find(gguf, &config)?;
        let (most, least) = tensors.experts(&config);
        if let Some(slots) = slots.filter(|slots| *slots == 0 || !(least..=most).contains(slots)) {
            return Err(ModelError::ExpertSlots { slots, least, most });
        }
        // With a slot for each, all are loaded.
        let slots = slots.filter(|slots| *slots < most);
        let sent_later = |matrix: &&tensor_rows::MatrixInfo<'_>| slots.is_some() && matrix.experts > 1;
        let later: u64 = tensors.matrices().into_iter().filter(sent_later).map(tensor_rows::MatrixInfo::bytes).sum();
        let unused: u64 = tensors.unused.iter().map(|tensor| tensor.bytes).sum();
        let total = gguf.tensors().iter().map(|t| t.bytes).sum::<u64>() - later - unused;
        let upload = weights::Upload::new(device, gguf, slots, |sent| progress(sent, total));
        let weights = Arc::new(upload.run(&config, &tensors).await?);
        Ok(Self { inner: Arc::new(Inner { device: device.clone(), config, weights }) })
    }

    /// Returns every reason why the model in `gguf` cannot be loaded, as far as its metadata and tensor directory show; none if
    /// it can.
    pub fn unsupported(gguf: &Gguf) -> Vec<ModelError> {
        match Config::checked(gguf) {
            Ok(config) => tensors::Tensors::checked(gguf, &config).err().unwrap_or_default(),
            Err(errors) => errors,
        }
    }

    /// Returns the names of the tensors in `gguf` that are known, but not used: those of layers that predict further tokens
    /// (MTP). None if it is no supported model.
    pub fn unused_tensors(gguf: &Gguf) -> Vec<String> {
        let Ok(config) = Config::from_gguf(gguf) else { return Vec::new() };
        let names = |tensors: tensors::Tensors<'_>| tensors.unused.iter().map(|tensor| tensor.name.clone()).collect();
        tensors::Tensors::find(gguf, &config).map(names).unwrap_or_default()
    }

    /// Loads the model from `gguf` on another device, with the same expert slots.
    pub(crate) async fn load_again(&self, device: &Device, gguf: &Gguf) -> Result<Self, ModelError> {
        Self::load_with(device, gguf, self.expert_cache().map(|cache| cache.slots), |_, _| ()).await
    }

    /// Returns the counters of the expert cache; `None` where the device has all experts.
    pub fn expert_cache(&self) -> Option<ExpertCacheStats> {
        self.weights().expert_cache.as_ref().map(|cache| cache.stats())
    }

    /// Returns the model without its weights, on a [dry run](Device::dry_run) of `device`.
    pub(crate) async fn dry_run(device: &Device, gguf: &Gguf) -> Result<Self, ModelError> {
        // The plans are to be those of the device.
        check_device(device).await?;
        Self::load(&device.dry_run(), gguf, |_, _| ()).await
    }

    /// Returns its device.
    pub fn device(&self) -> &Device {
        &self.inner.device
    }

    /// Returns its shape.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Returns what its plans depend on: its shape, and the formats of its weights. Models with the same are equally fast.
    pub fn shape(&self) -> String {
        let c = self.config();
        let feed_forward = match c.feed_forward {
            FeedForward::Dense { inner } => format!("{inner}"),
            FeedForward::Experts { count, used, inner, .. } => format!("{used} of {count} experts of {inner}"),
        };
        let nets = c.delta_net.as_ref().map_or_else(String::new, |net| {
            let (layers, heads) = (c.delta_net_layers(), net.heads());
            format!("{layers} with {} and {} delta net heads of {}, ", heads.key_heads, heads.value_heads, net.head_dim)
        });
        format!(
            "{} layers of {}, {nets}{} and {} heads of {}, {feed_forward}, {} tokens, {}",
            c.layers,
            c.hidden,
            c.heads,
            c.kv_heads,
            c.head_dim,
            c.vocab,
            self.weights().formats()
        )
    }

    pub(crate) fn weights(&self) -> &Weights {
        &self.inner.weights
    }
}
