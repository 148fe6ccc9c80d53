//! One sequence: its KV cache, its buffers, its prepared plans.

use super::EngineError;
use crate::{
    gpu::{Device, Program, Readback},
    kernels::{KvType, Reduce},
    model::{Activations, Decoder, KvCache, Model, Tiers, kv_layer_words},
};

/// How a [`Session`] is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Tokens that fit. `None`: the model's own context, 4,096 at most.
    pub context: Option<u32>,
    /// How the KV cache is stored. `None`: f16 where the device can, else f32.
    pub kv_type: Option<KvType>,
    /// Tokens of a prompt that are computed at a time.
    pub prefill_rows: u32,
    /// Tokens whose logits are kept at a time by [`Session::forward_each`]: it computes no more at once.
    pub logit_rows: u32,
    /// Which kernels rows are given to. `None`: those that suit the device.
    pub tiers: Option<Tiers>,
}

/// The longest context that is taken by itself: memory grows with it.
const DEFAULT_CONTEXT: u32 = 4096;

impl Default for SessionOptions {
    fn default() -> Self {
        Self { context: None, kv_type: None, prefill_rows: 128, logit_rows: 1, tiers: None }
    }
}

impl SessionOptions {
    /// The context that a model of `longest` tokens gets.
    ///
    /// # Errors
    /// [`EngineError::Context`] when it is more than the model has.
    pub fn context_for(&self, longest: u32) -> Result<u32, EngineError> {
        match self.context {
            None => Ok(longest.min(DEFAULT_CONTEXT)),
            Some(asked) if asked == 0 || asked > longest => Err(EngineError::Context { asked, longest }),
            Some(asked) => Ok(asked),
        }
    }
}

/// A sequence of tokens that a model continues.
#[derive(Debug)]
pub struct Session {
    model: Model,
    kv: KvCache,
    activations: Activations,
    prefill_rows: u32,
    tiers: Tiers,
    /// Tokens in the cache.
    len: u32,
    /// The plan for one token, kept ready.
    decode: Prepared,
    /// The plan for any other number of tokens: its last shape is kept.
    prefill: Prepared,
    readback: Readback,
}

/// A program and the shape that it was prepared for.
#[derive(Debug)]
struct Prepared {
    program: Program,
    /// Rows and rows with logits.
    shape: Option<(u32, u32)>,
}

/// What is handed the logits of a token.
type Sink<'a> = &'a mut dyn FnMut(&[f32]);

impl Session {
    /// An empty sequence.
    ///
    /// # Errors
    /// [`EngineError`] for options that cannot be, or when memory runs out.
    pub async fn new(model: &Model, options: &SessionOptions) -> Result<Self, EngineError> {
        let (device, config) = (model.device(), model.config());
        let capacity = options.context_for(config.context_length)?;
        let can_f16 = device.caps().pack_f16;
        let ty = match options.kv_type {
            Some(KvType::F16) if !can_f16 => return Err(EngineError::KvType { device: device.name().to_owned() }),
            Some(ty) => ty,
            None if can_f16 => KvType::F16,
            None => KvType::F32,
        };
        for (option, rows) in [("prefill_rows", options.prefill_rows), ("logit_rows", options.logit_rows)] {
            if rows == 0 {
                return Err(EngineError::Option { option, value: rows.to_string(), range: "at least 1" });
            }
        }
        let words = kv_layer_words(config, capacity, ty);
        let mut layers = Vec::new();
        for i in 0..config.layers {
            layers.push(device.alloc(&format!("KV cache of blk.{i}"), words).await?);
        }
        let frequencies = &model.weights().rope_frequencies;
        let mut rotations = Vec::with_capacity(capacity as usize * frequencies.len());
        for position in 0..capacity {
            // In f64: shaders' sine and cosine are coarse, and f32 positions times frequencies too.
            rotations.extend(frequencies.iter().map(|frequency| {
                let (sin, cos) = (f64::from(position) * frequency).sin_cos();
                [cos as f32, sin as f32]
            }));
        }
        let rotations = device.upload("rotations", &rotations).await?;
        let prefill_rows = options.prefill_rows.min(capacity);
        let logit_rows = options.logit_rows.min(prefill_rows);
        let activations = Activations::new(device, config, prefill_rows, logit_rows).await?;
        let readback = Readback::new::<f32>(device, activations.logits.len()).await?;
        let prepared = || Prepared { program: Program::new(device), shape: None };
        Ok(Self {
            kv: KvCache { layers, rotations, ty, capacity },
            activations,
            prefill_rows,
            tiers: options.tiers.unwrap_or_else(|| Tiers::of(device)),
            len: 0,
            decode: prepared(),
            prefill: prepared(),
            readback,
            model: model.clone(),
        })
    }

