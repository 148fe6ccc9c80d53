//! The device's state of sampling, for each running sequence.

use super::activations::Activations;
use crate::{
    gpu::{Buffer, Device, GpuError, Recorder},
    kernels::sample,
};

/// The state of sampling on the device, by place: the slots of sequences, then those of draft tokens.
#[derive(Debug)]
pub(crate) struct Sampling {
    /// The number of places.
    pub(crate) places: u32,
    /// The last sampled token `[places]`.
    pub(crate) tokens: Buffer<u32>,
    /// [`sample::Cuts`] `[places, 2]`.
    pub(crate) cuts: Buffer<[f32; 4]>,
    /// Seed and counter `[places]`.
    pub(crate) draws: Buffer<[u32; 4]>,
    /// Repetition, presence and frequency penalty, and whether there are any `[places]`.
    pub(crate) penalties: Buffer<[f32; 4]>,
    /// Token counts, biases and masks; empty until a sequence has penalties or a constraint.
    pub(crate) history: History,
    /// Top-k candidates, of two stages.
    candidates: [Buffer<[u32; 2]>; 2],
}

/// The counts and biases of each token `[places, vocab]`, and the masks, a bit for each token `[places, ⌈vocab / 32⌉]`.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) counts: Buffer<u32>,
    pub(crate) bias: Buffer<f32>,
    pub(crate) masks: Buffer<u32>,
}

impl History {
    async fn new(device: &Device, tokens: u64, words: u64) -> Result<Self, GpuError> {
        let counts = device.alloc("token counts", tokens).await?;
        let bias = device.alloc("token biases", tokens).await?;
        Ok(Self { counts, bias, masks: device.alloc("token masks", words).await? })
    }

    /// Allocates them for `vocab` tokens of each of so many places.
    pub(crate) async fn for_all(device: &Device, places: u32, vocab: u32) -> Result<Self, GpuError> {
        let [places, vocab] = [places, vocab].map(u64::from);
        Self::new(device, places * vocab, places * vocab.div_ceil(32)).await
    }

    /// Returns whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts.len() <= 1
    }
}

impl Sampling {
    /// Returns the bytes that [`Sampling::new`] allocates.
    pub(crate) fn bytes(rows: u32, places: u32, vocab: u32) -> u64 {
        let sizes = sample::Sizes::new(rows, places, vocab);
        68 * u64::from(places) + 8 * sizes.candidates.iter().sum::<u64>()
    }

    /// Allocates the state of so many places, for `rows` samples at a time.
    pub(crate) async fn new(device: &Device, rows: u32, places: u32, vocab: u32) -> Result<Self, GpuError> {
        let sizes = sample::Sizes::new(rows, places, vocab);
        let [first, second] = sizes.candidates;
        Ok(Self {
            places,
            tokens: device.alloc("sampled tokens", sizes.sequences).await?,
            cuts: device.alloc("sampling options", sizes.cuts).await?,
            draws: device.alloc("seeds and counters", sizes.sequences).await?,
            penalties: device.alloc("penalties", sizes.sequences).await?,
            history: History::new(device, 1, 1).await?,
            candidates: [
                device.alloc("likeliest tokens", first).await?,
                device.alloc("likeliest of these", second).await?,
            ],
        })
    }

    /// Records the sampling from the logits of a pass.
    pub(crate) fn record(&self, rec: &mut Recorder, rows: &sample::Rows, a: &Activations) -> Result<(), GpuError> {
        let [first, second] = &self.candidates;
        let buffers = sample::Buffers {
            logits: &a.logits,
            picks: &a.picks,
            cuts: &self.cuts,
            draws: &self.draws,
            tokens: &self.tokens,
            penalties: &self.penalties,
            bias: &self.history.bias,
            counts: &self.history.counts,
            masks: &self.history.masks,
            candidates: [first, second],
        };
        sample::record(rec, rows, &buffers)
    }
}
