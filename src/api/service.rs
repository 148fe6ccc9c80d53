//! The service: a model with its engine, and what is made of requests.

use std::{fmt, sync::Arc, time::SystemTime};

use serde_json::{Value, json};

use super::{
    ApiError, Embeddings, Observer,
    chat::{ChatRequest, CompletionRequest, Prompt, ResponseFormat, prompts, to_json},
    embeddings::EmbeddingRequest,
    fields::Fields,
    generation::Generation,
    output::OutputParser,
    response::{Endpoint, Response, StreamState},
    sampling::Sampling,
    tools::{Tool, ToolChoice, ToolFormat},
};
use crate::{
    Error,
    engine::{Constraint, EmbedOptions, Engine, GenerateOptions, Pooling, Reply, SamplingOptions},
    gguf::Gguf,
    text::{ChatTemplate, RenderOptions, TextError, Tokenizer},
};

/// The longest text of a request to tokenise, in bytes for each token of the context.
const BYTES_PER_TOKEN: usize = 64;

/// A model that answers requests of OpenAI's and Anthropic's APIs, without a server.
///
/// Requests are JSON values. A field that is not supported is refused by name.
pub struct Service {
    engine: Engine,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    tools: ToolFormat,
    /// The template knows reasoning between `<think>` and `</think>`.
    reasoning: bool,
    sampling: SamplingOptions,
    /// `None` for models that embed no texts.
    pooling: Option<Pooling>,
    name: String,
    observer: Option<Arc<dyn Observer>>,
    #[cfg(feature = "constraint")]
    grammars: std::sync::OnceLock<Result<Arc<crate::grammar::GrammarCompiler>, crate::grammar::GrammarError>>,
}

/// What the host knows about a request and the library does not.
#[derive(Clone, Debug, Default)]
pub struct RequestContext {
    /// A number that no other request has: the response's id.
    pub id: u128,
    /// Seconds since 1970.
    pub created: u64,
    /// The seed of requests that give none.
    pub seed: u64,
    /// The time for templates that write the date, and the local time's offset from UTC in seconds.
    pub now: Option<(SystemTime, i32)>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("name", &self.name).field("tools", &self.tools).finish_non_exhaustive()
    }
}

impl Service {
    /// Returns a service of the model `gguf` on an engine. `name` is the model's name in responses.
    ///
    /// # Errors
    /// [`Error`] if the file's tokenizer, chat template or sampling options are invalid.
    pub fn new(engine: &Engine, gguf: &Gguf, name: impl Into<String>) -> Result<Self, Error> {
        let template = match ChatTemplate::from_metadata(gguf.metadata()) {
            Err(TextError::NoTemplate) => ChatTemplate::chatml(),
            template => template?,
        };
        let sampling = SamplingOptions::from_metadata(gguf.metadata())?;
        sampling.check(engine.config().vocab)?;
        Ok(Self {
            engine: engine.clone(),
            tokenizer: Arc::new(Tokenizer::from_gguf(gguf)?),
            tools: ToolFormat::of_template(template.source()),
            reasoning: template.source().contains("think>"),
            template,
            sampling,
            pooling: Pooling::from_metadata(gguf.metadata()).ok().map(Option::unwrap_or_default),
            name: name.into(),
            observer: None,
            #[cfg(feature = "constraint")]
            grammars: std::sync::OnceLock::new(),
        })
    }

    /// Sets who is told of the computation of requests.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Sets the chat template.
    #[must_use]
    pub fn template(mut self, template: ChatTemplate) -> Self {
        self.tools = ToolFormat::of_template(template.source());
        self.reasoning = template.source().contains("think>");
        self.template = template;
        self
    }

    /// Sets how hidden states are pooled to embeddings: by default as the file says, else by their mean.
    #[must_use]
    pub fn pooling(mut self, pooling: Pooling) -> Self {
        self.pooling = Some(pooling);
        self
    }

