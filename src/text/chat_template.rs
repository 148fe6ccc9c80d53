//! Chat templates: they render a conversation as the text that a model expects.

use std::time::SystemTime;

use minijinja::value::{Value, ValueKind};

use super::error::{TextError, excerpt};
use super::json::Json;
use super::marks::{Marks, Places};
use super::template_engine::{LocalTime, Run};
use super::tokenizer::Tokenizer;
use super::vocabulary::Vocabulary;
use crate::gguf::Metadata;

const TEMPLATE: &str = "tokenizer.chat_template";

const CHATML: &str = "{%- for message in messages %}\
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}\
    {%- endfor %}\
    {%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}";

/// How a template prints a list of parts that it does not know.
const PRINTED: [&str; 2] = ["{'type': 'text'", "{\"type\": \"text\""];

/// The size limit of templates in bytes. Real ones have up to about 20 KiB.
const MAX_LEN: usize = 64 << 10;

/// The author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Instructions to the model.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A tool: the result of a call.
    Tool,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::System, Self::User, Self::Assistant, Self::Tool];

    /// Returns the role's name in chat templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Message {
    /// The author.
    pub role: Role,
    /// The text.
    pub content: String,
    /// Further fields that templates read, such as `reasoning_content`, `tool_calls` and `tool_call_id`. A field
    /// `content` replaces the text, for example with a list of parts.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Vec::is_empty"))]
    pub fields: Vec<(String, Json)>,
}

impl Message {
    /// Creates a message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), fields: Vec::new() }
    }

    /// Creates a system message.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(Role::System, content)
    }

    /// Creates a user message.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User, content)
    }

    /// Creates an assistant message.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new(Role::Assistant, content)
    }

    /// Creates the message of a tool: the result of a call.
    pub fn tool(content: impl Into<String>) -> Self {
        Self::new(Role::Tool, content)
    }

    /// Returns the message with a further field.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: Json) -> Self {
        self.fields.push((name.into(), value));
        self
    }

    fn value(&self) -> Value {
        let mut pairs = vec![("role", Value::from(self.role.name())), ("content", self.content.as_str().into())];
        for (name, value) in &self.fields {
            match pairs.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = value.value(),
                None => pairs.push((name, value.value())),
            }
        }
        Value::from_pairs(pairs)
    }
}

/// Options for rendering a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct RenderOptions {
    /// Whether to end with the header of the assistant's next turn (default: `true`).
    pub add_generation_prompt: bool,
    /// Whether the model thinks before it answers, if the template supports this; `None` is the template's default.
    pub enable_thinking: Option<bool>,
    /// The time for templates that write the date with `strftime_now`. The library does not read the clock: with
    /// `None`, such templates omit the date or write a fixed one.
    pub now: Option<SystemTime>,
    /// The local time's offset from UTC in seconds, positive in the east.
    pub utc_offset: i32,
    /// Tools that the model may call: a list of JSON schemas of functions.
    pub tools: Option<Json>,
    /// Documents for the model to answer from.
    pub documents: Option<Json>,
    /// Further variables of the template.
    pub variables: Vec<(String, Json)>,
    /// Whether control tokens are parsed in messages and tools too, so that their authors can write them (default:
    /// `false`).
    pub parse_special: bool,
}

setters! {
    RenderOptions {
        add_generation_prompt: bool,
        utc_offset: i32,
        variables: Vec<(String, Json)>,
        parse_special: bool,
    }
    optional {
        enable_thinking: bool,
        now: SystemTime,
        tools: Json,
        documents: Json,
    }
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self {
            add_generation_prompt: true,
            enable_thinking: None,
            now: None,
            utc_offset: 0,
            tools: None,
            documents: None,
            variables: Vec::new(),
            parse_special: false,
        }
    }
}

