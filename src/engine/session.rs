//! A sequence of an engine, and what is asked of it.

use super::{
    Engine, EngineError, Sampler, SamplingOptions,
    schedule::News,
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
    /// None: a session that can be borrowed has no request under way, but the types do not say so.
    pub fn fork(&self) -> Result<Self, EngineError> {
        let mut schedule = self.engine.schedule();
        let id = schedule.scheduler.fork(self.id)?;
        schedule.open(id);
        drop(schedule);
        Ok(Self::new(self.engine.clone(), id))
    }

    /// Forgets all tokens but the first `len`.
    pub fn truncate(&mut self, len: u32) {
        // A session that can be borrowed so has no request, which alone could be in the way.
        let _ = self.engine.schedule().scheduler.truncate(self.id, len);
    }

    /// Appends `tokens` and returns the logits `[vocab]` of the last.
    ///
    /// # Errors
    /// [`EngineError`]; the sequence is then as before, as it is when the future is dropped.
    pub async fn forward(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.append(tokens, Want::Last)?.last_logits().await
    }

    /// Appends `token` as if it had been drawn and returns its logits `[vocab]`: with the kernels and the order of sums that
    /// [`Session::generate`] has for the tokens of a reply.
    ///
    /// # Errors
    /// Those of [`Session::forward`].
    pub async fn decode(&mut self, token: u32) -> Result<Vec<f32>, EngineError> {
        self.append(&[token], Want::Next)?.last_logits().await
    }

    /// Appends `tokens` and hands the logits `[vocab]` of each to `sink`, in order.
    ///
    /// # Errors
    /// Those of [`Session::forward`], though `sink` may have seen some.
    pub async fn forward_each(&mut self, tokens: &[u32], mut sink: impl FnMut(&[f32])) -> Result<(), EngineError> {
        let mut appended = self.append(tokens, Want::Each)?;
        while !appended.done {
            let news = appended.session.next().await?;
            if let Some(logits) = appended.logits(news)? {
                sink(&logits);
            }
        }
        Ok(())
    }

    /// Appends `tokens` by programs that `run` runs in the engine's place, step by step if it likes: this is how a model's
    /// dispatches are replayed one by one. A single token that follows others is computed as a drawn one. Meanwhile other
    /// sequences wait.
    ///
    /// # Errors
    /// Those of [`Session::forward`] and of `run`; [`EngineError::NoPlace`] when requests of others are in the way.
    pub async fn forward_by<E: From<EngineError>>(
        &mut self,
        tokens: &[u32],
        mut run: impl AsyncFnMut(&Device, &Program) -> Result<(), E>,
    ) -> Result<(), E> {
        let next = tokens.len() == 1 && !self.is_empty();
        let mut appended = self.append(tokens, if next { Want::Next } else { Want::Last })?;
        while !appended.done {
            let news = appended.session.engine.next_by(appended.session.id, &mut run).await?;
            appended.logits(news)?;
        }
        Ok(())
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
        self.engine.schedule().ask(self.id, tokens, want, sampler)
    }

    fn append(&mut self, tokens: &[u32], want: Want) -> Result<Appended<'_>, EngineError> {
        let before = self.len();
        self.ask(tokens, want, None)?;
        Ok(Appended { session: self, before, done: false })
    }

    async fn next(&self) -> Result<News, EngineError> {
        loop {
            if let Some(news) = self.engine.step(self.id).await? {
                return Ok(news);
            }
        }
    }
}

/// Tokens whose logits are asked for. Unless all came, they are taken back when it is dropped: the sequence has them as soon
/// as the device computes them, before the logits are known.
struct Appended<'a> {
    session: &'a Session,
    before: u32,
    done: bool,
}

impl Drop for Appended<'_> {
    fn drop(&mut self) {
        if !self.done {
            let mut schedule = self.session.engine.schedule();
            schedule.cancel(self.session.id);
            // The request is over, which alone could be in the way.
            let _ = schedule.scheduler.truncate(self.session.id, self.before);
        }
    }
}

impl Appended<'_> {
    async fn last_logits(&mut self) -> Result<Vec<f32>, EngineError> {
        loop {
            let news = self.session.next().await?;
            if let (Some(logits), true) = (self.logits(news)?, self.done) {
                return Ok(logits);
            }
        }
    }

    /// The logits in some news.
    fn logits(&mut self, news: News) -> Result<Option<Vec<f32>>, EngineError> {
        match news {
            News::Logits { logits, last } => {
                self.done = last;
                Ok(Some(logits))
            }
            News::Failed(error) => Err(error),
            News::Ended(end) => Err(error_of(end)),
            News::Admitted { .. } | News::Token(_) => Ok(None),
        }
    }
}

/// What a request ended with that should have ended otherwise.
fn error_of(end: End) -> EngineError {
    match end {
        End::PoolFull { needed, free } => EngineError::PoolFull { needed, free },
        End::NoToken => EngineError::NotANumber,
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
                    End::PoolFull { .. } | End::NoToken | End::DeviceLost => return Err(error_of(end)),
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