    /// Returns the engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Returns the model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Starts the response to a request of `/v1/chat/completions`.
    ///
    /// # Errors
    /// [`ApiError`] for an invalid request.
    pub fn chat(&self, request: Value, context: &RequestContext) -> Result<Response, ApiError> {
        self.respond(ChatRequest::openai(request, &self.sampling, context.seed)?, context)
    }

    /// Starts the response to a request of Anthropic's `/v1/messages`.
    ///
    /// # Errors
    /// [`ApiError`] for an invalid request.
    pub fn messages(&self, request: Value, context: &RequestContext) -> Result<Response, ApiError> {
        self.respond(ChatRequest::anthropic(request, &self.sampling, context.seed)?, context)
    }

    /// Returns the number of tokens of a request of Anthropic's `/v1/messages/count_tokens`.
    ///
    /// # Errors
    /// [`ApiError`] for an invalid request.
    pub fn count_tokens(&self, mut request: Value, context: &RequestContext) -> Result<Value, ApiError> {
        if let Value::Object(fields) = &mut request {
            fields.insert("max_tokens".to_owned(), json!(1));
        }
        let request = ChatRequest::anthropic(request, &self.sampling, context.seed)?;
        Ok(json!({"input_tokens": self.prompt(&request, context)?.len()}))
    }

    /// Starts the response to a request of `/v1/completions`.
    ///
    /// # Errors
    /// [`ApiError`] for an invalid request.
    pub fn completion(&self, request: Value, context: &RequestContext) -> Result<Response, ApiError> {
        let request = CompletionRequest::openai(request, &self.sampling, context.seed)?;
        self.check_model(request.model.as_deref())?;
        let (mut replies, mut echo, mut count) = (Vec::new(), Vec::new(), 0);
        for prompt in &request.prompts {
            let ids = self.encode(prompt)?;
            count += ids.len() as u32;
            if request.echo {
                let text = match prompt {
                    Prompt::Text(text) => text.clone(),
                    Prompt::Tokens(ids) => {
                        self.tokenizer.decode(ids).map_err(|error| ApiError::field("prompt", error))?
                    }
                };
                echo.extend(std::iter::repeat_n(text, request.sampling.n as usize));
            }
            let constraint = || self.constraint(&request.format, &[], &ToolChoice::None, false);
            replies.extend(self.replies(&ids, &request.sampling, request.logprobs, constraint)?);
        }
        Ok(Response {
            echo,
            logprobs: request.logprobs.is_some(),
            ..self.response(Endpoint::Completion, replies, count, &request.sampling, &OutputParser::plain(), context)
        })
    }

    /// Starts the response to a request of `/v1/embeddings`.
    ///
    /// # Errors
    /// [`ApiError`] for an invalid request.
    pub fn embeddings(&self, request: Value) -> Result<Embeddings, ApiError> {
        let request = EmbeddingRequest::openai(request, self.engine.config().hidden)?;
        self.check_model(request.model.as_deref())?;
        let Some(pooling) = self.pooling else {
            return Err(ApiError::unsupported("model", "this model ranks texts and has no embeddings"));
        };
        let encode = |(i, input): (usize, Prompt)| {
            let path = if request.inputs.len() > 1 { format!("input[{i}]") } else { "input".to_owned() };
            let ids = match input {
                Prompt::Tokens(ids) => ids,
                Prompt::Text(text) => {
                    self.check_length(&text, &path)?;
                    self.tokenizer.encode_document(&text).map_err(|error| ApiError::field(&path, error))?
                }
            };
            let vocab = self.engine.config().vocab;
            match ids.iter().find(|id| **id >= vocab) {
                _ if ids.is_empty() => Err(ApiError::field(path, "must not be empty")),
                Some(id) => Err(ApiError::field(path, format_args!("there is no token {id}"))),
                None if ids.len() > self.engine.context() as usize => {
                    Err(self.too_long(&path).code("context_length_exceeded"))
                }
                None => Ok(ids),
            }
        };
        Ok(Embeddings {
            engine: self.engine.clone(),
            options: EmbedOptions::default().pooling(pooling),
            inputs: request.inputs.iter().cloned().enumerate().map(encode).collect::<Result<_, _>>()?,
            base64: request.base64,
            model: self.name.clone(),
            observer: self.observer.clone(),
        })
    }

