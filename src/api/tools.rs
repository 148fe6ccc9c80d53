//! Tools: their definitions, and the calls in what a model writes.

use serde_json::{Map, Value, json};

use super::{ApiError, fields::Fields};

/// The most tools of a request.
const MAX_TOOLS: usize = 128;

/// A tool that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tool {
    pub(super) name: String,
    pub(super) description: Option<String>,
    /// The JSON schema of the arguments.
    pub(super) parameters: Value,
    /// The arguments follow the schema exactly.
    pub(super) strict: bool,
}

/// Which tool the model is to call.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum ToolChoice {
    /// Any or none.
    #[default]
    Auto,
    /// None.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

impl Tool {
    /// Returns the definition in OpenAI's form, which templates read.
    pub(super) fn definition(&self) -> Value {
        let mut function = Map::new();
        function.insert("name".to_owned(), json!(self.name));
        if let Some(description) = &self.description {
            function.insert("description".to_owned(), json!(description));
        }
        function.insert("parameters".to_owned(), self.parameters.clone());
        json!({"type": "function", "function": function})
    }

    /// Reads a tool in OpenAI's form.
    fn openai(value: Value, path: &str) -> Result<Self, ApiError> {
        let mut outer = Fields::new(value, path)?;
        match outer.required("type")? {
            Value::String(ty) if ty == "function" => {}
            _ => return Err(ApiError::unsupported(outer.path("type"), "only \"function\" is supported")),
        }
        let mut fields = Fields::new(outer.required("function")?, outer.path("function"))?;
        outer.finish()?;
        let tool = Self::read(&mut fields, "parameters")?;
        fields.finish()?;
        Ok(tool)
    }

    /// Reads a tool in Anthropic's form.
    fn anthropic(value: Value, path: &str) -> Result<Self, ApiError> {
        let mut fields = Fields::new(value, path)?;
        fields.only("type", &[json!("custom")])?;
        fields.ignore(&["cache_control"]);
        let tool = Self::read(&mut fields, "input_schema")?;
        fields.finish()?;
        Ok(tool)
    }

    fn read(fields: &mut Fields, schema: &str) -> Result<Self, ApiError> {
        let name = fields.string("name")?.ok_or_else(|| fields.error("name", "is missing"))?;
        let fine = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if name.is_empty() || name.len() > 128 || !name.chars().all(fine) {
            return Err(fields.error("name", "must be 1 to 128 letters, digits, dashes, dots or underscores"));
        }
        let description = fields.string("description")?;
        let parameters = fields.take(schema).unwrap_or_else(|| json!({"type": "object", "properties": {}}));
        if !parameters.is_object() {
            return Err(fields.error(schema, "must be a JSON schema"));
        }
        Ok(Self { name, description, parameters, strict: fields.bool("strict")?.unwrap_or(false) })
    }

    /// Reads the tools of a request.
    pub(super) fn list(fields: &mut Fields, anthropic: bool) -> Result<Vec<Self>, ApiError> {
        let list = fields.list("tools")?.unwrap_or_default();
        if list.len() > MAX_TOOLS {
            return Err(fields.error("tools", format_args!("at most {MAX_TOOLS} are supported")));
        }
        let read = if anthropic { Self::anthropic } else { Self::openai };
        list.into_iter().enumerate().map(|(i, tool)| read(tool, &format!("tools[{i}]"))).collect()
    }
}

impl ToolChoice {
    /// Reads the choice in OpenAI's form.
    pub(super) fn openai(fields: &mut Fields, tools: &[Tool]) -> Result<Self, ApiError> {
        let choice = match fields.take("tool_choice") {
            None => Self::Auto,
            Some(Value::String(choice)) => match choice.as_str() {
                "auto" => Self::Auto,
                "none" => Self::None,
                "required" => Self::Required,
                _ => return Err(fields.error("tool_choice", "must be auto, none, required or a function")),
            },
            Some(value) => {
                let mut outer = Fields::new(value, "tool_choice")?;
                outer.only("type", &[json!("function")])?;
                let mut function = Fields::new(outer.required("function")?, "tool_choice.function")?;
                outer.finish()?;
                let name = function.string("name")?.unwrap_or_default();
                function.finish()?;
                Self::Named(name)
            }
        };
        choice.check(tools)
    }

