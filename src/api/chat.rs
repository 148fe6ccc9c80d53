//! Requests of `/v1/chat/completions` and `/v1/messages`.

use serde_json::{Map, Value, json};

use super::{
    ApiError,
    fields::{Fields, strings},
    sampling::{MAX_LOGPROBS, Sampling},
    tools::{Tool, ToolChoice},
};
use crate::{
    engine::SamplingOptions,
    text::{Json, Message, Role},
};

/// The most messages of a request.
const MAX_MESSAGES: usize = 4096;

/// The format of the reply.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum ResponseFormat {
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON by a schema.
    JsonSchema(Value),
    /// A regular expression.
    Regex(String),
    /// A grammar in Lark or GBNF.
    Grammar(String),
}

/// A request for a chat.
#[derive(Clone, Debug)]
pub(super) struct ChatRequest {
    pub(super) model: Option<String>,
    pub(super) messages: Vec<Message>,
    pub(super) tools: Vec<Tool>,
    pub(super) choice: ToolChoice,
    pub(super) format: ResponseFormat,
    pub(super) sampling: Sampling,
    pub(super) logprobs: Option<u32>,
    pub(super) enable_thinking: Option<bool>,
    pub(super) variables: Vec<(String, Json)>,
    /// Log-probabilities, texts and so on follow Anthropic's API.
    pub(super) anthropic: bool,
}

impl ChatRequest {
    /// Reads a request of OpenAI's API.
    pub(super) fn openai(value: Value, default: &SamplingOptions, seed: u64) -> Result<Self, ApiError> {
        let mut fields = Fields::of_request(value)?;
        let model = fields.string("model")?;
        let Value::Array(list) = fields.required("messages")? else {
            return Err(fields.error("messages", "must be a list"));
        };
        let messages = read_all(list, openai_message)?;
        let tools = Tool::list(&mut fields, false)?;
        let choice = ToolChoice::openai(&mut fields, &tools)?;
        let format = response_format(&mut fields)?;
        let sampling = Sampling::take(&mut fields, default, seed)?;
        let wanted = fields.bool("logprobs")?.unwrap_or(false);
        let logprobs = match fields.integer("top_logprobs", 0, MAX_LOGPROBS)? {
            Some(_) if !wanted => return Err(fields.error("top_logprobs", "needs logprobs = true")),
            top => wanted.then_some(top.unwrap_or(0) as u32),
        };
        let mut enable_thinking = None;
        let mut variables = Vec::new();
        if let Some(effort) = fields.string("reasoning_effort")? {
            if !["none", "minimal", "low", "medium", "high", "xhigh"].contains(&effort.as_str()) {
                return Err(fields.error("reasoning_effort", "must be none, minimal, low, medium, high or xhigh"));
            }
            if effort == "none" {
                enable_thinking = Some(false);
            }
            variables.push(("reasoning_effort".to_owned(), to_json(&json!(effort), "reasoning_effort")?));
        }
        if let Some(value) = fields.take("chat_template_kwargs") {
            let Value::Object(map) = value else {
                return Err(fields.error("chat_template_kwargs", "must be an object"));
            };
            for (name, value) in map {
                match value {
                    Value::Bool(think) if name == "enable_thinking" => enable_thinking = Some(think),
                    value => variables.push((name.clone(), to_json(&value, &format!("chat_template_kwargs.{name}"))?)),
                }
            }
        }
        fields.only("parallel_tool_calls", &[json!(true)])?;
        fields.only("modalities", &[json!(["text"])])?;
        fields.only("verbosity", &[json!("medium")])?;
        fields.finish()?;
        Ok(Self {
            model,
            messages,
            tools,
            choice,
            format,
            sampling,
            logprobs,
            enable_thinking,
            variables,
            anthropic: false,
        })
    }