/// A chat template in Jinja, with Hugging Face's conventions.
///
/// Templates come from files and are not trusted. They can access only the conversation. Their length is limited, and
/// their work and memory are limited in proportion to the conversation. A template that fails returns an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Reads the template from a file's metadata.
    ///
    /// # Errors
    ///
    /// [`TextError::NoTemplate`] if the file has none or an empty one; the errors of [`ChatTemplate::new`].
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TextError> {
        let source = metadata.str(TEMPLATE)?.filter(|source| !source.trim().is_empty());
        let (bos, eos) = Vocabulary::ends_from_metadata(metadata)?;
        Self::new(source.ok_or(TextError::NoTemplate)?, bos, eos)
    }

    /// Reads a further template of a file, `tokenizer.chat_template.NAME`.
    ///
    /// # Errors
    ///
    /// [`TextError::NoNamedTemplate`] if the file has none of this name; the errors of [`ChatTemplate::new`].
    pub fn named(metadata: &Metadata, name: &str) -> Result<Self, TextError> {
        let source = metadata.str(&format!("{TEMPLATE}.{name}"))?.ok_or_else(|| TextError::NoNamedTemplate {
            name: excerpt(name),
            others: Self::names(metadata).map(excerpt).collect::<Vec<_>>().join(", "),
        })?;
        let (bos, eos) = Vocabulary::ends_from_metadata(metadata)?;
        Self::new(source, bos, eos)
    }

    /// Returns the names of a file's further templates.
    pub fn names(metadata: &Metadata) -> impl Iterator<Item = &str> {
        metadata.iter().filter_map(|(key, _)| key.strip_prefix(TEMPLATE)?.strip_prefix('.'))
    }

    /// Compiles a template. It can refer to the texts of the beginning-of-text and end-of-text tokens.
    ///
    /// # Errors
    ///
    /// If the source is too long or not valid Jinja.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TextError> {
        if source.len() > MAX_LEN {
            return Err(TextError::TemplateTooLarge(source.len()));
        }
        Run { source, now: None, fuel: 0 }.check()?;
        Ok(Self { source: source.to_owned(), bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// Returns the ChatML template, `<|im_start|>role … <|im_end|>`, which most models without a template understand.
    pub fn chatml() -> Self {
        Self { source: CHATML.to_owned(), bos: String::new(), eos: String::new() }
    }

    /// Returns the template with other texts of the beginning-of-text and end-of-text tokens.
    #[must_use]
    pub fn with_ends(mut self, bos: Option<&str>, eos: Option<&str>) -> Self {
        self.bos = bos.map_or(self.bos, str::to_owned);
        self.eos = eos.map_or(self.eos, str::to_owned);
        self
    }

    /// Returns the template's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation. [`ChatTemplate::encode`] renders and encodes it.
    ///
    /// # Errors
    ///
    /// [`TextError::TemplateRaised`] if the template rejects the conversation; other errors if it fails or exceeds its
    /// work limit.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, TextError> {
        let variables = Variables::new(values(messages), options);
        Ok(self.run_with_parts(&variables, options)?.0)
    }

    /// Renders a conversation in JSON: a list of messages with `role`, `content` and other fields, as in OpenAI's API.
    ///
    /// # Errors
    ///
    /// The errors of [`ChatTemplate::render`].
    pub fn render_json(&self, messages: &Json, options: &RenderOptions) -> Result<String, TextError> {
        Ok(self.run_with_parts(&Variables::new(messages.value(), options), options)?.0)
    }

    /// Renders and encodes a conversation. Only what the template itself writes becomes control tokens, unless
    /// [`RenderOptions::parse_special`] is set: users and tools cannot forge turns. The beginning-of-text token is
    /// prepended if the model requires it and the template has not written it.
    ///
    /// # Errors
    ///
    /// The errors of [`ChatTemplate::render`] and [`Tokenizer::encode`]; [`TextError::TemplateDropsMessage`] if the
    /// text of the last message, a user's, is not in the result.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Vec<u32>, TextError> {
        let (ids, dropped) = self.encode_values(tokenizer, values(messages), options)?;
        if dropped { Err(TextError::TemplateDropsMessage) } else { Ok(ids) }
    }

    /// Renders and encodes a conversation in JSON, as [`ChatTemplate::encode`] does.
    ///
    /// # Errors
    ///
    /// The errors of [`ChatTemplate::render_json`] and [`Tokenizer::encode`].
    pub fn encode_json(
        &self,
        tokenizer: &Tokenizer,
        messages: &Json,
        options: &RenderOptions,
    ) -> Result<Vec<u32>, TextError> {
        Ok(self.encode_values(tokenizer, messages.value(), options)?.0)
    }

    /// Returns whether [`RenderOptions::enable_thinking`] changes what the template writes.
    pub fn reads_enable_thinking(&self) -> bool {
        let render = |think| self.render(&[Message::user("Hi")], &RenderOptions::default().enable_thinking(think));
        matches!((render(true), render(false)), (Ok(on), Ok(off)) if on != off)
    }

    fn encode_values(
        &self,
        tokenizer: &Tokenizer,
        messages: Value,
        options: &RenderOptions,
    ) -> Result<(Vec<u32>, bool), TextError> {
        let variables = Variables::new(messages, options);
        let (plain, in_parts, dropped) = self.run_with_parts(&variables, options)?;
        if options.parse_special {
            return Ok((tokenizer.encode_prompt(&plain)?, dropped));
        }
        let variables = if in_parts { variables.in_parts() } else { variables };
        let marks = Marks::new(tokenizer, &[&plain, &self.source, &self.bos, &self.eos]);
        let mut marked = None;
        for places in Places::ALL {
            // Marks can change what a template does with a text. The least of them is safe too.
            match self.run(&variables.marked(&marks, places), options) {
                Ok(text) if marks.strip(&text) == plain => {
                    return Ok((tokenizer.encode_marked(&text, marks.mark())?, dropped));
                }
                other => marked = Some(other),
            }
        }
        let text = marked.unwrap_or(Ok(plain))?;
        Ok((tokenizer.encode_marked(&text, marks.mark())?, dropped))
    }

    /// Renders with texts as strings. If the last message is the user's and its text is not in the result, the template
    /// wants a list of parts, as those for images do. Returns whether it got one, and whether the text is missing still.
    fn run_with_parts(
        &self,
        variables: &Variables,
        options: &RenderOptions,
    ) -> Result<(String, bool, bool), TextError> {
        let plain = self.run(variables, options);
        let Some(text) = variables.last_user_text() else { return Ok((plain?, false, false)) };
        if plain.as_ref().is_ok_and(|plain| plain.contains(text.trim())) {
            return Ok((plain?, false, false));
        }
        if matches!(plain, Err(TextError::TemplateRaised(_) | TextError::TemplateLimit)) {
            return Ok((plain?, false, false));
        }
        match self.run(&variables.in_parts(), options) {
            // A list that was printed as a whole was not wanted.
            Ok(parts) if parts.contains(text.trim()) && !PRINTED.iter().any(|list| parts.contains(list)) => {
                Ok((parts, true, false))
            }
            _ => Ok((plain?, false, true)),
        }
    }

    fn run(&self, variables: &Variables, options: &RenderOptions) -> Result<String, TextError> {
        let mut all = vec![
            ("messages", variables.messages.clone()),
            ("add_generation_prompt", options.add_generation_prompt.into()),
            ("bos_token", self.bos.as_str().into()),
            ("eos_token", self.eos.as_str().into()),
            // Hugging Face defines these as none if absent, and templates rely on it.
            ("tools", variables.tools.clone()),
            ("documents", variables.documents.clone()),
        ];
        all.extend(options.enable_thinking.map(|enable| ("enable_thinking", enable.into())));
        all.extend(options.variables.iter().map(|(name, value)| (name.as_str(), value.value())));
        let now = options.now.map(|utc| LocalTime { utc, offset: options.utc_offset });
        Run { source: &self.source, now, fuel: variables.fuel() }.render(all)
    }
}

