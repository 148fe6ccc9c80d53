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
}

/// Finds the parts of a reply. Text that may be a marker is held back until that is decided.
#[derive(Clone, Debug)]
pub(super) struct OutputParser {
    tools: Vec<Tool>,
    format: ToolFormat,
    state: State,
    held: String,
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
/// What ends a message of harmony.
const MESSAGE_ENDS: [&str; 5] = ["<|end|>", "<|return|>", "<|call|>", "<|start|>", "<|channel|>"];

impl OutputParser {
    /// Returns a parser of nothing: all is text.
    pub(super) fn plain() -> Self {
        Self { tools: Vec::new(), format: ToolFormat::Hermes, state: State::Plain, held: String::new() }
    }

    /// Returns a parser of replies in a format. With `reasoning`, the template knows reasoning; with `opened`, the prompt has
    /// begun it.
    pub(super) fn new(format: ToolFormat, tools: Vec<Tool>, reasoning: bool, opened: bool) -> Self {
        let state = match format {
            ToolFormat::Harmony => State::Header,
            _ if opened => State::Reasoning,
            _ => State::Start { reasoning },
        };
        Self { tools, format, state, held: String::new() }
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
            State::Header => {}
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
            State::WholeCall => false,
            State::Call { opening } => {
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
        }
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
        Part::Text(text) | Part::Reasoning(text) if text.is_empty() => {}
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
        let mut parser = OutputParser::new(format, tools(), true, opened);
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
