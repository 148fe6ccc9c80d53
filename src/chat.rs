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
    engine::{Engine, EngineOptions, FinishReason, GenerateOptions, Reply, SamplingOptions, Session},
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
    template: ChatTemplate,
    render: RenderOptions,
    generate: GenerateOptions,
    stop: StopStrings,
    messages: Messages,
}

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
    pub fn start(self, engine: &Engine, gguf: &Gguf) -> Result<Chat, Error> {
        let tokenizer = Tokenizer::from_gguf(gguf)?;
        let template = match ChatTemplate::from_metadata(gguf.metadata()) {
            Err(TextError::NoTemplate) => ChatTemplate::chatml(),
            template => template?,
        };
        let sampling = match self.sampling {
            Some(sampling) => sampling,
            None => SamplingOptions::from_metadata(gguf.metadata())?,
        };
        let stop = tokenizer.stop_ids().to_vec();
        Ok(Chat {
            session: engine.session(),
            tokenizer: Arc::new(tokenizer),
            template,
            render: self.render,
            generate: GenerateOptions { sampling, max_tokens: self.max_tokens, stop, logprobs: None },
            stop: StopStrings::new(self.stop),
            messages: Arc::new(Mutex::new(self.system.into_iter().map(Message::system).collect())),
        })
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
        let (state, messages) = match self.reply(&messages) {
            Ok(reply) => {
                *lock(&self.messages) = messages;
                (State::Generating(reply), Some(Arc::clone(&self.messages)))
            }
            Err(error) => (State::Failed(error), None),
        };
        ChatReply {
            state,
            tokenizer: Arc::clone(&self.tokenizer),
            decoder: Decoder::default(),
            stop: self.stop.clone(),
            text: String::new(),
            messages,
        }
    }

    /// Starts the model's reply to `messages`. Keeps the KV cache of the common prefix.
    fn reply(&mut self, messages: &[Message]) -> Result<Reply, Error> {
        let prompt = self.template.encode(&self.tokenizer, messages, &self.render)?;
        let tokens = self.session.tokens();
        let common = tokens.iter().zip(&prompt).take_while(|(a, b)| a == b).count();
        // At least one token must be computed.
        let cached = common.min(prompt.len().saturating_sub(1));
        self.session.truncate(cached as u32)?;
        let reply = self.session.generate(prompt.get(cached..).unwrap_or_default(), &self.generate);
        Ok(reply?)
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
    tokenizer: Arc<Tokenizer>,
    decoder: Decoder,
    stop: StopStrings,
    text: String,
    /// The conversation, until the reply is added to it.
    messages: Option<Messages>,
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

    /// Returns the number of tokens of the prompt that prefix sharing found in the KV cache.
    pub fn cached(&self) -> u32 {
        match &self.state {
            State::Generating(reply) => reply.cached(),
            State::Ended { cached, .. } => *cached,
            State::Failed(_) => 0,
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
                State::Failed(_) => {
                    let ended = State::Ended { reason: None, cached: 0 };
                    let State::Failed(error) = std::mem::replace(&mut this.state, ended) else { continue };
                    return Poll::Ready(Some(Err(error)));
                }
            };
            let piece = match ready!(Pin::new(reply).poll_next(context)) {
                Some(Ok(token)) => match this.decoder.push(&this.tokenizer, token) {
                    Ok(decoded) => {
                        let (piece, stopped) = match this.tokenizer.hidden_name(token) {
                            Some(name) => this.stop.push_control(name),
                            None => this.stop.push(&decoded.unwrap_or_default()),
                        };
                        this.text.push_str(&piece);
                        if stopped {
                            this.end();
                        }
                        piece
                    }
                    Err(error) => {
                        this.end();
                        return Poll::Ready(Some(Err(error.into())));
                    }
                },
                Some(Err(error)) => {
                    this.end();
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {
                    let piece = this.rest();
                    this.end();
                    piece
                }
            };
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(piece)));
            }
        }
    }
}
