//! The grammars of tool calls, in the form of each family of models.

use serde_json::{Value, json};

use super::{
    ApiError,
    tools::{Tool, ToolFormat},
};
use crate::{grammar::bounded_space, text::Tokenizer};

/// Returns the grammar of a tool's arguments.
pub(super) fn arguments(tool: &Tool) -> String {
    format!("start: json\njson: %json {}\n", bounded_space(tool.parameters.clone()))
}

/// The grammars of calls of some tools in Lark.
pub(super) struct CallGrammars {
    pub(super) format: ToolFormat,
    pub(super) tools: Vec<Tool>,
    /// The rules `call`, and those that it uses. In XML it follows `<function=`.
    rules: String,
    /// The terminals of control tokens, by their names.
    controls: Vec<(&'static str, String)>,
}

impl CallGrammars {
    pub(super) fn new(tokenizer: &Tokenizer, format: ToolFormat, tools: &[Tool]) -> Result<Self, ApiError> {
        const CONTROLS: [&str; 8] = [
            "<tool_call>",
            "</tool_call>",
            "[TOOL_CALLS]",
            "<|python_tag|>",
            "<|channel|>",
            "<|constrain|>",
            "<|message|>",
            "<|start|>",
        ];
        // A control token is no text.
        let terminal = |name: &str| match tokenizer.token_id(name) {
            Some(id) if tokenizer.hidden_name(id).is_some() => format!("<[{id}]>"),
            _ => json!(name).to_string(),
        };
        let controls = CONTROLS.map(|name| (name, terminal(name))).to_vec();
        let (tools, mut grammars) =
            (tools.to_vec(), Self { format, tools: Vec::new(), rules: String::new(), controls });
        grammars.rules = match format {
            ToolFormat::Hermes => format!("call: json\njson: %json {}\n", bounded_space(any("arguments", &tools))),
            ToolFormat::Llama3 => format!("call: json\njson: %json {}\n", bounded_space(any("parameters", &tools))),
            ToolFormat::Mistral => {
                let list = json!({"type": "array", "items": any("arguments", &tools), "minItems": 1});
                format!("call: json\njson: %json {}\n", bounded_space(list))
            }
            ToolFormat::QwenXml => xml_rules(&tools)?,
            ToolFormat::Harmony => {
                let (mut names, mut rules) = (Vec::new(), String::new());
                for (i, tool) in tools.iter().enumerate() {
                    let [channel, constrain, message] =
                        ["<|channel|>", "<|constrain|>", "<|message|>"].map(|name| grammars.control(name));
                    let to = json!(format!("commentary to=functions.{} ", tool.name));
                    let schema = bounded_space(tool.parameters.clone());
                    names.push(format!("call{i}"));
                    rules.push_str(&format!("call{i}: {channel} {to} {constrain} \"json\" {message} json{i}\n"));
                    rules.push_str(&format!("json{i}: %json {schema}\n"));
                }
                format!("call: {}\n{rules}", names.join(" | "))
            }
        };
        grammars.tools = tools;
        Ok(grammars)
    }

    fn control(&self, name: &str) -> &str {
        self.controls.iter().find(|(known, _)| *known == name).map_or("\"\"", |(_, terminal)| terminal)
    }

    /// Returns the grammar of a reply that is a call.
    pub(super) fn required(&self) -> String {
        let start = match self.format {
            ToolFormat::Hermes | ToolFormat::QwenXml => {
                format!("{} {}", self.control("<tool_call>"), self.tail("<tool_call>"))
            }
            ToolFormat::Mistral => format!("{} call", self.control("[TOOL_CALLS]")),
            ToolFormat::Llama3 | ToolFormat::Harmony => "call".to_owned(),
        };
        format!("start: {start}\n{}", self.rules)
    }

    /// Returns the grammar of a reply that is calls, or a text that does not begin as they do.
    pub(super) fn call_or_text(&self) -> String {
        let tag = self.control("<|python_tag|>");
        format!("start: {tag}? call (/;? ?\\n?/ call)* | text\ntext: /(?s:\\s*([^\\s\\{{<].*)?)/\n{}", self.rules)
    }

    /// Returns the grammar of what follows the opening of a call.
    pub(super) fn after(&self, opening: &str) -> String {
        format!("start: {}\n{}", self.tail(opening), self.rules)
    }