fn values(messages: &[Message]) -> Value {
    messages.iter().map(Message::value).collect()
}

/// The conversation as a template sees it.
struct Variables {
    messages: Value,
    tools: Value,
    documents: Value,
}

impl Variables {
    fn new(messages: Value, options: &RenderOptions) -> Self {
        let value = |json: &Option<Json>| json.as_ref().map_or(Value::from(()), Json::value);
        Self { messages, tools: value(&options.tools), documents: value(&options.documents) }
    }

    fn marked(&self, marks: &Marks, places: Places) -> Self {
        let marked = |value: &Value| marks.value(value, places);
        Self { messages: marked(&self.messages), tools: marked(&self.tools), documents: marked(&self.documents) }
    }

    /// Returns the text of the last message, if that is a user's with a text.
    fn last_user_text(&self) -> Option<String> {
        let last = self.messages.get_item_by_index(self.messages.len()?.checked_sub(1)?).ok()?;
        let field = |name| last.get_attr(name).ok().and_then(|value| value.as_str().map(str::to_owned));
        field("content").filter(|text| field("role").as_deref() == Some("user") && !text.trim().is_empty())
    }

    /// Returns the variables with each text as a list of one part.
    fn in_parts(&self) -> Self {
        let message = |message: Value| {
            let keys = message.try_iter().into_iter().flatten();
            let field = |key: Value| {
                let value = message.get_item(&key).unwrap_or_default();
                let is_text = key.as_str() == Some("content") && value.kind() == ValueKind::String;
                let part = || Value::from_pairs([("type", Value::from("text")), ("text", value.clone())]);
                let value = if is_text { Value::from(vec![part()]) } else { value.clone() };
                (key, value)
            };
            Value::from_pairs(keys.map(field).collect::<Vec<_>>())
        };
        let messages = self.messages.try_iter().into_iter().flatten().map(message).collect();
        Self { messages, tools: self.tools.clone(), documents: self.documents.clone() }
    }

    /// Returns the work limit. Qwen3's template takes about 80 units per message and 1 per 12 bytes.
    fn fuel(&self) -> u64 {
        const BASE: u64 = 50_000;
        const PER_VALUE: u64 = 500;
        let mut size = Size::default();
        [&self.messages, &self.tools, &self.documents].into_iter().for_each(|value| size.add(value));
        BASE.saturating_add(PER_VALUE.saturating_mul(size.values)).saturating_add(size.bytes / 2)
    }
}

/// The size of values.
#[derive(Default)]
struct Size {
    /// The number of strings, lists and objects.
    values: u64,
    /// The bytes of strings.
    bytes: u64,
}

impl Size {
    /// Adds a value. Its depth is bounded, as it comes from JSON.
    fn add(&mut self, value: &Value) {
        self.values += 1;
        match value.kind() {
            ValueKind::String => self.bytes += value.as_str().map_or(0, |text| text.len() as u64),
            ValueKind::Map => {
                for key in value.try_iter().into_iter().flatten() {
                    self.bytes += key.as_str().map_or(0, |text| text.len() as u64);
                    self.add(&value.get_item(&key).unwrap_or_default());
                }
            }
            ValueKind::Seq => value.try_iter().into_iter().flatten().for_each(|item| self.add(&item)),
            _ => {}
        }
    }
}
