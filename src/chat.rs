//! The front door: conversations with a model in a few lines.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use futures_core::Stream;

use crate::{
    Error,
    engine::{
        Constraint, Engine, EngineError, EngineOptions, FinishReason, GenerateOptions, Progress, Reply,
        SamplingOptions, Session,
    },
    gguf::Gguf,
    gpu::{Adapter, Device, lock},
    kernels::KvType,
    model::Model,
    text::{ChatTemplate, Decoder, Message, RenderOptions, Role, StopStrings, TextError, Tokenizer},
};

/// A conversation with a model.
///
/// ```no_run
/// # async fn example() -> Result<(), ferrum_wgpu::Error> {
/// use ferrum_wgpu::Chat;
///
/// let mut chat = Chat::open("model.gguf").await?;
/// let mut reply = chat.say("What is the capital of France?");
/// while let Some(text) = reply.next().await? {
///     print!("{text}");
/// }
/// # Ok(())
/// # }
/// ```
///
/// It consists of an [`Engine`], one [`Session`], the file's [`Tokenizer`] and its [`ChatTemplate`]. Applications with
/// several conversations over one model use these directly.
pub struct Chat {
    session: Session,
    tokenizer: Arc<Tokenizer>,
    /// `None`: the texts of the messages are the prompt.
    template: Option<ChatTemplate>,
    render: RenderOptions,
    generate: GenerateOptions,
    stop: StopStrings,
    constraint: Option<MakeConstraint>,
    messages: Messages,
}

/// Makes the constraint of a reply.
pub type MakeConstraint = Box<dyn Fn() -> Result<Box<dyn Constraint>, EngineError> + Send + Sync>;

/// The messages of a conversation, shared with the reply in progress.
type Messages = Arc<Mutex<Vec<Message>>>;

/// The options of a [`Chat`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ChatBuilder {
    device: Option<Device>,
    memory_budget: Option<u64>,
    engine: EngineOptions,
    sampling: Option<SamplingOptions>,
    max_tokens: Option<u32>,
    stop: Vec<String>,
    system: Option<String>,
    render: RenderOptions,
}

impl ChatBuilder {
    /// Sets the device (default: the first GPU adapter).
    pub fn device(mut self, device: Device) -> Self {
        self.device = Some(device);
        self
    }

