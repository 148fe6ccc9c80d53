//! Sessions: sequences of an engine, and what can be asked of them.

use std::{future::poll_fn, sync::Arc};

use super::{
    Constraint, Engine, EngineError, Reply, Sampler, SamplingOptions,
    constraint::Constrained,
    scheduler::{Output, SequenceId, SessionEvent},
};
use crate::gpu::{Device, Program};

/// A sequence of tokens that a model continues.
///
/// A session has one request at a time; while a [`Reply`] is in progress, others fail with [`EngineError::Busy`]. The blocks of
/// the sequence are freed when the session and its reply are dropped.
#[derive(Debug)]
pub struct Session {
    sequence: Arc<SequenceHandle>,
}

/// A sequence of a scheduler, released when the last handle is dropped.
#[derive(Debug)]
pub(super) struct SequenceHandle {
    pub(super) engine: Engine,
    pub(super) id: SequenceId,
}

impl Drop for SequenceHandle {
    fn drop(&mut self) {
        self.engine.scheduler().release(self.id);
    }
}

/// The options of [`Session::generate`].
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct GenerateOptions {
    /// How tokens are sampled.
    pub sampling: SamplingOptions,
    /// The most tokens. `None`: as many as the context holds.
    pub max_tokens: Option<u32>,
    /// Tokens that end the reply; they are not part of it.
    pub stop: Vec<u32>,
    /// Return the log-probability of each token, and those of so many most likely ones
    /// ([`Reply::take_logprobs`](super::Reply::take_logprobs)).
    pub logprobs: Option<u32>,
}

setters! {
    GenerateOptions {
        sampling: SamplingOptions,
        stop: Vec<u32>,
    }
    optional {
        max_tokens: u32,
        logprobs: u32,
    }
}

impl Session {
    pub(super) fn new(engine: Engine, id: SequenceId) -> Self {
        Self { sequence: Arc::new(SequenceHandle { engine, id }) }
    }

    pub(super) fn from_sequence(sequence: Arc<SequenceHandle>) -> Self {
        Self { sequence }
    }

    /// Returns the engine that computes it.
    pub fn engine(&self) -> &Engine {
        &self.sequence.engine
    }

    /// Returns its tokens: those of prompts, and generated ones.
    pub fn tokens(&self) -> Vec<u32> {
        self.engine().scheduler().tokens(self.sequence.id).unwrap_or_default().to_vec()
    }

    /// Returns the number of tokens.
    pub fn len(&self) -> u32 {
        self.engine().scheduler().tokens(self.sequence.id).map_or(0, |tokens| tokens.len() as u32)
    }

    /// Returns whether it has no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the most tokens that it can have.
    pub fn capacity(&self) -> u32 {
        self.engine().context()
    }

    /// Opens another sequence of the same tokens. They share KV blocks until one of them goes on (copy-on-write).
    ///
    /// # Errors
    /// [`EngineError::Busy`] while a reply is in progress.
    pub fn fork(&self) -> Result<Self, EngineError> {
        let id = self.engine().scheduler().fork(self.sequence.id)?;
        Ok(Self::new(self.engine().clone(), id))
    }

    /// Removes all tokens but the first `len`.
    ///
    /// # Errors
    /// [`EngineError::Busy`] while a reply is in progress.
    pub fn truncate(&mut self, len: u32) -> Result<(), EngineError> {
        self.engine().scheduler().truncate(self.sequence.id, len)
    }

    /// Appends `tokens` and returns the logits `[vocab]` of the last.
    ///
    /// # Errors
    /// [`EngineError`]; the sequence is then as before, as it is when the future is dropped.
    pub async fn forward(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.append(tokens, Output::LastLogits)?.last_row().await
    }

