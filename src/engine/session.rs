//! A sequence of an engine, and what is asked of it.

use super::{
    Engine, EngineError, Sampler, SamplingOptions,
    engine::News,
    scheduler::{End, SequenceId, Want},
};
use crate::gpu::{Device, Program};

/// A sequence of tokens that a model continues. Its share of the KV cache is given back when it is dropped.
#[derive(Debug)]
pub struct Session {
    engine: Engine,
    id: SequenceId,
}

/// What is asked for by [`Session::generate`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerateOptions {
    /// How tokens are drawn.
    pub sampling: SamplingOptions,
    /// The most tokens. `None`: as many as the context holds.
    pub max_tokens: Option<u32>,
    /// Tokens that end the reply; they are not part of it.
    pub stop: Vec<u32>,
}

/// What has become of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something was computed.
    Computed,
    /// Its next token.
    Token(u32),
    /// It is at its end.
    Ended(Stop),
}

/// Why a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// This token was drawn.
    Token(u32),
    /// It has as many tokens as were asked for.
    Limit,
    /// No more tokens fit.
    ContextFull,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.engine.schedule().release(self.id);
    }
}

impl Session {
    pub(super) fn new(engine: Engine, id: SequenceId) -> Self {
        Self { engine, id }
    }

    /// The engine that computes it.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its tokens: those it was given, and those that were drawn.
    pub fn tokens(&self) -> Vec<u32> {
        self.engine.schedule().scheduler.tokens(self.id).unwrap_or_default().to_vec()
    }

    /// Tokens in the sequence.
    pub fn len(&self) -> u32 {
        self.engine.schedule().scheduler.tokens(self.id).map_or(0, |tokens| tokens.len() as u32)
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> u32 {
        self.engine.context()
    }

    /// Another sequence of the same tokens. They share what is computed until one of them goes on.
    ///
    /// # Errors
    /// None for a session without a reply under way, which a borrow cannot have.
    pub fn fork(&self) -> Result<Self, EngineError> {
        let mut schedule = self.engine.schedule();
        let id = schedule.scheduler.fork(self.id)?;
        schedule.open(id);
        drop(schedule);
        Ok(Self::new(self.engine.clone(), id))
    }

    /// Forgets all tokens but the first `len`.
    pub fn truncate(&mut self, len: u32) {
        let mut schedule = self.engine.schedule();
        // A call whose future was dropped may have left a request.
        schedule.cancel(self.id);
        let _ = schedule.scheduler.truncate(self.id, len);
    }

    /// Appends `tokens` and returns the logits `[vocab]` of the last.
    ///
    /// # Errors
    /// [`EngineError`]; the sequence is then as before.
    pub async fn forward(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.ask(tokens, Want::Last, None)?;
        self.last_logits().await
    }

    /// Appends `token` as if it had been drawn and returns its logits `[vocab]`: with the kernels and the order of sums that
    /// [`Session::generate`] has for the tokens of a reply.
    ///
    /// # Errors
    /// [`EngineError`]; the sequence is then as before.
    pub async fn decode(&mut self, token: u32) -> Result<Vec<f32>, EngineError> {
        self.ask(&[token], Want::Next, None)?;
        self.last_logits().await
    }

    /// Appends `tokens` and hands the logits `[vocab]` of each to `sink`, in order.
    ///
    /// # Errors
    /// [`EngineError`]; the sequence is then as before, though `sink` may have seen some.
    pub async fn forward_each(&mut self, tokens: &[u32], mut sink: impl FnMut(&[f32])) -> Result<(), EngineError> {
        self.ask(tokens, Want::Each, None)?;
        loop {
            match self.next().await? {
                News::Logits { logits, last } => {
                    sink(&logits);
                    if last {
                        return Ok(());
                    }
                }
                other => self.unexpected(other)?,
            }
        }
    }

    /// Appends `tokens` by programs that `run` runs in the engine's place, step by step if it likes: this is how a model's
    /// dispatches are replayed one by one. A single token that follows others is computed as a drawn one.
    ///
    /// # Errors
    /// [`EngineError`] and those of `run`; the sequence is then as before.
    pub async fn forward_by<E: From<EngineError>>(
        &mut self,
        tokens: &[u32],
        mut run: impl AsyncFnMut(&Device, &Program) -> Result<(), E>,
    ) -> Result<(), E> {
        let next = tokens.len() == 1 && !self.is_empty();
        self.ask(tokens, if next { Want::Next } else { Want::Last }, None)?;
        loop {
            match self.engine.next_by(self.id, &mut run).await {
                Ok(News::Logits { .. }) => return Ok(()),
                Ok(other) => self.unexpected(other)?,
                Err(error) => {
                    self.engine.schedule().cancel(self.id);
                    return Err(error);
                }
            }
        }
    }

    /// Appends `prompt`, and a reply to it: its tokens come from [`Reply::next`]. The prompt may be empty when the last reply
    /// is to be continued.
    ///
    /// # Errors
    /// [`EngineError`] for options or tokens that cannot be, and at once for what can never fit.
    pub fn generate(&mut self, prompt: &[u32], options: &GenerateOptions) -> Result<Reply<'_>, EngineError> {
        let vocab = self.engine.config().vocab;
        options.sampling.check(vocab)?;
        let mut sampler = Sampler::new(options.sampling.clone())?;
        // What a call has left whose future was dropped is not said.
        self.engine.schedule().cancel(self.id);
        sampler.seen(&self.tokens());
        sampler.seen(prompt);
        let most = options.max_tokens.unwrap_or(u32::MAX);
        self.ask(prompt, Want::Draw { most, stops: options.stop.clone() }, Some(sampler))?;
        Ok(Reply { session: self, cached: 0, stop: None })
    }