    /// Sets the device memory budget in bytes (default: [`Adapter::memory_budget`]). Experts that do not fit are loaded
    /// from the file on demand.
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.memory_budget = Some(bytes);
        self
    }

    /// Sets the engine's options.
    pub fn engine(mut self, options: EngineOptions) -> Self {
        self.engine = options;
        self
    }

    /// Sets the sampling options (default: the file's recommendation, with seed 0).
    pub fn sampling(mut self, options: SamplingOptions) -> Self {
        self.sampling = Some(options);
        self
    }

    /// Sets the maximum number of tokens per reply (default: no limit but the context).
    pub fn max_tokens(mut self, tokens: u32) -> Self {
        self.max_tokens = Some(tokens);
        self
    }

    /// Sets the stop strings: a reply ends before any of them.
    pub fn stop(mut self, strings: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.stop = strings.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the system message.
    pub fn system(mut self, text: impl Into<String>) -> Self {
        self.system = Some(text.into());
        self
    }

    /// Sets the options of the chat template.
    pub fn render(mut self, options: RenderOptions) -> Self {
        self.render = options;
        self
    }

    /// Opens a model file, loads what fits on the device, and starts an engine.
    ///
    /// # Errors
    /// [`Error`] if the file cannot be read or is not supported, if there is no device, or if the model does not fit.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn open(self, path: impl AsRef<std::path::Path>) -> Result<Chat, Error> {
        self.load(&Gguf::open(path)?).await
    }

    /// Loads what fits of a model on the device, and starts an engine.
    ///
    /// # Errors
    /// [`Error`] if the model is not supported, if there is no device, or if the model does not fit.
    pub async fn load(mut self, gguf: &Gguf) -> Result<Chat, Error> {
        let device = match self.device.take() {
            Some(device) => device,
            None => {
                let adapter = Adapter::find(None).await?;
                self.memory_budget = self.memory_budget.or_else(|| adapter.memory_budget());
                Device::new(&adapter).await?
            }
        };
        let slots = match self.memory_budget {
            None => None,
            Some(budget) => {
                let kv_type = if device.caps().pack_f16 { KvType::F16 } else { KvType::F32 };
                Engine::plan_within(gguf, &self.engine, kv_type, budget)?.memory.slots()
            }
        };
        let model = match slots {
            None => Model::load(&device, gguf, |_, _| ()).await?,
            Some(slots) => Model::load_offloaded(&device, gguf, slots, |_, _| ()).await?,
        };
        let engine = Engine::new(&model, &self.engine).await?;
        self.start(&engine, gguf)
    }

    /// Starts a conversation on an existing engine of the model in `gguf`. The device, memory and engine options are not
    /// used.
    ///
    /// # Errors
    /// [`Error`] if the file's tokenizer, chat template or sampling options are invalid.
    pub fn start(mut self, engine: &Engine, gguf: &Gguf) -> Result<Chat, Error> {
        let tokenizer = Tokenizer::from_gguf(gguf)?;
        let template = match ChatTemplate::from_metadata(gguf.metadata()) {
            Err(TextError::NoTemplate) => ChatTemplate::chatml(),
            template => template?,
        };
        if self.sampling.is_none() {
            self.sampling = Some(SamplingOptions::from_metadata(gguf.metadata())?);
        }
        Ok(self.assemble(engine, tokenizer, Some(template)))
    }

    /// Starts a conversation on an existing engine, with the caller's tokenizer and chat template. Without a template the
    /// prompt is the text of all messages, and control tokens are parsed in it. The device, memory and engine options are
    /// not used. The default of the sampling options is [`SamplingOptions::default`].
    pub fn assemble(
        self,
        engine: &Engine,
        tokenizer: impl Into<Arc<Tokenizer>>,
        template: Option<ChatTemplate>,
    ) -> Chat {
        let tokenizer = tokenizer.into();
        let stop = tokenizer.stop_ids().to_vec();
        Chat {
            session: engine.session(),
            tokenizer,
            template,
            render: self.render,
            generate: GenerateOptions {
                sampling: self.sampling.unwrap_or_default(),
                max_tokens: self.max_tokens,
                stop,
                logprobs: None,
            },
            stop: StopStrings::new(self.stop),
            constraint: None,
            messages: Arc::new(Mutex::new(self.system.into_iter().map(Message::system).collect())),
        }
    }
}

impl Chat {
    /// Opens a model file with default options: on the first GPU adapter, with what fits in its memory.
    ///
    /// # Errors
    /// The errors of [`ChatBuilder::open`].
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn open(path: impl AsRef<std::path::Path>) -> Result<Self, Error> {
        Self::builder().open(path).await
    }

    /// Returns a builder with default options.
    pub fn builder() -> ChatBuilder {
        ChatBuilder::default()
    }

    /// Adds a user message and starts the reply to it.
    ///
    /// The reply is a stream of text. It does not borrow the chat, so it can be moved to another task. When it ends or is
    /// dropped, its text so far becomes part of the conversation; if it has no text, the user message is removed too.
    ///
    /// Errors are returned by the stream: the errors of [`ChatTemplate::render`] and [`Session::generate`], among them
    /// [`EngineError::Busy`](crate::EngineError::Busy) while another reply is in progress.
    pub fn say(&mut self, text: impl Into<String>) -> ChatReply {
        let mut messages = lock(&self.messages).clone();
        messages.push(Message::user(text));
        let mut prompt = PromptTokens::default();
        let (state, messages) = match self.reply(&messages, &mut prompt) {
            Ok(reply) => {
                *lock(&self.messages) = messages;
                (State::Generating(reply), Some(Arc::clone(&self.messages)))
            }
            Err(error) => (State::Failed(error), None),
        };
        ChatReply {
            state,
            prompt,
            tokens: 0,
            tokenizer: Arc::clone(&self.tokenizer),
            decoder: Decoder::default(),
            stop: self.stop.clone(),
            text: String::new(),
            messages,
        }
    }