    /// Reads the choice in Anthropic's form.
    pub(super) fn anthropic(fields: &mut Fields, tools: &[Tool]) -> Result<Self, ApiError> {
        let Some(value) = fields.take("tool_choice") else { return Ok(Self::Auto) };
        let mut inner = Fields::new(value, "tool_choice")?;
        inner.ignore(&["disable_parallel_tool_use"]);
        let choice = match inner.string("type")?.as_deref() {
            Some("auto") => Self::Auto,
            Some("none") => Self::None,
            Some("any") => Self::Required,
            Some("tool") => Self::Named(inner.string("name")?.unwrap_or_default()),
            _ => return Err(inner.error("type", "must be auto, none, any or tool")),
        };
        inner.finish()?;
        choice.check(tools)
    }

    fn check(self, tools: &[Tool]) -> Result<Self, ApiError> {
        match &self {
            Self::Named(name) if !tools.iter().any(|tool| tool.name == *name) => {
                Err(ApiError::field("tool_choice", format_args!("there is no tool named {name:?}")))
            }
            Self::Required if tools.is_empty() => Err(ApiError::field("tool_choice", "there are no tools")),
            _ => Ok(self),
        }
    }

    /// Returns whether the reply must be a call.
    pub(super) fn is_required(&self) -> bool {
        matches!(self, Self::Required | Self::Named(_))
    }

    /// Returns the tools that the model may call.
    pub(super) fn allowed(&self, tools: &[Tool]) -> Vec<Tool> {
        match self {
            Self::None => Vec::new(),
            Self::Named(name) => tools.iter().filter(|tool| tool.name == *name).cloned().collect(),
            Self::Auto | Self::Required => tools.to_vec(),
        }
    }
}

/// How a family of models writes tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>` (Hermes, Qwen 2.5 and 3).
    Hermes,
    /// `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>` (Qwen3-Coder).
    QwenXml,
    /// `{"name": …, "parameters": …}` as the whole reply (Llama 3).
    Llama3,
    /// `[TOOL_CALLS][{"name": …, "arguments": …}]`, or `[TOOL_CALLS]NAME[ARGS]{…}` (Mistral).
    Mistral,
    /// Messages of the channel `commentary` to `functions.NAME` (harmony, gpt-oss).
    Harmony,
}

/// A parsed call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) name: String,
    /// The arguments: the text of a JSON object.
    pub(super) arguments: String,
}

impl ToolFormat {
    /// Returns the format of the models that a chat template is for.
    pub(super) fn of_template(source: &str) -> Self {
        let has = |text: &str| source.contains(text);
        if has("<|channel|>") && has("<|message|>") {
            Self::Harmony
        } else if has("<function=") {
            Self::QwenXml
        } else if has("[TOOL_CALLS]") {
            Self::Mistral
        } else if has("<tool_call>") {
            Self::Hermes
        } else if has("<|python_tag|>") || has("<|start_header_id|>") {
            Self::Llama3
        } else {
            Self::Hermes
        }
    }