    /// Reads a request of Anthropic's API.
    pub(super) fn anthropic(value: Value, default: &SamplingOptions, seed: u64) -> Result<Self, ApiError> {
        let mut fields = Fields::of_request(value)?;
        let model = fields.string("model")?;
        let Value::Array(list) = fields.required("messages")? else {
            return Err(fields.error("messages", "must be a list"));
        };
        let mut messages = Vec::new();
        if let Some(system) = fields.take("system") {
            messages.push(Message::system(text_of(system, "system")?));
        }
        for (i, message) in list.into_iter().enumerate() {
            anthropic_message(message, &format!("messages[{i}]"), &mut messages)?;
        }
        if messages.is_empty() || messages.len() > MAX_MESSAGES {
            return Err(fields.error("messages", format_args!("must be 1 to {MAX_MESSAGES} messages")));
        }
        let tools = Tool::list(&mut fields, true)?;
        let choice = ToolChoice::anthropic(&mut fields, &tools)?;
        if let Some(stop) = fields.take("stop_sequences") {
            fields.put("stop", json!(strings(stop, "stop_sequences", 16)?));
        }
        let mut enable_thinking = None;
        if let Some(thinking) = fields.take("thinking") {
            let mut inner = Fields::new(thinking, "thinking")?;
            enable_thinking = match inner.string("type")?.as_deref() {
                Some("enabled" | "adaptive") => Some(true),
                Some("disabled") => Some(false),
                _ => return Err(inner.error("type", "must be enabled, adaptive or disabled")),
            };
            // The length of reasoning is not limited apart.
            inner.ignore(&["budget_tokens", "display"]);
            inner.finish()?;
        }
        fields.required_present("max_tokens")?;
        // A message has no choices.
        fields.only("n", &[json!(1)])?;
        let sampling = Sampling::take(&mut fields, default, seed)?;
        fields.finish()?;
        Ok(Self {
            model,
            messages,
            tools,
            choice,
            format: ResponseFormat::Text,
            sampling,
            logprobs: None,
            enable_thinking,
            variables: Vec::new(),
            anthropic: true,
        })
    }
}

/// Reads `response_format`, and the fields `json_schema`, `regex` and `grammar` of llama.cpp and vLLM.
pub(super) fn response_format(fields: &mut Fields) -> Result<ResponseFormat, ApiError> {
    let mut format = ResponseFormat::Text;
    if let Some(value) = fields.take("response_format") {
        let mut inner = Fields::new(value, "response_format")?;
        format = match inner.string("type")?.as_deref() {
            Some("text") => ResponseFormat::Text,
            Some("json_object") => match inner.take("schema") {
                Some(schema) => ResponseFormat::JsonSchema(schema),
                None => ResponseFormat::JsonObject,
            },
            Some("json_schema") => {
                let mut schema = Fields::new(inner.required("json_schema")?, "response_format.json_schema")?;
                // All schemas are followed exactly.
                schema.ignore(&["name", "description", "strict"]);
                let found = schema.required("schema")?;
                schema.finish()?;
                ResponseFormat::JsonSchema(found)
            }
            Some("regex") => ResponseFormat::Regex(string(inner.required("pattern")?, "response_format.pattern")?),
            Some("grammar") => ResponseFormat::Grammar(string(inner.required("grammar")?, "response_format.grammar")?),
            _ => {
                return Err(inner.error("type", "must be text, json_object, json_schema, regex or grammar"));
            }
        };
        inner.finish()?;
    }
    for name in ["json_schema", "regex", "grammar"] {
        let Some(value) = fields.take(name) else { continue };
        if format != ResponseFormat::Text {
            return Err(fields.error(name, "the format of the response is given twice"));
        }
        format = match name {
            "json_schema" => ResponseFormat::JsonSchema(value),
            "regex" => ResponseFormat::Regex(string(value, name)?),
            _ => ResponseFormat::Grammar(string(value, name)?),
        };
    }
    if let ResponseFormat::JsonSchema(schema) = &format
        && !(schema.is_object() || schema.is_boolean())
    {
        return Err(ApiError::field("response_format", "a JSON schema is an object"));
    }
    Ok(format)
}

fn string(value: Value, path: &str) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(ApiError::field(path, "must be a string")),
    }
}

/// Returns a value for templates.
pub(super) fn to_json(value: &Value, path: &str) -> Result<Json, ApiError> {
    Json::parse(value.to_string()).map_err(|error| ApiError::field(path, error))
}

fn read_all(list: Vec<Value>, read: fn(Value, &str) -> Result<Message, ApiError>) -> Result<Vec<Message>, ApiError> {
    if list.is_empty() || list.len() > MAX_MESSAGES {
        return Err(ApiError::field("messages", format_args!("must be 1 to {MAX_MESSAGES} messages")));
    }
    list.into_iter().enumerate().map(|(i, message)| read(message, &format!("messages[{i}]"))).collect()
}

