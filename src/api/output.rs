//! The parts of a reply: reasoning, text and tool calls, found in the text as it comes.

use super::tools::{Call, Tool, ToolFormat, call};

/// A part of a reply.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    /// Text for the user.
    Text(String),
    /// The model's reasoning.
    Reasoning(String),
    /// A tool call.
    Call(Call),
    /// A call of this tool begins. Its arguments follow in parts.
    CallStart(String),
    /// More of the arguments of the call that has begun.
    Arguments(String),
}

/// Finds the parts of a reply. Text that may be a marker is held back until that is decided.
#[derive(Clone, Debug)]
pub(super) struct OutputParser {
    tools: Vec<Tool>,
    format: ToolFormat,
    state: State,
    held: String,
    /// Arguments are given in parts.
    streams_calls: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    /// Before the first text: reasoning, or a reply that is a call, may begin.
    Start {
        reasoning: bool,
    },
    Reasoning,
    Text,
    /// In a call that began with a marker.
    Call {
        opening: &'static str,
    },
    /// The whole reply may be a call.
    WholeCall,
    /// Text goes through as it is.
    Plain,
    /// In the header of a harmony message.
    Header,
    /// In a harmony message.
    Message(Channel),
    /// In the arguments of a call that is given in parts.
    Arguments(ObjectScan),
    /// Behind them.
    AfterArguments,
}

/// A scan of the text of a JSON object for its end.
#[derive(Clone, Debug, Default, PartialEq)]
struct ObjectScan {
    depth: u32,
    in_string: bool,
    escaped: bool,
}