    /// Starts the model's reply to `messages`. Keeps the KV cache of the common prefix.
    fn reply(&mut self, messages: &[Message], counts: &mut PromptTokens) -> Result<Reply, Error> {
        let prompt = match &self.template {
            Some(template) => template.encode(&self.tokenizer, messages, &self.render)?,
            None => {
                let text: String = messages.iter().map(|message| message.content.as_str()).collect();
                self.tokenizer.encode_prompt(&text)?
            }
        };
        let tokens = self.session.tokens();
        let common = tokens.iter().zip(&prompt).take_while(|(a, b)| a == b).count();
        // At least one token must be computed.
        let cached = common.min(prompt.len().saturating_sub(1));
        self.session.truncate(cached as u32)?;
        *counts = PromptTokens { all: prompt.len() as u32, kept: cached as u32 };
        let new = prompt.get(cached..).unwrap_or_default();
        Ok(match &self.constraint {
            None => self.session.generate(new, &self.generate)?,
            Some(make) => self.session.generate_constrained(new, &self.generate, make()?)?,
        })
    }

    /// Sets what makes the constraint of each reply, such as a compiled grammar; `None` for none.
    pub fn set_constraint(&mut self, make: Option<MakeConstraint>) {
        self.constraint = make;
    }

    /// Returns the messages so far.
    pub fn messages(&self) -> Vec<Message> {
        lock(&self.messages).clone()
    }

    /// Replaces the messages, for example to restore a saved conversation.
    pub fn set_messages(&mut self, messages: Vec<Message>) {
        *lock(&self.messages) = messages;
    }

    /// Removes all messages but the system message.
    pub fn clear(&mut self) {
        lock(&self.messages).retain(|message| message.role == Role::System);
    }

    /// Returns the engine.
    pub fn engine(&self) -> &Engine {
        self.session.engine()
    }

    /// Returns the tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Returns the options of replies, which can be changed between them.
    pub fn generate_options(&mut self) -> &mut GenerateOptions {
        &mut self.generate
    }
}

impl fmt::Debug for Chat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chat")
            .field("session", &self.session)
            .field("messages", &lock(&self.messages).len())
            .finish_non_exhaustive()
    }
}

/// A reply in progress: a stream of text.
///
/// Dropping it cancels the reply.
#[derive(Debug)]
pub struct ChatReply {
    state: State,
    prompt: PromptTokens,
    /// Tokens generated so far.
    tokens: u32,
    tokenizer: Arc<Tokenizer>,
    decoder: Decoder,
    stop: StopStrings,
    text: String,
    /// The conversation, until the reply is added to it.
    messages: Option<Messages>,
}

/// The tokens of a prompt.
#[derive(Clone, Copy, Debug, Default)]
struct PromptTokens {
    all: u32,
    /// Those that the session has from the turn before.
    kept: u32,
}

/// The progress of a [`ChatReply`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChatProgress {
    /// Something was computed.
    Computed,
    /// The text of the next token; empty while it may belong to a character or a stop string that is not complete.
    Text(String),
    /// The reply has ended.
    Finished,
}

#[derive(Debug)]
enum State {
    Generating(Reply),
    Failed(Error),
    Ended { reason: Option<FinishReason>, cached: u32 },
}

