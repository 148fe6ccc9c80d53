//! Replies: streams of generated tokens.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;

use super::{
    EngineError, Session, TokenLogprobs,
    scheduler::{FinishReason, LookupStats, SessionEvent},
    session::SequenceHandle,
};

/// A reply in progress: a stream of tokens.
///
/// It owns its sequence together with the [`Session`], so that it can be moved to another thread or returned from an HTTP
/// handler. Dropping it cancels it; its tokens so far stay in the sequence.
#[derive(Debug)]
pub struct Reply {
    sequence: Arc<SequenceHandle>,
    cached: u32,
    logprobs: Option<Box<TokenLogprobs>>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InProgress,
    Finished(FinishReason),
    Failed,
}

/// The progress of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something was computed.
    Computed,
    /// Its next token.
    Token(u32),
    /// It is complete.
    Finished(FinishReason),
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Reply {
    pub(super) fn new(sequence: Arc<SequenceHandle>) -> Self {
        Self { sequence, cached: 0, logprobs: None, state: State::InProgress }
    }

    /// Waits for the next token; the first comes when the prompt has been computed. Returns `None` when the reply is complete.
    ///
    /// # Errors
    /// [`EngineError`]; the session then has the tokens so far. After an error, [`EngineError::NoRequest`].
    pub async fn next(&mut self) -> Result<Option<u32>, EngineError> {
        loop {
            match self.progress(true).await? {
                Progress::Computed => {}
                Progress::Token(token) => return Ok(Some(token)),
                Progress::Finished(_) => return Ok(None),
            }
        }
    }

    /// Runs one step at most: for callers who want to do something between steps, such as to check whether to stop.
    ///
    /// # Errors
    /// Those of [`Reply::next`].
    pub async fn step(&mut self) -> Result<Progress, EngineError> {
        self.progress(false).await
    }

    async fn progress(&mut self, go_on: bool) -> Result<Progress, EngineError> {
        let sequence = Arc::clone(&self.sequence);
        let _waiting = sequence.engine.waiting(sequence.id);
        poll_fn(|context| self.poll_progress(context, go_on)).await
    }

    fn poll_progress(&mut self, context: &mut Context<'_>, go_on: bool) -> Poll<Result<Progress, EngineError>> {
        match self.state {
            State::InProgress => {}
            State::Finished(reason) => return Poll::Ready(Ok(Progress::Finished(reason))),
            State::Failed => return Poll::Ready(Err(EngineError::NoRequest)),
        }
        let event = ready!(self.sequence.engine.poll_event(self.sequence.id, context, go_on));
        Poll::Ready(match event {
            Ok(Some(SessionEvent::Token(token))) => Ok(Progress::Token(token)),
            Ok(Some(SessionEvent::Finished(reason))) => {
                self.state = State::Finished(reason);
                Ok(Progress::Finished(reason))
            }
            Ok(Some(SessionEvent::Failed(error))) | Err(error) => {
                self.state = State::Failed;
                Err(error)
            }
            Ok(Some(SessionEvent::Admitted { cached })) => {
                self.cached = cached;
                Ok(Progress::Computed)
            }
            Ok(Some(SessionEvent::Logprobs(logprobs))) => {
                self.logprobs = Some(logprobs);
                Ok(Progress::Computed)
            }
            Ok(Some(SessionEvent::Row { .. }) | None) => Ok(Progress::Computed),
        })
    }

    /// Cancels the reply, if it is in progress, as dropping it does. It has no more tokens then.
    pub fn cancel(&mut self) {
        if self.state == State::InProgress {
            self.state = State::Failed;
            self.sequence.engine.scheduler().cancel(self.sequence.id);
            drop(self.sequence.engine.waiting(self.sequence.id));
        }
    }

    /// Returns why it is complete; `None` before.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        match self.state {
            State::Finished(reason) => Some(reason),
            State::InProgress | State::Failed => None,
        }
    }

    /// Removes and returns the log-probabilities of the last token, if [`GenerateOptions::logprobs`] asks for them.
    ///
    /// [`GenerateOptions::logprobs`]: super::GenerateOptions::logprobs
    pub fn take_logprobs(&mut self) -> Option<TokenLogprobs> {
        self.logprobs.take().map(|logprobs| *logprobs)
    }

    /// Returns the number of prompt tokens that were found in the KV cache and not computed; known from the first token on.
    pub fn cached(&self) -> u32 {
        self.cached
    }

    /// Returns the counts of its draft tokens so far ([`EngineOptions::lookup`](super::EngineOptions::lookup)).
    pub fn lookup(&self) -> LookupStats {
        self.sequence.engine.scheduler().lookup_of(self.sequence.id)
    }

    /// Cancels the reply, if it is in progress, and returns the session of its sequence.
    pub fn into_session(mut self) -> Session {
        self.cancel();
        Session::from_sequence(Arc::clone(&self.sequence))
    }
}

/// The tokens of the reply. After an error it ends.
impl Stream for Reply {
    type Item = Result<u32, EngineError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.state != State::InProgress {
            return Poll::Ready(None);
        }
        loop {
            match ready!(self.poll_progress(context, true)) {
                Ok(Progress::Computed) => {}
                Ok(Progress::Token(token)) => return Poll::Ready(Some(Ok(token))),
                Ok(Progress::Finished(_)) => return Poll::Ready(None),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}