    fn tail(&self, opening: &str) -> String {
        let end = self.control("</tool_call>");
        match (self.format, opening) {
            (ToolFormat::QwenXml, "<function=") => "call".to_owned(),
            (ToolFormat::QwenXml, _) => format!("/\\n?/ \"<function=\" call /\\n?/ {end}"),
            (ToolFormat::Hermes, _) => format!("/\\n?/ call /\\n?/ {end}"),
            _ => "call".to_owned(),
        }
    }
}

/// Returns the schema of a call of one of `tools`, with its arguments in the field `key`.
fn any(key: &str, tools: &[Tool]) -> Value {
    let object = |tool: &Tool| -> Value {
        json!({
            "type": "object",
            "properties": {"name": {"const": tool.name}, key: tool.parameters},
            "required": ["name", key],
            "additionalProperties": false,
        })
    };
    match tools {
        [tool] => object(tool),
        tools => json!({"anyOf": tools.iter().map(object).collect::<Vec<_>>()}),
    }
}

/// Returns the rules of calls in XML behind `<function=`. A tool that is not strict, and whose schema has no form in XML, is
/// called with any text.
pub(super) fn xml_rules(tools: &[Tool]) -> Result<String, ApiError> {
    let (mut names, mut rules) = (Vec::new(), String::new());
    for (i, tool) in tools.iter().enumerate() {
        names.push(format!("f{i}"));
        match xml_function(i, tool) {
            Ok(text) => rules.push_str(&text),
            Err(problem) if tool.strict => {
                let problem = format!("is not supported with this model's XML and this schema: {problem}");
                return Err(ApiError::unsupported(format!("tools[{i}].strict"), problem));
            }
            Err(_) => {
                let name = json!(format!("{}>", tool.name));
                rules.push_str(&format!("f{i}: {name} f{i}r\nf{i}r[lazy]: /(?s:.*)<\\/function>/\n"));
            }
        }
    }
    Ok(format!("call: {}\n{rules}", names.join(" | ")))
}

/// Returns the rule of a call of a tool in XML: its parameters in the order of the schema.
fn xml_function(number: usize, tool: &Tool) -> Result<String, String> {
    const KNOWN: [&str; 9] = [
        "type",
        "properties",
        "required",
        "additionalProperties",
        "title",
        "description",
        "$defs",
        "definitions",
        "$schema",
    ];
    let schema = tool.parameters.as_object().ok_or("it is no object")?;
    if let Some(keyword) = schema.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return Err(format!("the keyword {keyword}"));
    }
    if schema.get("type").is_some_and(|ty| ty != "object") {
        return Err("it is not of type object".to_owned());
    }
    let empty = serde_json::Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    if let Some(name) = required.iter().find(|name| !properties.contains_key(**name)) {
        return Err(format!("the required property {name} is not described"));
    }
    let (mut parts, mut rules) = (String::new(), String::new());
    for (i, (key, property)) in properties.iter().enumerate() {
        if key.is_empty() || key.contains(['<', '>', '\n']) || key.trim() != key {
            return Err(format!("the property name {key:?}"));
        }
        let rule = format!("f{number}p{i}");
        parts.push_str(&format!(" {rule}{}", if required.contains(&key.as_str()) { "" } else { "?" }));
        let head = json!(format!("<parameter={key}>"));
        let value = xml_value(&rule, property, schema)?;
        rules.push_str(&format!("{rule}: {head} {value}"));
    }
    let name = json!(format!("{}>", tool.name));
    Ok(format!("f{number}: {name} /\\n?/{parts} \"</function>\"\n{rules}"))
}

/// Returns the rest of the rule of a parameter in XML, and further rules: strings are written as they are, other values as JSON.
fn xml_value(rule: &str, property: &Value, root: &serde_json::Map<String, Value>) -> Result<String, String> {
    const END: &str = "\"</parameter>\" /\\n?/";
    if property.get("type").is_none_or(|ty| ty != "string") {
        let mut schema = property.clone();
        if let Some(object) = schema.as_object_mut() {
            for name in ["$defs", "definitions"] {
                if let (Some(defs), false) = (root.get(name), object.contains_key(name)) {
                    object.insert(name.to_owned(), defs.clone());
                }
            }
        }
        return Ok(format!("/\\n?/ {rule}v /\\n?/ {END}\n{rule}v: %json {}\n", bounded_space(schema)));
    }
    let string = property.as_object().ok_or("a string")?;
    let known = ["type", "title", "description", "default", "examples", "enum", "const", "minLength", "maxLength"];
    if let Some(keyword) = string.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("the keyword {keyword} of a string"));
    }
    let values: Option<Vec<&Value>> = match (string.get("const"), string.get("enum").and_then(Value::as_array)) {
        (Some(value), _) => Some(vec![value]),
        (None, Some(values)) => Some(values.iter().collect()),
        (None, None) => None,
    };
    if let Some(values) = values {
        let is_plain = |value: &&Value| value.as_str().is_some_and(|text| !text.contains(['<', '\n']));
        if values.is_empty() || !values.iter().all(is_plain) {
            return Err("values of strings with < or line ends".to_owned());
        }
        let values: Vec<String> = values.iter().map(ToString::to_string).collect();
        return Ok(format!("/\\n?/ ({}) /\\n?/ {END}\n", values.join(" | ")));
    }
    let bound = |name: &str| string.get(name).and_then(Value::as_u64);
    match (bound("minLength"), bound("maxLength")) {
        // It ends at the first end of a parameter.
        (None | Some(0), None) => Ok(format!("\"\\n\" {rule}v /\\n?/\n{rule}v[lazy]: /(?s:.*)\\n<\\/parameter>/\n")),
        (least, most) => {
            let (least, most) = (least.unwrap_or(0), most.map_or(String::new(), |most| most.to_string()));
            Ok(format!("\"\\n\" {rule}v \"\\n\" {END}\n{rule}v: /[^<]{{{least},{most}}}/\n"))
        }
    }
}
