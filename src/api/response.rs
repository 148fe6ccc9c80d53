//! Responses in the forms of both APIs: whole, or as events of a stream.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use serde_json::{Map, Value, json};

use super::{
    ApiError,
    chat::object,
    generation::{Event, EventKind, Finish, Generation, TokenInfo, Usage},
};
use crate::text::Tokenizer;

/// An event of a streamed response.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamEvent {
    /// The event's name, in Anthropic's API.
    pub name: Option<&'static str>,
    /// The data: JSON, or `[DONE]`.
    pub data: String,
}

/// The endpoint that a response is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Completion,
    Messages,
}

/// A response in progress. It does not depend on a server or an executor.
///
/// Dropping it cancels the request.
#[derive(Debug)]
pub struct Response {
    pub(super) generation: Generation,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) endpoint: Endpoint,
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    /// Texts that begin the choices: the prompts, with `echo`.
    pub(super) echo: Vec<String>,
    pub(super) logprobs: bool,
    pub(super) state: StreamState,
}

/// The state of a stream.
#[derive(Debug, Default)]
pub(super) struct StreamState {
    queue: VecDeque<StreamEvent>,
    started: bool,
    ended: bool,
    /// The content block of Anthropic's API that is open: its number and kind.
    block: Option<(u32, &'static str)>,
    blocks: u32,
    /// Characters of each choice's text, for offsets of log-probabilities.
    offsets: Vec<usize>,
    finish: Option<Finish>,
}

/// What a choice has become.
#[derive(Debug, Default)]
struct Whole {
    text: String,
    reasoning: String,
    calls: Vec<Value>,
    /// Blocks of Anthropic's API.
    blocks: Vec<Value>,
    logprobs: Vec<TokenInfo>,
    finish: Option<Finish>,
}

impl Response {
    /// Returns whether the client asked for a stream.
    pub fn is_stream(&self) -> bool {
        self.stream
    }

    /// Waits for the whole response.
    ///
    /// # Errors
    /// [`ApiError`] when a choice fails.
    pub async fn whole(mut self) -> Result<Value, ApiError> {
        let mut choices: Vec<Whole> = (0..self.generation.choices()).map(|_| Whole::default()).collect();
        for (choice, echo) in choices.iter_mut().zip(&self.echo) {
            choice.text.push_str(echo);
        }
        while let Some(event) = poll_fn(|context| Pin::new(&mut self.generation).poll_next(context)).await {
            let Event { choice, kind, logprobs } = event?;
            let Some(whole) = choices.get_mut(choice as usize) else { continue };
            whole.logprobs.extend(logprobs);
            match kind {
                EventKind::Text(text) => whole.text.push_str(&text),
                EventKind::Reasoning(text) => whole.reasoning.push_str(&text),
                EventKind::Call(index, call) => {
                    let id = self.call_id(choice, index);
                    whole.blocks.push(json!({
                        "type": "tool_use", "id": id, "name": call.name, "input": parsed(&call.arguments),
                    }));
                    whole.calls.push(json!({
                        "id": id, "type": "function",
                        "function": {"name": call.name, "arguments": call.arguments},
                    }));
                }
                // Only streams have calls in parts.
                EventKind::CallStart(..) | EventKind::Arguments(..) => {}
                EventKind::Finished(finish) => whole.finish = Some(finish),
            }
        }
        let usage = self.generation.usage;
        if self.endpoint == Endpoint::Messages {
            return Ok(self.anthropic(choices.into_iter().next().unwrap_or_default(), usage));
        }
        let list: Vec<Value> =
            choices.into_iter().enumerate().map(|(index, whole)| self.choice(index, whole)).collect();
        let mut response =
            self.head(if self.endpoint == Endpoint::Chat { "chat.completion" } else { "text_completion" });
        response.insert("choices".to_owned(), json!(list));
        response.insert("usage".to_owned(), usage_of(usage));
        response.insert("timings".to_owned(), timings(usage));
        Ok(Value::Object(response))
    }