impl ObjectScan {
    /// Returns where the object ends in the next piece of its text.
    fn end(&mut self, piece: &str) -> Option<usize> {
        for (at, c) in piece.char_indices() {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' if self.in_string => self.escaped = true,
                '"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                '{' | '[' => self.depth += 1,
                '}' | ']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Channel {
    Analysis,
    Final,
    /// A call of this tool.
    Call(String),
}

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";
/// What Llama 3 writes before calls of built-in tools.
const PYTHON_TAG: &str = "<|python_tag|>";
/// What ends a call of Hermes.
const TOOL_CALL_END: &str = "</tool_call>";
/// What ends a message of harmony.
const MESSAGE_ENDS: [&str; 5] = ["<|end|>", "<|return|>", "<|call|>", "<|start|>", "<|channel|>"];

impl OutputParser {
    /// Returns a parser of nothing: all is text.
    pub(super) fn plain() -> Self {
        let (tools, format, state) = (Vec::new(), ToolFormat::Hermes, State::Plain);
        Self { tools, format, state, held: String::new(), streams_calls: false }
    }

    /// Returns a parser of replies in a format. With `reasoning`, the template knows reasoning; with `opened`, the prompt has
    /// begun it.
    pub(super) fn new(format: ToolFormat, tools: Vec<Tool>, reasoning: bool, opened: bool) -> Self {
        let state = match format {
            ToolFormat::Harmony => State::Header,
            _ if opened => State::Reasoning,
            _ => State::Start { reasoning },
        };
        Self { tools, format, state, held: String::new(), streams_calls: false }
    }

    /// Gives arguments of calls in JSON in parts, as they come. What does not parse cannot become text then: a constraint must
    /// exclude it.
    #[must_use]
    pub(super) fn stream_calls(mut self, streams: bool) -> Self {
        self.streams_calls = streams;
        self
    }

    /// Returns whether a call has begun that is given in parts, and its arguments are not complete.
    pub(super) fn is_in_arguments(&self) -> bool {
        matches!(self.state, State::Arguments(_))
    }

    /// Returns whether the reply is in its reasoning.
    pub(super) fn is_reasoning(&self) -> bool {
        matches!(self.state, State::Reasoning | State::Message(Channel::Analysis))
    }

    /// Adds text. Returns the parts that are certain.
    pub(super) fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.advance(&mut parts) {}
        parts
    }

    /// Adds the name of a control token that is not shown.
    pub(super) fn push_control(&mut self, name: &str) -> Vec<Part> {
        let marks = match self.format {
            ToolFormat::Mistral => matches!(name, "[TOOL_CALLS]" | "[ARGS]"),
            ToolFormat::Llama3 => name == PYTHON_TAG,
            ToolFormat::Hermes | ToolFormat::QwenXml => matches!(name, "<tool_call>" | "</tool_call>"),
            ToolFormat::Harmony => true,
        } || matches!(name, OPEN | CLOSE);
        if marks && self.state != State::Plain { self.push(name) } else { Vec::new() }
    }

    /// Ends the reply. Returns the parts held back. A call that is not complete is text.
    pub(super) fn finish(&mut self) -> Vec<Part> {
        let held = std::mem::take(&mut self.held);
        let mut parts = Vec::new();
        match std::mem::replace(&mut self.state, State::Plain) {
            State::Reasoning | State::Message(Channel::Analysis) => push(&mut parts, Part::Reasoning(held)),
            State::WholeCall => match ToolFormat::Llama3.parse(&held, &self.tools) {
                Some(calls) => parts.extend(calls.into_iter().map(Part::Call)),
                None => push(&mut parts, Part::Text(held)),
            },
            State::Call { opening } => self.end_call(opening, &held, "", &mut parts),
            State::Message(Channel::Call(name)) => match call(&name, &held, &self.tools) {
                Some(call) => parts.push(Part::Call(call)),
                None => push(&mut parts, Part::Text(held)),
            },
            State::Header | State::AfterArguments => {}
            State::Arguments(_) => push(&mut parts, Part::Arguments(held)),
            State::Start { .. } | State::Text | State::Plain | State::Message(Channel::Final) => {
                push(&mut parts, Part::Text(held));
            }
        }
        parts
    }

    /// Parses what is held. Returns whether there may be more to parse.
    fn advance(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.state.clone() {
            State::Plain => {
                push(parts, Part::Text(std::mem::take(&mut self.held)));
                false
            }
            State::Start { reasoning } => {
                let begun = self.held.trim_start();
                if begun.is_empty() || (reasoning && OPEN.starts_with(begun) && begun.len() < OPEN.len()) {
                    return false;
                }
                let calls = self.format == ToolFormat::Llama3 && !self.tools.is_empty();
                if calls && PYTHON_TAG.starts_with(begun) && begun.len() < PYTHON_TAG.len() {
                    return false;
                }
                if let Some(rest) = begun.strip_prefix(OPEN).filter(|_| reasoning) {
                    self.held = rest.to_owned();
                    self.state = State::Reasoning;
                } else if calls && (begun.starts_with('{') || begun.starts_with(PYTHON_TAG)) {
                    self.state = State::WholeCall;
                } else {
                    self.state = State::Text;
                }
                true
            }
            State::Reasoning => self.until(&[CLOSE], parts, Part::Reasoning, |this, _| {
                this.held = this.held.trim_start().to_owned();
                // Space after the reasoning may come later.
                this.state = State::Start { reasoning: false };
            }),
            State::Text if self.tools.is_empty() => {
                push(parts, Part::Text(std::mem::take(&mut self.held)));
                false
            }
            State::Text => self.until(self.format.opening(), parts, Part::Text, |this, opening| {
                this.state = State::Call { opening };
            }),
            State::WholeCall => self.begin_arguments("parameters", parts),
            State::Call { opening } => {
                if self.format != ToolFormat::QwenXml && self.begin_arguments("arguments", parts) {
                    return true;
                }
                let Some(closing) = self.format.closing(opening) else { return false };
                let Some((inside, after)) = self.held.split_once(closing) else { return false };
                let (inside, after) = (inside.to_owned(), after.to_owned());
                self.end_call(opening, &inside, closing, parts);
                self.state = State::Text;
                self.held = match parts.last() {
                    // Space between calls is no text.
                    Some(Part::Call(_)) if after.trim().is_empty() => String::new(),
                    _ => after,
                };
                true
            }
            State::Header => {
                let Some((header, after)) = self.held.split_once("<|message|>") else { return false };
                self.state = State::Message(channel(header));
                self.held = after.to_owned();
                true
            }
            State::Message(Channel::Call(name))
                if self.streams_calls && self.tools.iter().any(|tool| tool.name == name) =>
            {
                parts.push(Part::CallStart(name));
                self.state = State::Arguments(ObjectScan::default());
                true
            }
            State::Message(Channel::Call(name)) => {
                let end = MESSAGE_ENDS.iter().filter_map(|end| Some((self.held.find(end)?, *end))).min();
                let Some((at, end)) = end else { return false };
                let (inside, after) = (self.held[..at].to_owned(), self.held[at + end.len()..].to_owned());
                match call(&name, &inside, &self.tools) {
                    Some(call) => parts.push(Part::Call(call)),
                    None => push(parts, Part::Text(inside)),
                }
                (self.state, self.held) = (State::Header, after);
                true
            }
            State::Message(channel) => {
                let part = if channel == Channel::Final { Part::Text } else { Part::Reasoning };
                self.until(&MESSAGE_ENDS, parts, part, |this, _| this.state = State::Header)
            }
            State::Arguments(mut scan) => {
                let end = scan.end(&self.held);
                let rest = self.held.split_off(end.unwrap_or(self.held.len()));
                push(parts, Part::Arguments(std::mem::replace(&mut self.held, rest)));
                self.state = if end.is_some() { State::AfterArguments } else { State::Arguments(scan) };
                end.is_some()
            }
            State::AfterArguments => self.end_arguments(),
        }
    }

    /// Begins the arguments of a call in JSON, the field `key`, once its name and their beginning are there. Returns whether they
    /// began.
    fn begin_arguments(&mut self, key: &str, parts: &mut Vec<Part>) -> bool {
        let Some((name, at)) = call_header(&self.held, key).filter(|_| self.streams_calls) else { return false };
        if !self.tools.iter().any(|tool| tool.name == name) {
            return false;
        }
        parts.push(Part::CallStart(name));
        self.held.drain(..at);
        self.state = State::Arguments(ObjectScan::default());
        true
    }

    /// Parses what follows the arguments of a call. Returns whether there may be more to parse.
    fn end_arguments(&mut self) -> bool {
        let (at, state) = match self.format {
            ToolFormat::Hermes | ToolFormat::QwenXml => {
                let Some(at) = self.held.find(TOOL_CALL_END) else { return false };
                (at + TOOL_CALL_END.len(), State::Text)
            }
            ToolFormat::Harmony => {
                let end = MESSAGE_ENDS.iter().filter_map(|end| Some(self.held.find(end)? + end.len())).min();
                let Some(at) = end else { return false };
                (at, State::Header)
            }
            ToolFormat::Llama3 | ToolFormat::Mistral => {
                let between = |c: char| c.is_whitespace() || "},;]".contains(c);
                let rest = self.held.trim_start_matches(between);
                let state = match (rest.chars().next(), self.format) {
                    (None, _) => return false,
                    (Some('{'), ToolFormat::Llama3) => State::WholeCall,
                    (Some('{'), _) => State::Call { opening: "[TOOL_CALLS]" },
                    _ => State::Text,
                };
                (self.held.len() - rest.len(), state)
            }
        };
        self.held.drain(..at);
        if self.held.trim().is_empty() {
            // Space between calls is no text.
            self.held.clear();
        }
        self.state = state;
        true
    }

    /// Adds the text before the first of `marks` as a part, and all of it that can be no beginning of one. `found` takes the
    /// mark, after it was removed. Returns whether there was one.
    fn until(
        &mut self,
        marks: &'static [&'static str],
        parts: &mut Vec<Part>,
        part: fn(String) -> Part,
        found: impl FnOnce(&mut Self, &'static str),
    ) -> bool {
        if let Some((at, mark)) = marks.iter().filter_map(|mark| Some((self.held.find(mark)?, *mark))).min() {
            push(parts, part(self.held[..at].to_owned()));
            self.held = self.held[at + mark.len()..].to_owned();
            found(self, mark);
            return true;
        }
        let mut starts = self.held.char_indices().map(|(at, _)| at);
        let held = starts.find(|at| marks.iter().any(|mark| mark.starts_with(&self.held[*at..])));
        let rest = self.held.split_off(held.unwrap_or(self.held.len()));
        push(parts, part(std::mem::replace(&mut self.held, rest)));
        false
    }

    fn end_call(&self, opening: &str, inside: &str, closing: &str, parts: &mut Vec<Part>) {
        // `<function=` is a part of what is parsed.
        let text = if opening == "<function=" { format!("{opening}{inside}{closing}") } else { inside.to_owned() };
        match self.format.parse(&text, &self.tools) {
            Some(calls) => parts.extend(calls.into_iter().map(Part::Call)),
            None => push(parts, Part::Text(format!("{opening}{inside}{closing}"))),
        }
    }
}

/// Returns the name in a call that begins with `{"name": NAME, KEY: {`, and where the object behind `key` begins.
fn call_header(text: &str, key: &str) -> Option<(String, usize)> {
    let rest = text.trim_start_matches(|c: char| c.is_whitespace() || "[,;".contains(c));
    let rest = rest.strip_prefix(PYTHON_TAG).unwrap_or(rest).trim_start();
    let rest = rest.strip_prefix('{')?.trim_start().strip_prefix("\"name\"")?.trim_start();
    let (name, rest) = rest.strip_prefix(':')?.trim_start().strip_prefix('"')?.split_once('"')?;
    let rest = rest.trim_start().strip_prefix(',')?.trim_start().strip_prefix('"')?.strip_prefix(key)?;
    let rest = rest.strip_prefix('"')?.trim_start().strip_prefix(':')?.trim_start();
    rest.starts_with('{').then(|| (name.to_owned(), text.len() - rest.len()))
}

/// Returns what a harmony message is for: its header is `<|channel|>CHANNEL to=functions.NAME <|constrain|>json`.
fn channel(header: &str) -> Channel {
    if let Some((_, recipient)) = header.split_once("to=functions.") {
        let end = recipient.find(|c: char| c.is_whitespace() || c == '<').unwrap_or(recipient.len());
        return Channel::Call(recipient[..end].to_owned());
    }
    if header.contains("analysis") { Channel::Analysis } else { Channel::Final }
}

/// Adds a part, unless it is empty.
fn push(parts: &mut Vec<Part>, part: Part) {
    match part {
        Part::Text(text) | Part::Reasoning(text) | Part::Arguments(text) if text.is_empty() => {}
        part => parts.push(part),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tools() -> Vec<Tool> {
        let properties = json!({"city": {"type": "string"}, "days": {"type": "integer"}});
        let parameters = json!({"type": "object", "properties": properties});
        vec![Tool { name: "weather".to_owned(), description: None, parameters, strict: false }]
    }

    /// Returns text, reasoning and calls of a reply cut into pieces of `size` bytes at most.
    fn parse(format: ToolFormat, reply: &str, opened: bool, size: usize) -> (String, String, Vec<(String, String)>) {
        parse_by(OutputParser::new(format, tools(), true, opened), reply, size)
    }

    fn parse_by(mut parser: OutputParser, reply: &str, size: usize) -> (String, String, Vec<(String, String)>) {
        let characters: Vec<char> = reply.chars().collect();
        let mut parts: Vec<Part> =
            characters.chunks(size).flat_map(|piece| parser.push(&piece.iter().collect::<String>())).collect();
        parts.extend(parser.finish());
        let (mut text, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
        for part in parts {
            match part {
                Part::Text(more) => text.push_str(&more),
                Part::Reasoning(more) => reasoning.push_str(&more),
                Part::Call(Call { name, arguments }) => calls.push((name, arguments)),
                Part::CallStart(name) => calls.push((name, String::new())),
                Part::Arguments(more) => calls.last_mut().expect("a call").1.push_str(&more),
            }
        }
        (text, reasoning, calls)
    }

    fn check(format: ToolFormat, reply: &str, opened: bool, (text, reasoning): (&str, &str), arguments: &[&str]) {
        for size in [1, 2, 3, 7, 1000] {
            let (found, thought, calls) = parse(format, reply, opened, size);
            assert_eq!((found.trim(), thought.trim()), (text, reasoning), "{reply} by {size}");
            let calls: Vec<_> = calls.iter().map(|(name, arguments)| (name.as_str(), arguments.as_str())).collect();
            let wanted: Vec<_> = arguments.iter().map(|arguments| ("weather", *arguments)).collect();
            assert_eq!(calls, wanted, "{reply} by {size}");
        }
    }

    #[test]
    fn calls_of_each_family_are_found() {
        use ToolFormat::*;
        let one = [r#"{"city":"Bern"}"#];
        let hermes = "<think>Hm.</think>\n\nI look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern\"}}\n</tool_call>";
        check(Hermes, hermes, false, ("I look.", "Hm."), &one);
        let two = "<tool_call>{\"name\":\"weather\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"weather\",\"arguments\":\"{\\\"city\\\": 1}\"}</tool_call>";
        check(Hermes, two, false, ("", ""), &["{}", r#"{"city": 1}"#]);
        let xml = "<tool_call>\n<function=weather>\n<parameter=city>\nBern\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>";
        check(QwenXml, xml, false, ("", ""), &[r#"{"city":"Bern","days":3}"#]);
        check(
            QwenXml,
            "<function=weather><parameter=city>7</parameter></function>",
            false,
            ("", ""),
            &[r#"{"city":"7"}"#],
        );
        check(Llama3, r#"{"name": "weather", "parameters": {"city": "Bern"}}"#, false, ("", ""), &one);
        check(
            Llama3,
            r#"<|python_tag|>{"name": "weather", "parameters": {"city": "Bern"}}; {"name":"weather","parameters":{}}"#,
            false,
            ("", ""),
            &[one[0], "{}"],
        );
        check(
            Mistral,
            r#"Well. [TOOL_CALLS][{"name": "weather", "arguments": {"city": "Bern"}}]"#,
            false,
            ("Well.", ""),
            &one,
        );
        check(Mistral, r#"[TOOL_CALLS]weather[ARGS]{"city":"Bern"}"#, false, ("", ""), &one);
        let harmony = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"city\":\"Bern\"}";
        check(Harmony, harmony, false, ("", "Hm."), &one);
        check(
            Harmony,
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi",
            false,
            ("Hi", "Hm."),
            &[],
        );
        check(Hermes, "Hm.</think>\n\nHi", true, ("Hi", "Hm."), &[]);
    }

    #[test]
    fn arguments_are_given_in_parts() {
        use ToolFormat::*;
        let object = r#"{"city": "B}e\"rn", "days": [1, {"x": 2}]}"#;
        let call = |key: &str| format!("{{\"name\": \"weather\", \"{key}\": {object}}}");
        let (arguments, parameters) = (call("arguments"), call("parameters"));
        let message = "<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>";
        for (format, reply, calls) in [
            (Hermes, format!("Hi\n<tool_call>\n{arguments}\n</tool_call>\n<tool_call>{arguments}</tool_call>"), 2),
            (Mistral, format!("Hi [TOOL_CALLS][{arguments}, {arguments}]"), 2),
            (Llama3, format!("<|python_tag|>{parameters}; {parameters}"), 2),
            (Llama3, parameters.clone(), 1),
            (Harmony, format!("<|channel|>final<|message|>Hi<|end|>{message}{object}<|call|>"), 1),
        ] {
            for size in [1, 2, 3, 7, 1000] {
                let parser = OutputParser::new(format, tools(), true, false).stream_calls(true);
                let (text, _, found) = parse_by(parser, &reply, size);
                let wanted = vec![("weather".to_owned(), object.to_owned()); calls];
                assert_eq!(
                    (text.trim(), found),
                    (if format == Llama3 { "" } else { "Hi" }, wanted),
                    "{reply} by {size}"
                );
            }
        }
        // They come before the call is complete, and what is no call of a tool is text.
        let mut parser = OutputParser::new(Hermes, tools(), true, false).stream_calls(true);
        let begun = parser.push("<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Be");
        assert_eq!(begun, [Part::CallStart("weather".to_owned()), Part::Arguments("{\"city\": \"Be".to_owned())]);
        assert!(parser.is_in_arguments());
        let unknown = "<tool_call>{\"name\": \"x\", \"arguments\": {}}</tool_call>";
        let parser = OutputParser::new(Hermes, tools(), true, false).stream_calls(true);
        assert_eq!(parse_by(parser, unknown, 3), (unknown.to_owned(), String::new(), vec![]));
    }

    #[test]
    fn what_does_not_parse_is_text() {
        use ToolFormat::*;
        for (format, reply) in [
            (Hermes, "<tool_call>{\"name\": \"weather\", \"arguments\": {</tool_call> and so on"),
            (Hermes, "<tool_call>{\"name\": \"unknown\", \"arguments\": {}}</tool_call>"),
            (Hermes, "<tool_call>{\"name\": \"weather\", \"argum"),
            (Hermes, "a < b <tool"),
            (QwenXml, "<tool_call><function=weather><parameter=city>Bern</function></tool_call>"),
            (Llama3, "{\"name\": \"weather\", \"parameters\": 3}"),
            (Llama3, "{not json"),
            (Mistral, "[TOOL_CALLS][]"),
            (Mistral, "[TOOL_CALLS]unknown[ARGS]{}"),
        ] {
            check(format, reply, false, (reply, ""), &[]);
        }
    }

    #[test]
    fn templates_name_their_format() {
        let of = ToolFormat::of_template;
        assert_eq!(of(include_str!("../text/testdata/qwen3.jinja")), ToolFormat::Hermes);
        assert_eq!(of(include_str!("../text/testdata/llama31.jinja")), ToolFormat::Llama3);
    }
}