/// Returns the text of a content: a string, or a list of parts of text.
fn text_of(content: Value, path: &str) -> Result<String, ApiError> {
    match content {
        Value::String(text) => Ok(text),
        Value::Array(parts) => {
            let mut all = String::new();
            for (i, part) in parts.into_iter().enumerate() {
                let mut fields = Fields::new(part, format!("{path}[{i}]"))?;
                match fields.string("type")?.as_deref() {
                    Some("text" | "input_text" | "output_text") => {}
                    Some(other) => {
                        let problem = format!("parts of type {other:?} are not supported, only \"text\"");
                        return Err(ApiError::unsupported(fields.path("type"), problem));
                    }
                    None => return Err(fields.error("type", "is missing")),
                }
                all.push_str(&string(fields.required("text")?, &fields.path("text"))?);
                fields.ignore(&["cache_control", "citations"]);
                fields.finish()?;
            }
            Ok(all)
        }
        _ => Err(ApiError::field(path, "must be a string or a list of parts")),
    }
}

fn openai_message(value: Value, path: &str) -> Result<Message, ApiError> {
    let mut fields = Fields::new(value, path)?;
    let role = match fields.string("role")?.as_deref() {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("tool") => Role::Tool,
        _ => return Err(fields.error("role", "must be system, developer, user, assistant or tool")),
    };
    let calls = fields.list("tool_calls")?.filter(|calls| !calls.is_empty());
    if calls.is_some() && role != Role::Assistant {
        return Err(fields.error("tool_calls", "only an assistant has them"));
    }
    let content = match fields.take("content") {
        Some(content) => text_of(content, &fields.path("content"))?,
        None if role == Role::Assistant => String::new(),
        None => return Err(fields.error("content", "is missing")),
    };
    let mut message = Message::new(role, content);
    if let Some(calls) = calls {
        let path = fields.path("tool_calls");
        let calls: Result<Vec<Value>, ApiError> =
            calls.into_iter().enumerate().map(|(i, call)| past_call(call, &format!("{path}[{i}]"))).collect();
        message = message.with("tool_calls", to_json(&Value::Array(calls?), &path)?);
    }
    for name in ["reasoning_content", "reasoning"] {
        if let Some(text) = fields.string(name)? {
            message = message.with("reasoning_content", to_json(&json!(text), name)?);
        }
    }
    for name in ["name", "tool_call_id"] {
        if let Some(text) = fields.string(name)? {
            message = message.with(name, to_json(&json!(text), name)?);
        }
    }
    fields.ignore(&["refusal", "annotations"]);
    fields.only("audio", &[])?;
    fields.finish()?;
    Ok(message)
}

/// Returns a call of an earlier turn as templates read it: arguments are an object.
fn past_call(value: Value, path: &str) -> Result<Value, ApiError> {
    let mut fields = Fields::new(value, path)?;
    let id = fields.string("id")?;
    fields.only("type", &[json!("function")])?;
    fields.ignore(&["index"]);
    let mut function = Fields::new(fields.required("function")?, fields.path("function"))?;
    fields.finish()?;
    let name = function.string("name")?.ok_or_else(|| function.error("name", "is missing"))?;
    let arguments = match function.take("arguments") {
        None => json!({}),
        Some(Value::String(text)) if text.trim().is_empty() => json!({}),
        Some(Value::String(text)) => {
            let parsed: Result<Value, _> = serde_json::from_str(&text);
            parsed.map_err(|_| function.error("arguments", "must be the text of a JSON object"))?
        }
        Some(object) => object,
    };
    function.finish()?;
    Ok(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
}

/// Adds the messages that a message of Anthropic's API stands for: each tool result is one.
fn anthropic_message(value: Value, path: &str, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let mut fields = Fields::new(value, path)?;
    let role = match fields.string("role")?.as_deref() {
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        _ => return Err(fields.error("role", "must be user or assistant")),
    };
    let content = fields.required("content")?;
    let path = fields.path("content");
    fields.finish()?;
    let Value::Array(parts) = content else {
        messages.push(Message::new(role, text_of(content, &path)?));
        return Ok(());
    };
    let before = messages.len();
    let (mut text, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
    for (i, part) in parts.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        let mut part = Fields::new(part, &*path)?;
        part.ignore(&["cache_control", "citations"]);
        match part.string("type")?.as_deref() {
            Some("text") => text.push_str(&string(part.required("text")?, &part.path("text"))?),
            Some("thinking") if role == Role::Assistant => {
                reasoning.push_str(&string(part.required("thinking")?, &part.path("thinking"))?);
                part.ignore(&["signature"]);
            }
            Some("tool_use") if role == Role::Assistant => {
                let (id, name) = (part.string("id")?, part.string("name")?);
                let arguments = part.take("input").unwrap_or_else(|| json!({}));
                calls.push(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}));
            }
            Some("tool_result") if role == Role::User => {
                let id = part.string("tool_use_id")?.unwrap_or_default();
                let result = part.take("content").map(|content| text_of(content, &part.path("content"))).transpose()?;
                part.ignore(&["is_error"]);
                messages
                    .push(Message::tool(result.unwrap_or_default()).with("tool_call_id", to_json(&json!(id), &path)?));
            }
            Some(other) => {
                let problem = format!("blocks of type {other:?} are not supported here");
                return Err(ApiError::unsupported(part.path("type"), problem));
            }
            None => return Err(part.error("type", "is missing")),
        }
        part.finish()?;
    }
    // Results of tools need no text beside them.
    if role == Role::Assistant || !text.is_empty() || messages.len() == before {
        let mut message = Message::new(role, text);
        if !calls.is_empty() {
            message = message.with("tool_calls", to_json(&Value::Array(calls), &path)?);
        }
        if !reasoning.is_empty() {
            message = message.with("reasoning_content", to_json(&json!(reasoning), &path)?);
        }
        messages.push(message);
    }
    Ok(())
}

