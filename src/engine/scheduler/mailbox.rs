//! Events of a request on their way to its session.

use std::collections::VecDeque;

use super::FinishReason;
use crate::engine::{EngineError, TokenLogprobs};

/// Something that happened to a request.
#[derive(Clone, Debug)]
pub(crate) enum SessionEvent {
    /// It runs.
    Admitted {
        /// Tokens whose blocks were found in the cache and need not be computed.
        cached: u32,
    },
    /// The log-probabilities of the token in the next event.
    Logprobs(Box<TokenLogprobs>),
    /// A token was sampled.
    Token(u32),
    /// The logits, or the hidden state, of a row.
    Row {
        values: Vec<f32>,
        /// It is the last of the request.
        last: bool,
    },
    /// The reply is complete.
    Finished(FinishReason),
    /// An error ended it.
    Failed(EngineError),
}

impl SessionEvent {
    /// Returns whether it is the last event of its request.
    pub(crate) fn is_last(&self) -> bool {
        matches!(self, Self::Finished(_) | Self::Failed(_) | Self::Row { last: true, .. })
    }
}

/// The events of a sequence's request, from its submission until the session has taken the last.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    events: VecDeque<SessionEvent>,
    /// The number of the request.
    request: Option<u64>,
    /// The last event was sent.
    complete: bool,
}

impl Mailbox {
    /// Returns an empty mailbox for a request.
    pub(super) fn new(request: u64) -> Self {
        Self { request: Some(request), ..Self::default() }
    }

    /// Returns whether the session has not taken the last event yet.
    pub(super) fn is_open(&self) -> bool {
        self.request.is_some()
    }

    /// Returns whether more events of a request may come; of any request for `None`.
    pub(super) fn awaits(&self, request: Option<u64>) -> bool {
        self.request.is_some() && !self.complete && (request.is_none() || self.request == request)
    }

    /// Adds an event.
    pub(super) fn send(&mut self, event: SessionEvent) {
        self.complete = event.is_last();
        self.events.push_back(event);
    }

    /// Removes and returns the oldest event.
    pub(super) fn take(&mut self) -> Option<SessionEvent> {
        let event = self.events.pop_front();
        if event.as_ref().is_some_and(SessionEvent::is_last) {
            self.request = None;
        }
        event
    }
}