    fn choice(&self, index: usize, whole: Whole) -> Value {
        let finish = whole.finish.as_ref().map(reason);
        if self.endpoint == Endpoint::Completion {
            let logprobs = self.logprobs.then(|| self.completion_logprobs(&whole.logprobs, &mut 0));
            return json!({"index": index, "text": whole.text, "logprobs": logprobs, "finish_reason": finish});
        }
        let mut message = object([
            ("role", json!("assistant")),
            ("content", if whole.text.is_empty() && !whole.calls.is_empty() { Value::Null } else { json!(whole.text) }),
            ("refusal", Value::Null),
        ]);
        if !whole.reasoning.is_empty() {
            message.insert("reasoning_content".to_owned(), json!(whole.reasoning));
        }
        if !whole.calls.is_empty() {
            message.insert("tool_calls".to_owned(), json!(whole.calls));
        }
        let logprobs = self.logprobs.then(|| self.chat_logprobs(&whole.logprobs));
        json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish})
    }

    fn anthropic(&self, whole: Whole, usage: Usage) -> Value {
        let mut content = Vec::new();
        if !whole.reasoning.is_empty() {
            content.push(json!({"type": "thinking", "thinking": whole.reasoning, "signature": ""}));
        }
        if !whole.text.is_empty() {
            content.push(json!({"type": "text", "text": whole.text}));
        }
        content.extend(whole.blocks);
        let finish = whole.finish.as_ref().map(stop_reason);
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": finish, "stop_sequence": stop_sequence(whole.finish.as_ref()),
            "usage": anthropic_usage(usage),
        })
    }

    fn call_id(&self, choice: u32, index: u32) -> String {
        let id = self.id.rsplit(['-', '_']).next().unwrap_or_default();
        match self.endpoint {
            Endpoint::Messages => format!("toolu_{id}{index}"),
            _ => format!("call_{id}{choice}{index}"),
        }
    }

    fn head(&self, kind: &str) -> Map<String, Value> {
        object([
            ("id", json!(self.id)),
            ("object", json!(kind)),
            ("created", json!(self.created)),
            ("model", json!(self.model)),
            ("system_fingerprint", json!(concat!("ferrum-wgpu-", env!("CARGO_PKG_VERSION")))),
        ])
    }

    fn token(&self, id: u32) -> (String, Vec<u8>) {
        let bytes = self.tokenizer.token_bytes(id).unwrap_or_default().into_owned();
        (String::from_utf8_lossy(&bytes).into_owned(), bytes)
    }

    fn chat_logprobs(&self, tokens: &[TokenInfo]) -> Value {
        let one = |id: u32, logprob: f32| {
            let (token, bytes) = self.token(id);
            object([("token", json!(token)), ("logprob", number(logprob)), ("bytes", json!(bytes))])
        };
        let content: Vec<Value> = tokens
            .iter()
            .map(|TokenInfo { token, logprobs }| {
                let mut entry = one(*token, logprobs.logprob);
                let top: Vec<_> = logprobs.top.iter().map(|(id, logprob)| one(*id, *logprob)).collect();
                entry.insert("top_logprobs".to_owned(), json!(top));
                Value::Object(entry)
            })
            .collect();
        json!({"content": content, "refusal": null})
    }

    fn completion_logprobs(&self, tokens: &[TokenInfo], offset: &mut usize) -> Value {
        let (mut texts, mut values, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for TokenInfo { token, logprobs } in tokens {
            let text = self.token(*token).0;
            offsets.push(*offset);
            *offset += text.chars().count();
            texts.push(text);
            values.push(number(logprobs.logprob));
            let top = logprobs.top.iter().map(|(id, logprob)| (self.token(*id).0, number(*logprob)));
            tops.push(Value::Object(top.collect()));
        }
        json!({"tokens": texts, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets})
    }

    /// Adds an event of OpenAI's API with one choice, or none.
    fn chunk(&mut self, choices: Value, last: bool) {
        let kind = if self.endpoint == Endpoint::Chat { "chat.completion.chunk" } else { "text_completion" };
        let mut chunk = self.head(kind);
        chunk.insert("choices".to_owned(), choices);
        if self.include_usage {
            let usage = if last { usage_of(self.generation.usage) } else { Value::Null };
            chunk.insert("usage".to_owned(), usage);
        }
        if last {
            chunk.insert("timings".to_owned(), timings(self.generation.usage));
        }
        self.state.queue.push_back(StreamEvent { name: None, data: Value::Object(chunk).to_string() });
    }

    fn named(&mut self, name: &'static str, mut data: Map<String, Value>) {
        data.insert("type".to_owned(), json!(name));
        self.state.queue.push_back(StreamEvent { name: Some(name), data: Value::Object(data).to_string() });
    }

    /// Adds the events that begin a stream.
    fn start(&mut self) {
        self.state.started = true;
        self.state.offsets = vec![0; self.generation.choices() as usize];
        match self.endpoint {
            Endpoint::Chat => {
                for index in 0..self.generation.choices() {
                    let delta = json!({"role": "assistant", "content": ""});
                    let choice = json!([{"index": index, "delta": delta, "logprobs": null, "finish_reason": null}]);
                    self.chunk(choice, false);
                }
            }
            Endpoint::Completion => {
                for (index, echo) in std::mem::take(&mut self.echo).into_iter().enumerate() {
                    self.chunk(json!([{"index": index, "text": echo, "logprobs": null, "finish_reason": null}]), false);
                }
            }
            Endpoint::Messages => {
                let message = json!({
                    "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": [],
                    "stop_reason": null, "stop_sequence": null, "usage": anthropic_usage(self.generation.usage),
                });
                self.named("message_start", object([("message", message)]));
            }
        }
    }

    /// Adds the events for an event of the generation.
    fn add(&mut self, event: Event) {
        let Event { choice, kind, logprobs } = event;
        let event = match kind {
            EventKind::Call(index, call) => {
                // The call, and then its arguments, as clients expect them.
                self.add(Event { choice, kind: EventKind::CallStart(index, call.name), logprobs: Vec::new() });
                Event { choice, kind: EventKind::Arguments(index, call.arguments), logprobs }
            }
            kind => Event { choice, kind, logprobs },
        };
        match self.endpoint {
            Endpoint::Chat => {
                let Event { choice, kind, logprobs } = event;
                let mut finish = Value::Null;
                let delta = match kind {
                    EventKind::Text(text) => json!({"content": text}),
                    EventKind::Reasoning(text) => json!({"reasoning_content": text}),
                    EventKind::Call(..) => return,
                    EventKind::CallStart(index, name) => {
                        let id = self.call_id(choice, index);
                        let function = json!({"name": name, "arguments": ""});
                        json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
                    }
                    EventKind::Arguments(index, text) => {
                        json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
                    }
                    EventKind::Finished(reached) => {
                        finish = json!(reason(&reached));
                        json!({})
                    }
                };
                let logprobs = (self.logprobs && !logprobs.is_empty()).then(|| self.chat_logprobs(&logprobs));
                let choices = json!([{"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]);
                self.chunk(choices, false);
            }
            Endpoint::Completion => {
                let Event { choice, kind, logprobs } = event;
                let (text, finish) = match kind {
                    EventKind::Text(text) | EventKind::Reasoning(text) => (text, Value::Null),
                    EventKind::Call(..) | EventKind::CallStart(..) | EventKind::Arguments(..) => return,
                    EventKind::Finished(reached) => (String::new(), json!(reason(&reached))),
                };
                let mut offset = self.state.offsets.get(choice as usize).copied().unwrap_or_default();
                let logprobs =
                    (self.logprobs && !logprobs.is_empty()).then(|| self.completion_logprobs(&logprobs, &mut offset));
                if let Some(kept) = self.state.offsets.get_mut(choice as usize) {
                    *kept = offset;
                }
                let choices = json!([{"index": choice, "text": text, "logprobs": logprobs, "finish_reason": finish}]);
                self.chunk(choices, false);
            }
            Endpoint::Messages => self.add_block(event.kind),
        }
    }

    fn add_block(&mut self, kind: EventKind) {
        match kind {
            EventKind::Text(text) => {
                let index = self.open_block("text", || json!({"type": "text", "text": ""}));
                let delta = json!({"type": "text_delta", "text": text});
                self.named("content_block_delta", object([("index", json!(index)), ("delta", delta)]));
            }
            EventKind::Reasoning(text) => {
                let index =
                    self.open_block("thinking", || json!({"type": "thinking", "thinking": "", "signature": ""}));
                let delta = json!({"type": "thinking_delta", "thinking": text});
                self.named("content_block_delta", object([("index", json!(index)), ("delta", delta)]));
            }
            EventKind::Call(..) => {}
            EventKind::CallStart(number, name) => {
                self.close_block();
                let id = self.call_id(0, number);
                self.open_block("tool_use", || json!({"type": "tool_use", "id": id, "name": name, "input": {}}));
            }
            EventKind::Arguments(_, text) => {
                let Some((index, "tool_use")) = self.state.block else { return };
                let delta = json!({"type": "input_json_delta", "partial_json": text});
                self.named("content_block_delta", object([("index", json!(index)), ("delta", delta)]));
            }
            EventKind::Finished(finish) => self.state.finish = Some(finish),
        }
    }

    fn open_block(&mut self, kind: &'static str, block: impl FnOnce() -> Value) -> u32 {
        match self.state.block {
            Some((index, open)) if open == kind => return index,
            _ => self.close_block(),
        }
        let index = self.state.blocks;
        self.state.blocks += 1;
        self.state.block = Some((index, kind));
        self.named("content_block_start", object([("index", json!(index)), ("content_block", block())]));
        index
    }

    fn close_block(&mut self) {
        if let Some((index, _)) = self.state.block.take() {
            self.named("content_block_stop", object([("index", json!(index))]));
        }
    }

    /// Adds the events that end a stream.
    fn end(&mut self) {
        self.state.ended = true;
        match self.endpoint {
            Endpoint::Chat | Endpoint::Completion => {
                if self.include_usage {
                    self.chunk(json!([]), true);
                } else if let Some(last) = self.state.queue.back_mut() {
                    // Without a chunk of usage, the last one has the timings.
                    if let Ok(Value::Object(mut chunk)) = serde_json::from_str(&last.data) {
                        chunk.insert("timings".to_owned(), timings(self.generation.usage));
                        last.data = Value::Object(chunk).to_string();
                    }
                }
                self.state.queue.push_back(StreamEvent { name: None, data: "[DONE]".to_owned() });
            }
            Endpoint::Messages => {
                self.close_block();
                let finish = self.state.finish.as_ref().map(stop_reason);
                let stop = stop_sequence(self.state.finish.as_ref());
                let delta = json!({"stop_reason": finish, "stop_sequence": stop});
                let usage = anthropic_usage(self.generation.usage);
                self.named("message_delta", object([("delta", delta), ("usage", usage)]));
                self.named("message_stop", Map::new());
            }
        }
    }

    /// Returns the event that ends a stream with an error.
    pub(crate) fn error(&self, error: &ApiError) -> StreamEvent {
        match self.endpoint {
            Endpoint::Messages => StreamEvent { name: Some("error"), data: error.anthropic().to_string() },
            _ => StreamEvent { name: None, data: error.openai().to_string() },
        }
    }
}

/// The events of a streamed response. An error is an event, and ends it.
impl Stream for Response {
    type Item = StreamEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<StreamEvent>> {
        let this = self.get_mut();
        if !this.state.started {
            this.start();
        }
        loop {
            // The last event waits for what comes behind it, which may be the end.
            let keep = usize::from(!this.state.ended && this.ends_with_finish());
            if this.state.queue.len() > keep {
                return Poll::Ready(this.state.queue.pop_front());
            }
            if this.state.ended {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut this.generation).poll_next(context)) {
                Some(Ok(event)) => this.add(event),
                Some(Err(error)) => {
                    let event = this.error(&error);
                    this.state.queue.push_back(event);
                    this.state.ended = true;
                }
                None => this.end(),
            }
        }
    }
}

impl Response {
    /// Returns whether the last event in the queue may be the last chunk, which gets the timings.
    fn ends_with_finish(&self) -> bool {
        self.endpoint != Endpoint::Messages
            && !self.include_usage
            && self.state.queue.back().is_some_and(|event| !event.data.contains("\"finish_reason\":null"))
    }
}

fn parsed(arguments: &str) -> Value {
    serde_json::from_str(arguments).unwrap_or_else(|_| json!({}))
}

/// Returns a log-probability that JSON can express.
fn number(logprob: f32) -> Value {
    json!(f64::from(logprob.max(-9999.0)))
}

fn reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::EndOfTurn | Finish::StopString(_) => "stop",
        Finish::Length => "length",
        Finish::ToolCalls => "tool_calls",
    }
}