    /// Returns the tokens of a request of `/tokenize`: `content`, and whether to add the beginning-of-text token and to parse
    /// the names of control tokens.
    ///
    /// # Errors
    /// [`ApiError`] for an invalid request.
    pub fn tokenize(&self, request: Value) -> Result<Value, ApiError> {
        let mut fields = Fields::of_request(request)?;
        self.check_model(fields.string("model")?.as_deref())?;
        let content = match fields.take("prompt") {
            Some(Value::String(text)) => text,
            Some(_) => return Err(fields.error("prompt", "must be a string")),
            None => fields.string("content")?.ok_or_else(|| fields.error("content", "is missing"))?,
        };
        let add = fields.bool("add_special")?.unwrap_or(false);
        let parse = fields.bool("parse_special")?.unwrap_or(true);
        let pieces = fields.bool("with_pieces")?.unwrap_or(false);
        fields.finish()?;
        self.check_length(&content, "content")?;
        let encoded =
            if add && parse { self.tokenizer.encode_prompt(&content) } else { self.tokenizer.encode(&content, parse) };
        let mut ids = encoded.map_err(|error| ApiError::field("content", error))?;
        if add && !parse {
            let begin = self.tokenizer.encode_prompt("").map_err(|error| ApiError::field("content", error))?;
            ids.splice(0..0, begin);
        }
        let tokens: Vec<Value> = ids
            .iter()
            .map(|id| {
                let piece =
                    || String::from_utf8_lossy(&self.tokenizer.token_bytes(*id).unwrap_or_default()).into_owned();
                if pieces { json!({"id": id, "piece": piece()}) } else { json!(id) }
            })
            .collect();
        Ok(json!({"count": ids.len(), "max_model_len": self.engine.context(), "tokens": tokens}))
    }

    /// Returns the text of a request of `/detokenize`.
    ///
    /// # Errors
    /// [`ApiError`] for an invalid request.
    pub fn detokenize(&self, request: Value) -> Result<Value, ApiError> {
        let mut fields = Fields::of_request(request)?;
        self.check_model(fields.string("model")?.as_deref())?;
        let tokens = fields.required("tokens")?;
        fields.finish()?;
        let Some(Prompt::Tokens(ids)) = prompts(tokens, "tokens", 0).ok().and_then(|mut all| all.pop()) else {
            return Err(ApiError::field("tokens", "must be a list of token ids"));
        };
        let mut stream = self.tokenizer.decode_stream().show_control(true);
        let mut text = String::new();
        for id in ids {
            text.extend(stream.push(id).map_err(|error| ApiError::field("tokens", error))?);
        }
        text.extend(stream.finish());
        Ok(json!({"content": text, "prompt": text}))
    }

    /// Returns the tokens of a chat's prompt.
    fn prompt(&self, request: &ChatRequest, context: &RequestContext) -> Result<Vec<u32>, ApiError> {
        self.check_model(request.model.as_deref())?;
        let tools = request.choice.allowed(&request.tools);
        let mut options =
            RenderOptions::default().enable_thinking(request.enable_thinking).variables(request.variables.clone());
        if !tools.is_empty() {
            let list: Vec<Value> = tools.iter().map(Tool::definition).collect();
            options = options.tools(to_json(&Value::Array(list), "tools")?);
        }
        if let Some((now, offset)) = context.now {
            options = options.now(now).utc_offset(offset);
        }
        let length: usize = request.messages.iter().map(|message| message.content.len()).sum();
        if length > self.engine.context() as usize * BYTES_PER_TOKEN {
            return Err(self.too_long("messages"));
        }
        let ids = self.template.encode(&self.tokenizer, &request.messages, &options)?;
        if ids.is_empty() {
            return Err(ApiError::field("messages", "the chat template wrote nothing"));
        }
        Ok(ids)
    }