    /// Appends `token` by a decode pass, as for the tokens of a reply, and returns its logits `[vocab]`. They are computed by the
    /// kernels and in the reduction order of [`Session::generate`].
    ///
    /// # Errors
    /// Those of [`Session::forward`].
    pub async fn decode(&mut self, token: u32) -> Result<Vec<f32>, EngineError> {
        self.append(&[token], Output::DecodeLogits)?.last_row().await
    }

    /// Appends `tokens` and hands the logits `[vocab]` of each to `sink`, in order.
    ///
    /// # Errors
    /// Those of [`Session::forward`], though `sink` may have got some.
    pub async fn forward_each(&mut self, tokens: &[u32], sink: impl FnMut(&[f32])) -> Result<(), EngineError> {
        self.append(tokens, Output::AllLogits)?.each_row(sink).await
    }

    /// Appends `tokens` and returns the hidden state `[hidden]` of the last: the output of the last layer after the output norm,
    /// which logits are computed from.
    ///
    /// # Errors
    /// Those of [`Session::forward`].
    pub async fn hidden_state(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        let scale = self.state_scale();
        let mut state = self.append(tokens, Output::LastHidden)?.last_row().await?;
        state.iter_mut().for_each(|value| *value *= scale);
        Ok(state)
    }

    /// Appends `tokens` and hands the hidden state of each to `sink`, in order ([`Session::hidden_state`]).
    ///
    /// # Errors
    /// Those of [`Session::forward`], though `sink` may have got some.
    pub async fn hidden_states(&mut self, tokens: &[u32], mut sink: impl FnMut(&[f32])) -> Result<(), EngineError> {
        let scale = self.state_scale();
        let sink = |state: &[f32]| match scale {
            1.0 => sink(state),
            scale => sink(&state.iter().map(|value| value * scale).collect::<Vec<_>>()),
        };
        self.append(tokens, Output::AllHidden)?.each_row(sink).await
    }

    /// Returns what hidden states are multiplied by: the weights of the output norm contain the scale of logits.
    fn state_scale(&self) -> f32 {
        (1.0 / self.engine().config().scales.logits) as f32
    }

    /// Appends `tokens` by programs that `run` runs in the engine's place, step by step if it likes, for example to replay a
    /// model's dispatches one by one. A single token behind others is computed by a decode pass. Other sequences wait meanwhile.
    ///
    /// # Errors
    /// Those of [`Session::forward`] and of `run`; [`EngineError::NoFreeSlot`] when requests of others are in the way.
    pub async fn forward_by<E: From<EngineError>>(
        &mut self,
        tokens: &[u32],
        mut run: impl AsyncFnMut(&Device, &Program) -> Result<(), E>,
    ) -> Result<(), E> {
        let decode = tokens.len() == 1 && !self.is_empty();
        let mut appended = self.append(tokens, if decode { Output::DecodeLogits } else { Output::LastLogits })?;
        while !appended.complete {
            let event = appended.sequence.engine.next_event_by(appended.sequence.id, &mut run).await?;
            appended.row(event)?;
        }
        Ok(())
    }

    /// Appends `prompt` and generates a reply to it. The prompt may be empty to continue the last reply.
    ///
    /// The reply owns what it needs: it may outlive the session, and go to another thread. The session can be used again when
    /// the reply has ended or was dropped; it then has the reply's tokens.
    ///
    /// # Errors
    /// [`EngineError`] for invalid options or tokens, and at once for a prompt that can never fit; [`EngineError::Busy`] while
    /// another reply is in progress.
    pub fn generate(&mut self, prompt: &[u32], options: &GenerateOptions) -> Result<Reply, EngineError> {
        self.start(prompt, options, None)
    }

    /// Generates a reply like [`Session::generate`], whose tokens `constraint` allows. Stop tokens must be allowed by it too.
    ///
    /// # Errors
    /// Those of [`Session::generate`]; [`EngineError::Constraint`].
    pub fn generate_constrained(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        constraint: Box<dyn Constraint>,
    ) -> Result<Reply, EngineError> {
        let vocab = self.engine().config().vocab;
        self.start(prompt, options, Some(Constrained::new(constraint, vocab).map_err(EngineError::Constraint)?))
    }