    /// The model that it continues with.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Tokens in the sequence.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> u32 {
        self.kv.capacity
    }

    /// How the KV cache is stored.
    pub fn kv_type(&self) -> KvType {
        self.kv.ty
    }

    /// Forgets all tokens but the first `len`.
    pub fn truncate(&mut self, len: u32) {
        self.len = self.len.min(len);
    }

    /// Dispatches of the plan for one token; zero before the first.
    pub fn decode_dispatches(&self) -> usize {
        self.decode.program.plan().steps().len()
    }

    /// Appends `tokens` and returns the logits `[vocab]` of the last.
    ///
    /// # Errors
    /// [`EngineError`]; the sequence is then as before.
    pub async fn forward(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.check(tokens)?;
        let start = self.len;
        let result = self.append(tokens, None).await;
        if result.is_err() {
            self.len = start;
        }
        result
    }

    /// Appends `tokens` and hands the logits `[vocab]` of each to `sink`, in order.
    ///
    /// # Errors
    /// [`EngineError`]; the sequence is then as before, though `sink` may have seen some.
    pub async fn forward_each(&mut self, tokens: &[u32], mut sink: impl FnMut(&[f32])) -> Result<(), EngineError> {
        self.check(tokens)?;
        let start = self.len;
        let result = self.append(tokens, Some(&mut sink)).await;
        if result.is_err() {
            self.len = start;
        }
        result.map(|_| ())
    }

    fn check(&self, tokens: &[u32]) -> Result<(), EngineError> {
        let vocab = self.model.config().vocab;
        if tokens.is_empty() {
            return Err(EngineError::NoTokens);
        }
        if let Some(&id) = tokens.iter().find(|id| **id >= vocab) {
            return Err(EngineError::TokenId { id, vocab });
        }
        let needed = u64::from(self.len) + tokens.len() as u64;
        if needed > u64::from(self.capacity()) {
            return Err(EngineError::ContextFull { needed, capacity: self.capacity() });
        }
        Ok(())
    }

    /// Runs checked tokens chunk by chunk; the logits of the last token, or of all to the sink.
    async fn append(&mut self, tokens: &[u32], mut sink: Option<Sink<'_>>) -> Result<Vec<f32>, EngineError> {
        let vocab = self.model.config().vocab as usize;
        let most_logits = (self.activations.logits.len() / vocab as u64) as usize;
        let chunk =
            if sink.is_some() { most_logits.min(self.prefill_rows as usize) } else { self.prefill_rows as usize };
        let mut logits = Vec::new();
        let mut left = tokens.len();
        for chunk in tokens.chunks(chunk) {
            left -= chunk.len();
            // Only the last chunk's last row matters, unless all do.
            let wanted = if sink.is_some() { chunk.len() } else { 1 };
            self.run(chunk, wanted as u32).await?;
            if sink.is_some() || left == 0 {
                let len = (wanted * vocab) as u64;
                logits = self.readback.read(self.model.device(), &self.activations.logits, len).await?;
            }
            if let Some(sink) = &mut sink {
                logits.chunks_exact(vocab).for_each(sink);
            }
        }
        Ok(logits)
    }

    /// Appends `tokens`, computing the logits of the last, by programs that `run` runs in the session's place, step by step
    /// if it likes. This is how a model's dispatches are replayed one by one.
    ///
    /// # Errors
    /// [`EngineError`] and those of `run`; the sequence is then as before.
    pub async fn forward_by<E: From<EngineError>>(
        &mut self,
        tokens: &[u32],
        mut run: impl AsyncFnMut(&Device, &Program) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check(tokens)?;
        let (start, device) = (self.len, self.model.device().clone());
        for chunk in tokens.chunks(self.prefill_rows as usize) {
            let result = match self.prepare(chunk, 1).await {
                Ok(program) => run(&device, program).await,
                Err(error) => Err(error.into()),
            };
            if result.is_err() {
                self.len = start;
                return result;
            }
            self.len += chunk.len() as u32;
        }
        Ok(())
    }

    /// Runs the forward pass of one chunk.
    async fn run(&mut self, tokens: &[u32], logit_rows: u32) -> Result<(), EngineError> {
        let device = self.model.device().clone();
        self.prepare(tokens, logit_rows).await?.run(&device).await?;
        self.len += tokens.len() as u32;
        Ok(())
    }

    /// Writes the inputs of the forward pass of one chunk, and gives the program that computes it.
    async fn prepare(&mut self, tokens: &[u32], logit_rows: u32) -> Result<&Program, EngineError> {
        let device = self.model.device().clone();
        let rows = tokens.len() as u32;
        let positions: Vec<u32> = (self.len..self.len + rows).collect();
        device.write(&self.activations.ids, 0, tokens).await?;
        device.write(&self.activations.positions, 0, &positions).await?;
        let shape = Some((rows, logit_rows));
        let prepared = if rows == 1 { &mut self.decode } else { &mut self.prefill };
        if prepared.shape != shape {
            let decoder = Decoder {
                config: self.model.config(),
                weights: self.model.weights(),
                activations: &self.activations,
                kv: &self.kv,
                rows,
                reduce: Reduce::best(device.caps()),
                tiers: self.tiers,
            };
            let plan = decoder.record(logit_rows)?;
            prepared.shape = None;
            prepared.program.prepare(&device, plan).await?;
            prepared.shape = shape;
        }
        Ok(&prepared.program)
    }
}
