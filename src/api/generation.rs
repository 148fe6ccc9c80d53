//! The computation of a request: its choices as streams of events.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;

use super::{
    ApiError,
    output::{OutputParser, Part},
    tools::Call,
};
use crate::{
    engine::{FinishReason, LookupStats, Reply, TokenLogprobs},
    text::{Decoder, StopStrings, Tokenizer},
};

/// What is told of the computation of requests, for statistics.
pub trait Observer: Send + Sync {
    /// The prompt was computed, and the first token sampled, so long after the request's start.
    fn first_token(&self, prompt: u32, cached: u32, after: Duration);
    /// Another token was sampled, so long after the one before.
    fn token(&self, after: Duration);
    /// A choice failed.
    fn failed(&self, error: &crate::EngineError);
    /// The embeddings of so many tokens were computed.
    fn embedded(&self, tokens: u32) {
        let _ = tokens;
    }
}

#[cfg(not(target_arch = "wasm32"))]
use std::time::Instant;
#[cfg(target_arch = "wasm32")]
use web_time::Instant;

/// A moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(Instant);

impl Moment {
    pub(super) fn now() -> Self {
        Self(Instant::now())
    }

    pub(super) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }
}

/// Something that happened to a choice.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) choice: u32,
    pub(super) kind: EventKind,
    /// The tokens since the event before, if log-probabilities are wanted.
    pub(super) logprobs: Vec<TokenInfo>,
}

#[derive(Clone, Debug)]
pub(super) enum EventKind {
    Text(String),
    Reasoning(String),
    /// A call, with its number in the choice.
    Call(u32, Call),
    /// A call of this tool begins, with its number in the choice; its arguments follow in parts.
    CallStart(u32, String),
    /// More of the arguments of the call with this number.
    Arguments(u32, String),
    Finished(Finish),
}

/// Why a choice is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// The model ended its turn.
    EndOfTurn,
    /// This stop string was found.
    StopString(String),
    /// The most tokens, or the end of the context.
    Length,
    ToolCalls,
}

/// A token with its log-probabilities.
#[derive(Clone, Debug)]
pub(super) struct TokenInfo {
    pub(super) token: u32,
    pub(super) logprobs: TokenLogprobs,
}

/// Numbers of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub(super) prompt: u32,
    pub(super) cached: u32,
    pub(super) completion: u32,
    pub(super) reasoning: u32,
    /// Draft tokens that were computed, and those of them that were accepted.
    pub(super) drafts: [u64; 2],
    /// From the start to the first token.
    pub(super) prompt_time: Duration,
    /// From the first token to the last.
    pub(super) completion_time: Duration,
}

/// The choices of a request, computed together.
pub(super) struct Generation {
    tokenizer: Arc<Tokenizer>,
    observer: Option<Arc<dyn Observer>>,
    choices: Vec<Choice>,
    started: Moment,
    first: Option<Moment>,
    last: Moment,
    pub(super) usage: Usage,
    /// The choice that is polled first, so that all go on.
    next: usize,
    /// A token was taken since it was last pending.
    took_token: bool,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("choices", &self.choices.len()).field("usage", &self.usage).finish()
    }
}

/// A reply in progress, with the state of its text.
struct Choice {
    reply: Option<Reply>,
    decoder: Decoder,
    stops: StopStrings,
    parser: OutputParser,
    events: VecDeque<Event>,
    logprobs: Vec<TokenInfo>,
    calls: u32,
    last: Moment,
    cached: u32,
    tokens: u32,
    /// The draft tokens of a reply that ended.
    drafts: LookupStats,
}

impl Generation {
    /// Returns the generation of replies to a prompt of `prompt` tokens; each reply is a choice.
    pub(super) fn new(
        tokenizer: Arc<Tokenizer>,
        observer: Option<Arc<dyn Observer>>,
        replies: Vec<Reply>,
        prompt: u32,
        stops: &[String],
        parser: &OutputParser,
    ) -> Self {
        let now = Moment::now();
        let choice = |reply| Choice {
            reply: Some(reply),
            decoder: Decoder::default(),
            stops: StopStrings::new(stops),
            parser: parser.clone(),
            events: VecDeque::new(),
            logprobs: Vec::new(),
            calls: 0,
            last: now,
            cached: 0,
            tokens: 0,
            drafts: LookupStats::default(),
        };
        Self {
            tokenizer,
            observer,
            choices: replies.into_iter().map(choice).collect(),
            started: now,
            first: None,
            last: now,
            usage: Usage { prompt, ..Usage::default() },
            next: 0,
            took_token: false,
        }
    }

    /// Returns the number of choices.
    pub(super) fn choices(&self) -> u32 {
        self.choices.len() as u32
    }

    /// Counts a token of a choice.
    fn count(&mut self, index: usize) {
        let now = Moment::now();
        let choice = &mut self.choices[index];
        choice.tokens += 1;
        self.usage.completion += 1;
        self.usage.reasoning += u32::from(choice.parser.is_reasoning());
        if choice.tokens == 1 {
            if self.first.is_none() {
                self.first = Some(now);
                self.usage.prompt_time = now.since(self.started);
            }
            if let Some(observer) = &self.observer {
                observer.first_token(self.usage.prompt, choice.cached, now.since(self.started));
            }
        } else if let Some(observer) = &self.observer {
            observer.token(now.since(choice.last));
        }
        choice.last = now;
        self.last = now;
        self.usage.completion_time = now.since(self.first.unwrap_or(now));
    }