    fn start(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        constrained: Option<Constrained>,
    ) -> Result<Reply, EngineError> {
        let vocab = self.engine().config().vocab;
        options.sampling.check(vocab)?;
        let mut sampler = Sampler::new(options.sampling.clone())?;
        sampler.seen(&self.tokens());
        sampler.seen(prompt);
        let max_tokens = options.max_tokens.unwrap_or(u32::MAX);
        let output = Output::Tokens { max_tokens, stop_tokens: options.stop.clone() };
        self.check(prompt)?;
        let mut scheduler = self.engine().scheduler();
        scheduler.submit(self.sequence.id, prompt, output, Some(sampler))?;
        scheduler.extend_request(self.sequence.id, constrained, options.logprobs);
        drop(scheduler);
        Ok(Reply::new(Arc::clone(&self.sequence)))
    }

    /// Submits a request to the scheduler.
    fn submit(&mut self, tokens: &[u32], output: Output) -> Result<(), EngineError> {
        self.check(tokens)?;
        self.engine().scheduler().submit(self.sequence.id, tokens, output, None)
    }

    /// Checks that tokens are in the vocabulary.
    fn check(&self, tokens: &[u32]) -> Result<(), EngineError> {
        let vocab = self.engine().config().vocab;
        if let Some(&id) = tokens.iter().find(|id| **id >= vocab) {
            return Err(EngineError::TokenId { id, vocab });
        }
        Ok(())
    }

    fn append(&mut self, tokens: &[u32], output: Output) -> Result<Appended<'_>, EngineError> {
        let before = self.len();
        self.submit(tokens, output)?;
        Ok(Appended { sequence: &self.sequence, before, complete: false })
    }
}

/// Tokens whose logits or hidden states are requested. Unless all of them came, the tokens are removed when it is dropped: the sequence has them
/// as soon as they are submitted.
struct Appended<'a> {
    sequence: &'a SequenceHandle,
    before: u32,
    complete: bool,
}

impl Drop for Appended<'_> {
    fn drop(&mut self) {
        if !self.complete {
            let mut scheduler = self.sequence.engine.scheduler();
            scheduler.cancel(self.sequence.id);
            // A sequence without a request is not busy.
            let _ = scheduler.truncate(self.sequence.id, self.before);
        }
    }
}

impl Appended<'_> {
    async fn last_row(&mut self) -> Result<Vec<f32>, EngineError> {
        loop {
            if let (Some(row), true) = (self.next_row().await?, self.complete) {
                return Ok(row);
            }
        }
    }

    async fn each_row(mut self, mut sink: impl FnMut(&[f32])) -> Result<(), EngineError> {
        while !self.complete {
            if let Some(row) = self.next_row().await? {
                sink(&row);
            }
        }
        Ok(())
    }

    /// Waits for an event, and returns its row.
    async fn next_row(&mut self) -> Result<Option<Vec<f32>>, EngineError> {
        let SequenceHandle { engine, id } = self.sequence;
        let waiting = engine.waiting(*id);
        let event = poll_fn(|context| engine.poll_event(*id, context, true)).await?;
        drop(waiting);
        event.map_or(Ok(None), |event| self.row(event))
    }

    /// Returns the row of an event.
    fn row(&mut self, event: SessionEvent) -> Result<Option<Vec<f32>>, EngineError> {
        match event {
            SessionEvent::Row { values, last } => {
                self.complete = last;
                Ok(Some(values))
            }
            SessionEvent::Failed(error) => Err(error),
            SessionEvent::Finished(_) => Err(EngineError::NoRequest),
            SessionEvent::Admitted { .. } | SessionEvent::Token(_) | SessionEvent::Logprobs(_) => Ok(None),
        }
    }
}