    fn respond(&self, request: ChatRequest, context: &RequestContext) -> Result<Response, ApiError> {
        let ids = self.prompt(&request, context)?;
        let tools = request.choice.allowed(&request.tools);
        let opened = self.opens_reasoning(&ids);
        let constraint = || self.constraint(&request.format, &tools, &request.choice, opened);
        let replies = self.replies(&ids, &request.sampling, request.logprobs, constraint)?;
        let parser = match request.format {
            // All of the reply is what the format says.
            ResponseFormat::Text => {
                // What a constraint forms can be sent before it is complete.
                let constrained = request.choice.is_required() || tools.iter().any(|tool| tool.strict);
                let parser = OutputParser::new(self.tools, tools, self.reasoning, opened);
                parser.stream_calls(constrained && request.sampling.stream)
            }
            _ if opened => OutputParser::new(ToolFormat::Hermes, Vec::new(), true, true),
            _ => OutputParser::plain(),
        };
        let endpoint = if request.anthropic { Endpoint::Messages } else { Endpoint::Chat };
        Ok(Response {
            logprobs: request.logprobs.is_some(),
            ..self.response(endpoint, replies, ids.len() as u32, &request.sampling, &parser, context)
        })
    }

    fn response(
        &self,
        endpoint: Endpoint,
        replies: Vec<Reply>,
        prompt: u32,
        sampling: &Sampling,
        parser: &OutputParser,
        context: &RequestContext,
    ) -> Response {
        let prefix = match endpoint {
            Endpoint::Chat => "chatcmpl-",
            Endpoint::Completion => "cmpl-",
            Endpoint::Messages => "msg_",
        };
        let observer = self.observer.clone();
        Response {
            generation: Generation::new(Arc::clone(&self.tokenizer), observer, replies, prompt, &sampling.stop, parser),
            tokenizer: Arc::clone(&self.tokenizer),
            endpoint,
            id: format!("{prefix}{:032x}", context.id),
            created: context.created,
            model: self.name.clone(),
            stream: sampling.stream,
            include_usage: sampling.include_usage,
            echo: Vec::new(),
            logprobs: false,
            state: StreamState::default(),
        }
    }

    /// Starts the choices of a request.
    fn replies(
        &self,
        prompt: &[u32],
        sampling: &Sampling,
        logprobs: Option<u32>,
        constraint: impl Fn() -> Result<Option<Box<dyn Constraint>>, ApiError>,
    ) -> Result<Vec<Reply>, ApiError> {
        let stop = if sampling.ignore_eos { Vec::new() } else { self.tokenizer.stop_ids().to_vec() };
        (0..sampling.n)
            .map(|choice| {
                let seed = sampling.options.seed.wrapping_add(u64::from(choice));
                let options = GenerateOptions::default()
                    .sampling(sampling.options.clone().seed(seed))
                    .max_tokens(sampling.max_tokens)
                    .stop(stop.clone())
                    .logprobs(logprobs);
                let mut session = self.engine.session();
                Ok(match constraint()? {
                    Some(constraint) => session.generate_constrained(prompt, &options, constraint)?,
                    None => session.generate(prompt, &options)?,
                })
            })
            .collect()
    }

    fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, ApiError> {
        match prompt {
            Prompt::Tokens(ids) => Ok(ids.clone()),
            Prompt::Text(text) => {
                self.check_length(text, "prompt")?;
                self.tokenizer.encode_prompt(text).map_err(|error| ApiError::field("prompt", error))
            }
        }
    }

    fn check_length(&self, text: &str, field: &str) -> Result<(), ApiError> {
        if text.len() > self.engine.context() as usize * BYTES_PER_TOKEN { Err(self.too_long(field)) } else { Ok(()) }
    }