    /// Counts the draft tokens of the choices that ended.
    fn count_drafts(&mut self) {
        let count = |of: fn(&LookupStats) -> u64| self.choices.iter().map(|choice| of(&choice.drafts)).sum();
        self.usage.drafts = [count(|drafts| drafts.drafted), count(|drafts| drafts.accepted)];
    }
}

impl Choice {
    /// Adds events for parts of the reply.
    fn add(&mut self, index: u32, parts: Vec<Part>) {
        for part in parts {
            let kind = match part {
                Part::Text(text) => EventKind::Text(text),
                Part::Reasoning(text) => EventKind::Reasoning(text),
                Part::Call(call) => {
                    self.calls += 1;
                    EventKind::Call(self.calls - 1, call)
                }
                Part::CallStart(name) => {
                    self.calls += 1;
                    EventKind::CallStart(self.calls - 1, name)
                }
                Part::Arguments(text) => EventKind::Arguments(self.calls.saturating_sub(1), text),
            };
            self.events.push_back(Event { choice: index, kind, logprobs: std::mem::take(&mut self.logprobs) });
        }
    }

    /// Ends the choice. `stopped` says that a stop string was found.
    fn end(&mut self, index: u32, reason: Option<FinishReason>, stopped: bool) {
        // Dropping the reply cancels it, and frees its blocks.
        self.drafts = self.reply.take().map(|reply| reply.lookup()).unwrap_or_default();
        if !stopped {
            let rest = self.decoder.finish().unwrap_or_default();
            let (text, found) = self.stops.push(&rest);
            let parts = self.parser.push(&text);
            self.add(index, parts);
            if !found {
                let text = self.stops.finish();
                let parts = self.parser.push(&text);
                self.add(index, parts);
            }
        }
        let is_broken_off = self.parser.is_in_arguments();
        let parts = self.parser.finish();
        self.add(index, parts);
        let finish = match (reason, self.stops.found()) {
            _ if self.calls > 0 && !is_broken_off => Finish::ToolCalls,
            (_, Some(stop)) => Finish::StopString(stop.to_owned()),
            (Some(FinishReason::StopToken(_)), _) => Finish::EndOfTurn,
            _ => Finish::Length,
        };
        let logprobs = std::mem::take(&mut self.logprobs);
        self.events.push_back(Event { choice: index, kind: EventKind::Finished(finish), logprobs });
    }
}

impl Stream for Generation {
    type Item = Result<Event, ApiError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let count = this.choices.len();
        loop {
            // It is pending after each token, also where the device always has the next one: the caller sends what it has, and
            // notices a client that left.
            if this.choices.iter().all(|choice| choice.events.is_empty()) && std::mem::take(&mut this.took_token) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let (mut pending, mut worked) = (false, false);
            for offset in 0..count {
                let index = (this.next + offset) % count;
                let choice = &mut this.choices[index];
                if let Some(event) = choice.events.pop_front() {
                    this.next = (index + 1) % count;
                    return Poll::Ready(Some(Ok(event)));
                }
                let Some(reply) = &mut choice.reply else { continue };
                match Pin::new(&mut *reply).poll_next(context) {
                    Poll::Pending => pending = true,
                    Poll::Ready(Some(Ok(token))) => {
                        choice.cached = reply.cached();
                        this.usage.cached = this.usage.cached.max(reply.cached().min(this.usage.prompt));
                        choice.logprobs.extend(reply.take_logprobs().map(|logprobs| TokenInfo { token, logprobs }));
                        this.count(index);
                        (worked, this.took_token) = (true, true);
                        if let Err(error) = this.choices[index].push(index as u32, &this.tokenizer, token) {
                            this.choices.iter_mut().for_each(|choice| choice.reply = None);
                            return Poll::Ready(Some(Err(error)));
                        }
                        this.count_drafts();
                    }
                    Poll::Ready(Some(Err(error))) => {
                        if let Some(observer) = &this.observer {
                            observer.failed(&error);
                        }
                        // The others end with it.
                        this.choices.iter_mut().for_each(|choice| {
                            choice.reply = None;
                            choice.events.clear();
                        });
                        return Poll::Ready(Some(Err(error.into())));
                    }
                    Poll::Ready(None) => {
                        let reason = reply.finish_reason();
                        choice.end(index as u32, reason, false);
                        this.count_drafts();
                        worked = true;
                    }
                }
            }
            if !worked {
                return if pending { Poll::Pending } else { Poll::Ready(None) };
            }
        }
    }
}

impl Choice {
    /// Adds a token.
    fn push(&mut self, index: u32, tokenizer: &Tokenizer, token: u32) -> Result<(), ApiError> {
        let decoded = self.decoder.push(tokenizer, token).map_err(|_| ApiError::new(500, "internal error"))?;
        let hidden = tokenizer.hidden_name(token);
        let (text, stopped) = match hidden {
            Some(name) => self.stops.push_control(name),
            None => self.stops.push(&decoded.unwrap_or_default()),
        };
        let mut parts = self.parser.push(&text);
        if let Some(name) = hidden.filter(|_| !stopped) {
            parts.extend(self.parser.push_control(name));
        }
        self.add(index, parts);
        if stopped {
            self.end(index, None, true);
        }
        Ok(())
    }
}