fn stop_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::EndOfTurn => "end_turn",
        Finish::StopString(_) => "stop_sequence",
        Finish::Length => "max_tokens",
        Finish::ToolCalls => "tool_use",
    }
}

/// Returns the stop string that ended a reply.
fn stop_sequence(finish: Option<&Finish>) -> Option<&str> {
    match finish {
        Some(Finish::StopString(stop)) => Some(stop),
        _ => None,
    }
}

fn usage_of(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    })
}

fn anthropic_usage(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt - usage.cached,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion,
    })
}

/// Returns the times of a request in llama.cpp's form.
fn timings(usage: Usage) -> Value {
    let computed = usage.prompt - usage.cached;
    let rate = |tokens: u32, seconds: f64| if seconds > 0.0 { f64::from(tokens) / seconds } else { 0.0 };
    let [prompt, completion] = [usage.prompt_time, usage.completion_time].map(|time| time.as_secs_f64());
    let mut timings = json!({
        "cache_n": usage.cached,
        "prompt_n": computed,
        "prompt_ms": prompt * 1e3,
        "prompt_per_second": rate(computed, prompt),
        "predicted_n": usage.completion,
        "predicted_ms": completion * 1e3,
        "predicted_per_second": rate(usage.completion.saturating_sub(1), completion),
    });
    let [drafted, accepted] = usage.drafts;
    if let Some(timings) = timings.as_object_mut().filter(|_| drafted > 0) {
        timings.insert("draft_n".to_owned(), drafted.into());
        timings.insert("draft_n_accepted".to_owned(), accepted.into());
    }
    timings
}