    fn too_long(&self, field: &str) -> ApiError {
        let context = self.engine.context();
        ApiError::field(field, format_args!("is longer than the context of {context} tokens"))
            .code("context_length_exceeded")
    }

    /// Checks the name of the model, if it is given.
    fn check_model(&self, model: Option<&str>) -> Result<(), ApiError> {
        match model {
            Some(model) if !model.is_empty() && model != self.name && model != "default" => {
                let message = format!("model: there is no model named {model:?}, only {:?}", self.name);
                Err(ApiError { param: Some("model".to_owned()), ..ApiError::new(404, message) }.code("model_not_found"))
            }
            _ => Ok(()),
        }
    }

    /// Returns whether a prompt ends in reasoning that the model goes on with.
    fn opens_reasoning(&self, prompt: &[u32]) -> bool {
        let last = prompt.get(prompt.len().saturating_sub(8)..).unwrap_or_default();
        let mut stream = self.tokenizer.decode_stream().show_control(true);
        let text: String = last.iter().filter_map(|id| stream.push(*id).ok().flatten()).collect();
        self.reasoning && text.trim_end().ends_with("<think>")
    }

    #[cfg(not(feature = "constraint"))]
    fn constraint(
        &self,
        format: &ResponseFormat,
        tools: &[Tool],
        choice: &ToolChoice,
        _: bool,
    ) -> Result<Option<Box<dyn Constraint>>, ApiError> {
        if *format != ResponseFormat::Text {
            return Err(ApiError::unsupported("response_format", "this build has no constrained output"));
        }
        if choice.is_required() {
            return Err(ApiError::unsupported("tool_choice", "this build has no constrained output"));
        }
        match tools.iter().position(|tool| tool.strict) {
            Some(at) => {
                Err(ApiError::unsupported(format!("tools[{at}].strict"), "this build has no constrained output"))
            }
            None => Ok(None),
        }
    }

    /// Returns the constraint of a reply, if it has one.
    #[cfg(feature = "constraint")]
    fn constraint(
        &self,
        format: &ResponseFormat,
        tools: &[Tool],
        choice: &ToolChoice,
        opened: bool,
    ) -> Result<Option<Box<dyn Constraint>>, ApiError> {
        use super::constrained::{AfterReasoning, ToolCalls};
        use crate::grammar::Grammar;
        let required = choice.is_required();
        let grammar = match format {
            ResponseFormat::Text if required || tools.iter().any(|tool| tool.strict) => {
                let calls = ToolCalls::new(self.grammars()?, &self.tokenizer, self.tools, tools, required, opened)?;
                return Ok(Some(Box::new(calls)));
            }
            ResponseFormat::Text => return Ok(None),
            _ if required => {
                return Err(ApiError::unsupported("response_format", "is not supported with a required tool call"));
            }
            ResponseFormat::JsonObject => Grammar::JsonObject,
            ResponseFormat::JsonSchema(schema) => Grammar::JsonSchema(schema.to_string()),
            ResponseFormat::Regex(regex) => Grammar::Regex(regex.clone()),
            ResponseFormat::Grammar(text) => Grammar::Grammar(text.clone()),
        };
        let problem = |error| ApiError::field("response_format", error).code("invalid_grammar");
        let constraint = self.grammars()?.compile(&grammar).map_err(problem)?;
        Ok(Some(match opened {
            true => Box::new(AfterReasoning::new(&self.tokenizer, constraint)),
            false => constraint,
        }))
    }

    /// Returns the compiler of grammars, made when it is first needed.
    #[cfg(feature = "constraint")]
    fn grammars(&self) -> Result<&Arc<crate::grammar::GrammarCompiler>, ApiError> {
        let made = self.grammars.get_or_init(|| crate::grammar::GrammarCompiler::new(&self.tokenizer).map(Arc::new));
        made.as_ref().map_err(|error| ApiError::unsupported("response_format", error))
    }
}