    /// Returns what begins a call in a reply; `None` if a call is the whole reply, or a message of its own.
    pub(super) fn opening(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &["<tool_call>"],
            Self::QwenXml => &["<tool_call>", "<function="],
            Self::Mistral => &["[TOOL_CALLS]"],
            Self::Llama3 | Self::Harmony => &[],
        }
    }

    /// Returns what ends a call that began with `opening`.
    pub(super) fn closing(self, opening: &str) -> Option<&'static str> {
        match (self, opening) {
            (_, "<tool_call>") => Some("</tool_call>"),
            (Self::QwenXml, _) => Some("</function>"),
            _ => None,
        }
    }

    /// Parses the calls in a text between the opening and the closing. Returns `None` if it is not what the format says.
    pub(super) fn parse(self, text: &str, tools: &[Tool]) -> Option<Vec<Call>> {
        match self {
            Self::Hermes => Some(vec![json_call(text.trim(), "arguments", tools)?]),
            Self::QwenXml => match text.trim() {
                json if json.starts_with('{') => Some(vec![json_call(json, "arguments", tools)?]),
                xml => Some(vec![xml_call(xml, tools)?]),
            },
            Self::Llama3 => {
                let text = text.trim();
                let text = text.strip_prefix("<|python_tag|>").unwrap_or(text);
                let calls: Option<Vec<Call>> =
                    split_objects(text)?.into_iter().map(|object| json_call(object, "parameters", tools)).collect();
                calls.filter(|calls| !calls.is_empty())
            }
            Self::Mistral => match text.split_once("[ARGS]") {
                Some((name, arguments)) => Some(vec![call(name.trim(), arguments, tools)?]),
                None => match serde_json::from_str(text.trim()).ok()? {
                    Value::Array(list) if !list.is_empty() => {
                        list.into_iter().map(|value| value_call(value, "arguments", tools)).collect()
                    }
                    _ => None,
                },
            },
            Self::Harmony => None,
        }
    }
}

/// Returns a call of a known tool. Arguments must be a JSON object.
pub(super) fn call(name: &str, arguments: &str, tools: &[Tool]) -> Option<Call> {
    let value: Value = serde_json::from_str(arguments.trim()).ok()?;
    let known = tools.iter().any(|tool| tool.name == name);
    (known && value.is_object()).then(|| Call { name: name.to_owned(), arguments: arguments.trim().to_owned() })
}

fn json_call(text: &str, arguments: &str, tools: &[Tool]) -> Option<Call> {
    value_call(serde_json::from_str(text).ok()?, arguments, tools)
}

fn value_call(value: Value, arguments: &str, tools: &[Tool]) -> Option<Call> {
    let name = value.get("name")?.as_str()?;
    let other = if arguments == "arguments" { "parameters" } else { "arguments" };
    match value.get(arguments).or_else(|| value.get(other)) {
        None => call(name, "{}", tools),
        // Some models write them as the text of an object.
        Some(Value::String(text)) => call(name, text, tools),
        Some(object) => call(name, &object.to_string(), tools),
    }
}

/// Splits a text into the JSON objects that it consists of, with semicolons or space between them.
fn split_objects(text: &str) -> Option<Vec<&str>> {
    let (mut objects, mut rest) = (Vec::new(), text);
    loop {
        rest = rest.trim_start_matches([' ', '\n', '\t', ';']);
        if rest.is_empty() {
            return Some(objects);
        }
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        values.next()?.ok()?;
        let (object, after) = rest.split_at_checked(values.byte_offset())?;
        objects.push(object);
        rest = after;
    }
}

/// Parses `<function=NAME><parameter=KEY>VALUE</parameter></function>`. Values are typed by the tool's schema.
fn xml_call(text: &str, tools: &[Tool]) -> Option<Call> {
    let text = text.strip_prefix("<function=").unwrap_or(text);
    let (name, mut rest) = text.split_once('>')?;
    let tool = tools.iter().find(|tool| tool.name == name.trim())?;
    let mut arguments = Map::new();
    loop {
        rest = rest.trim_start();
        let Some(parameter) = rest.strip_prefix("<parameter=") else { break };
        let (key, after) = parameter.split_once('>')?;
        let (value, after) = after.split_once("</parameter>")?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        let schema = tool.parameters.get("properties").and_then(|properties| properties.get(key.trim()));
        arguments.insert(key.trim().to_owned(), typed(value, schema));
        rest = after;
    }
    let rest = rest.strip_prefix("</function>").unwrap_or(rest);
    rest.trim().is_empty().then(|| Call { name: tool.name.clone(), arguments: Value::Object(arguments).to_string() })
}

/// Returns a value written as text: of the schema's type if it parses, else a string.
fn typed(text: &str, schema: Option<&Value>) -> Value {
    let string = || Value::String(text.to_owned());
    match schema.and_then(|schema| schema.get("type")) {
        Some(Value::String(ty)) if ty == "string" => string(),
        None if schema.is_none() => string(),
        _ => serde_json::from_str(text.trim()).unwrap_or_else(|_| string()),
    }
}