impl ChatReply {
    /// Waits for the next piece of text. Returns `None` at the end of the reply.
    ///
    /// # Errors
    /// The errors listed at [`Chat::say`]. The reply ends with an error.
    pub async fn next(&mut self) -> Result<Option<String>, Error> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await.transpose()
    }

    /// Runs one step at most: for callers who want to do something between steps, such as to check whether to stop.
    ///
    /// # Errors
    /// The errors listed at [`Chat::say`]. The reply ends with an error.
    pub async fn step(&mut self) -> Result<ChatProgress, Error> {
        let progress = match &mut self.state {
            State::Generating(reply) => reply.step().await,
            State::Ended { .. } => return Ok(ChatProgress::Finished),
            State::Failed(_) => return self.take_error().map_or(Ok(ChatProgress::Finished), Err),
        };
        match progress {
            Ok(Progress::Computed) => Ok(ChatProgress::Computed),
            Ok(Progress::Token(token)) => self.push(token).map(ChatProgress::Text),
            Ok(Progress::Finished(_)) => Ok(ChatProgress::Text(self.finish())),
            Err(error) => {
                self.end();
                Err(error.into())
            }
        }
    }

    /// Cancels the reply, if it is in progress, and returns the text that was held back. Dropping it cancels it too.
    pub fn cancel(&mut self) -> String {
        if matches!(self.state, State::Generating(_)) { self.finish() } else { String::new() }
    }

    /// Waits for the end of the reply and returns its text.
    ///
    /// # Errors
    /// The errors listed at [`Chat::say`].
    pub async fn into_text(mut self) -> Result<String, Error> {
        while self.next().await?.is_some() {}
        Ok(std::mem::take(&mut self.text))
    }

    /// Returns the text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the reason that the model ended the reply; `None` while it is in progress, and after a stop string or an
    /// error.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        match &self.state {
            State::Ended { reason, .. } => *reason,
            State::Generating(_) | State::Failed(_) => None,
        }
    }

    /// Returns the number of tokens of the prompt: of all messages.
    pub fn prompt_tokens(&self) -> u32 {
        self.prompt.all
    }

    /// Returns the number of tokens of the prompt that were in the KV cache, from turns before or by prefix sharing; known
    /// from the first token on.
    pub fn cached(&self) -> u32 {
        self.prompt.kept
            + match &self.state {
                State::Generating(reply) => reply.cached(),
                State::Ended { cached, .. } => *cached,
                State::Failed(_) => 0,
            }
    }

    /// Returns the number of tokens generated so far.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Takes in a token, and returns the text that is complete with it.
    fn push(&mut self, token: u32) -> Result<String, Error> {
        self.tokens += 1;
        let decoded = match self.decoder.push(&self.tokenizer, token) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.end();
                return Err(error.into());
            }
        };
        let (piece, stopped) = match self.tokenizer.hidden_name(token) {
            Some(name) => self.stop.push_control(name),
            None => self.stop.push(&decoded.unwrap_or_default()),
        };
        self.text.push_str(&piece);
        if stopped {
            self.end();
        }
        Ok(piece)
    }

    /// Ends the reply, and returns the text that was held back.
    fn finish(&mut self) -> String {
        let rest = self.rest();
        self.end();
        rest
    }

    /// Returns the error of a reply that failed at its start, once.
    fn take_error(&mut self) -> Option<Error> {
        let ended = State::Ended { reason: None, cached: 0 };
        match std::mem::replace(&mut self.state, ended) {
            State::Failed(error) => Some(error),
            state => {
                self.state = state;
                None
            }
        }
    }

    /// Ends the reply: cancels it if it is in progress, and adds its text to the conversation.
    fn end(&mut self) {
        if let State::Generating(reply) = &self.state {
            // Dropping the engine's reply cancels it.
            self.state = State::Ended { reason: reply.finish_reason(), cached: reply.cached() };
        }
        if let Some(messages) = self.messages.take() {
            let mut messages = lock(&messages);
            if self.text.is_empty() {
                messages.pop();
            } else {
                messages.push(Message::assistant(self.text.clone()));
            }
        }
    }

    /// Returns the text held back for incomplete characters and possible stop strings, at the end of the reply.
    fn rest(&mut self) -> String {
        let rest = self.decoder.finish().unwrap_or_default();
        let (mut piece, stopped) = self.stop.push(&rest);
        if !stopped {
            piece.push_str(&self.stop.finish());
        }
        self.text.push_str(&piece);
        piece
    }
}

impl Drop for ChatReply {
    fn drop(&mut self) {
        self.end();
    }
}

impl Stream for ChatReply {
    type Item = Result<String, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            let reply = match &mut this.state {
                State::Generating(reply) => reply,
                State::Ended { .. } => return Poll::Ready(None),
                State::Failed(_) => return Poll::Ready(this.take_error().map(Err)),
            };
            let piece = match ready!(Pin::new(reply).poll_next(context)) {
                Some(Ok(token)) => match this.push(token) {
                    Ok(piece) => piece,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                },
                Some(Err(error)) => {
                    this.end();
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => this.finish(),
            };
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(piece)));
            }
        }
    }
}