/// A request for a completion of a text.
#[derive(Clone, Debug)]
pub(super) struct CompletionRequest {
    pub(super) model: Option<String>,
    pub(super) prompts: Vec<Prompt>,
    pub(super) format: ResponseFormat,
    pub(super) sampling: Sampling,
    pub(super) logprobs: Option<u32>,
    pub(super) echo: bool,
}

/// The prompt of a completion.
#[derive(Clone, Debug)]
pub(super) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

impl CompletionRequest {
    /// Reads a request of OpenAI's API.
    pub(super) fn openai(value: Value, default: &SamplingOptions, seed: u64) -> Result<Self, ApiError> {
        let mut fields = Fields::of_request(value)?;
        let model = fields.string("model")?;
        let prompts = prompts(fields.required("prompt")?, "prompt", 16)?;
        let format = response_format(&mut fields)?;
        let mut sampling = Sampling::take(&mut fields, default, seed)?;
        // As OpenAI's.
        sampling.max_tokens = sampling.max_tokens.or(Some(16));
        let logprobs = fields.integer("logprobs", 0, MAX_LOGPROBS)?.map(|n| n as u32);
        let echo = fields.bool("echo")?.unwrap_or(false);
        if echo && logprobs.is_some() {
            return Err(ApiError::unsupported("echo", "is not supported with logprobs"));
        }
        fields.only("best_of", &[json!(1)])?;
        fields.only("suffix", &[json!("")])?;
        fields.finish()?;
        Ok(Self { model, prompts, format, sampling, logprobs, echo })
    }
}

/// Reads prompts: a text, tokens, or a list of either.
pub(super) fn prompts(value: Value, path: &str, most: usize) -> Result<Vec<Prompt>, ApiError> {
    let problem = || {
        ApiError::field(path, format_args!("must be a string, a list of tokens, or a list of at most {most} of them"))
    };
    let tokens = |list: &[Value]| -> Option<Vec<u32>> {
        // Some clients write 1.0.
        let whole = |id: &Value| id.as_f64().filter(|id| id.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(id));
        list.iter().map(|id| whole(id).map(|id| id as u32)).collect()
    };
    match value {
        Value::String(text) => Ok(vec![Prompt::Text(text)]),
        Value::Array(list) if !list.is_empty() && list[0].is_number() => {
            Ok(vec![Prompt::Tokens(tokens(&list).ok_or_else(problem)?)])
        }
        Value::Array(list) if !list.is_empty() && list.len() <= most => list
            .into_iter()
            .map(|item| match item {
                Value::String(text) => Ok(Prompt::Text(text)),
                Value::Array(ids) => tokens(&ids).map(Prompt::Tokens).ok_or_else(problem),
                _ => Err(problem()),
            })
            .collect(),
        _ => Err(problem()),
    }
}

/// Returns an object's fields as a map.
pub(super) fn object<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