    /// Makes a request of the scheduler.
    fn ask(&mut self, tokens: &[u32], want: Want, sampler: Option<Sampler>) -> Result<(), EngineError> {
        let vocab = self.engine.config().vocab;
        if let Some(&id) = tokens.iter().find(|id| **id >= vocab) {
            return Err(EngineError::TokenId { id, vocab });
        }
        Ok(self.engine.schedule().ask(self.id, tokens, want, sampler)?)
    }

    async fn next(&self) -> Result<News, EngineError> {
        loop {
            if let Some(news) = self.engine.step(self.id).await? {
                return Ok(news);
            }
        }
    }

    async fn last_logits(&mut self) -> Result<Vec<f32>, EngineError> {
        loop {
            match self.next().await? {
                News::Logits { logits, last: true } => return Ok(logits),
                other => self.unexpected(other)?,
            }
        }
    }

    /// News that do not end a request for logits well.
    fn unexpected(&self, news: News) -> Result<(), EngineError> {
        match news {
            News::Failed(error) => Err(error),
            News::Ended(end) => Err(error_of(end)),
            News::Admitted { .. } | News::Token(_) | News::Logits { .. } => Ok(()),
        }
    }
}

/// What a request ended with that should have ended otherwise.
fn error_of(end: End) -> EngineError {
    match end {
        End::PoolFull { needed, free } => EngineError::PoolFull { needed, free },
        End::DeviceLost => EngineError::DeviceLost,
        End::Stop(_) | End::Limit | End::ContextFull => EngineError::NoRequest,
    }
}

/// A reply that is being made. When it is dropped it ends; what there is of it stays in the session.
#[derive(Debug)]
pub struct Reply<'a> {
    session: &'a mut Session,
    cached: u32,
    stop: Option<Stop>,
}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        if self.stop.is_none() {
            self.session.engine.schedule().cancel(self.session.id);
        }
    }
}

impl Reply<'_> {
    /// The next token, after the prompt has been computed; `None` when the reply is at its end.
    ///
    /// # Errors
    /// [`EngineError`]; the session then has the tokens that were given.
    pub async fn next(&mut self) -> Result<Option<u32>, EngineError> {
        loop {
            match self.step().await? {
                Progress::Computed => {}
                Progress::Token(token) => return Ok(Some(token)),
                Progress::Ended(_) => return Ok(None),
            }
        }
    }

    /// Drives the device no more than a step further: for callers who want to do something in between, as to look whether
    /// they should stop.
    ///
    /// # Errors
    /// Those of [`Reply::next`].
    pub async fn step(&mut self) -> Result<Progress, EngineError> {
        if let Some(stop) = self.stop {
            return Ok(Progress::Ended(stop));
        }
        match self.session.engine.step(self.session.id).await? {
            Some(News::Token(token)) => Ok(Progress::Token(token)),
            Some(News::Failed(error)) => Err(error),
            Some(News::Ended(end)) => {
                let stop = match end {
                    End::Stop(token) => Stop::Token(token),
                    End::Limit => Stop::Limit,
                    End::ContextFull => Stop::ContextFull,
                    End::PoolFull { .. } | End::DeviceLost => return Err(error_of(end)),
                };
                self.stop = Some(stop);
                Ok(Progress::Ended(stop))
            }
            Some(News::Admitted { cached }) => {
                self.cached = cached;
                Ok(Progress::Computed)
            }
            Some(News::Logits { .. }) | None => Ok(Progress::Computed),
        }
    }

    /// Why it ended; `None` before.
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }

    /// Tokens of the prompt that were found in the KV cache and not computed: known from the first token on.
    pub fn cached(&self) -> u32 {
        self.cached
    }
}
