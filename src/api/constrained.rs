//! Constraints that begin in the course of a reply: after its reasoning, or with a tool call.

use std::sync::Arc;

use super::{
    ApiError,
    call_grammar::{CallGrammars, arguments},
    tools::{Tool, ToolFormat},
};
use crate::{
    engine::Constraint,
    grammar::{Grammar, GrammarCompiler},
    text::{Decoder, Tokenizer},
};

/// The last characters of a reply that are kept to find a marker.
const WATCHED: usize = 256;

/// The end of a reply's text, to find markers in.
struct Watch {
    tokenizer: Arc<Tokenizer>,
    decoder: Decoder,
    text: String,
}

impl Watch {
    fn new(tokenizer: &Arc<Tokenizer>) -> Self {
        Self { tokenizer: Arc::clone(tokenizer), decoder: Decoder::default(), text: String::new() }
    }

    /// Adds a token. Returns which of `marks` the text now ends with.
    fn ends_with(&mut self, token: u32, marks: &[&'static str]) -> Option<&'static str> {
        match self.tokenizer.hidden_name(token) {
            Some(name) => self.text.push_str(name),
            None => self.text.extend(self.decoder.push(&self.tokenizer, token).ok().flatten()),
        }
        let found = marks.iter().find(|mark| self.text.trim_end().ends_with(**mark)).copied();
        if self.text.len() > WATCHED {
            let mut at = self.text.len() - WATCHED;
            while !self.text.is_char_boundary(at) {
                at += 1;
            }
            self.text.drain(..at);
        }
        found
    }
}

/// A constraint of what follows the reasoning.
pub(super) struct AfterReasoning {
    watch: Watch,
    inner: Box<dyn Constraint>,
    begun: bool,
}

impl AfterReasoning {
    /// Returns a constraint that begins after `</think>`.
    pub(super) fn new(tokenizer: &Arc<Tokenizer>, inner: Box<dyn Constraint>) -> Self {
        Self { watch: Watch::new(tokenizer), inner, begun: false }
    }
}

impl Constraint for AfterReasoning {
    fn mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        if self.begun {
            return self.inner.mask(mask);
        }
        mask.fill(u32::MAX);
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        if self.begun {
            return self.inner.accept(token);
        }
        self.begun = self.watch.ends_with(token, &["</think>"]).is_some();
        Ok(())
    }
}

/// A constraint of tool calls: each is by the tool's schema, once it has begun. If one is required, the reply begins with it.
pub(super) struct ToolCalls {
    compiler: Arc<GrammarCompiler>,
    watch: Watch,
    calls: CallGrammars,
    state: State,
    /// The reply ends with a call.
    ends: bool,
    stops: Vec<u32>,
}

enum State {
    /// In the reasoning, after which the constraint begins.
    Reasoning(Box<dyn Constraint>),
    /// Anything, until a call begins.
    Free,
    Call(Box<dyn Constraint>),
}

impl ToolCalls {
    /// Returns a constraint for calls of `tools`.
    pub(super) fn new(
        compiler: &Arc<GrammarCompiler>,
        tokenizer: &Arc<Tokenizer>,
        format: ToolFormat,
        tools: &[Tool],
        required: bool,
        reasoning: bool,
    ) -> Result<Self, ApiError> {
        let calls = CallGrammars::new(tokenizer, format, tools)?;
        let compile = |text: String| {
            compiler
                .compile(&Grammar::Grammar(text))
                .map_err(|error| ApiError::field("tools", error).code("invalid_grammar"))
        };
        // A reply of Llama 3 is a call or a text as a whole.
        let whole = match (required, format) {
            (true, _) => Some(calls.required()),
            (false, ToolFormat::Llama3) => Some(calls.call_or_text()),
            (false, _) => None,
        };
        let state = match (whole, reasoning) {
            (Some(grammar), true) => State::Reasoning(compile(grammar)?),
            (Some(grammar), false) => State::Call(compile(grammar)?),
            (None, _) => {
                // An invalid schema is found before the first call.
                for opening in format.opening() {
                    compile(calls.after(opening))?;
                }
                if format == ToolFormat::Harmony {
                    tools.iter().try_for_each(|tool| compile(arguments(tool)).map(drop))?;
                }
                State::Free
            }
        };
        Ok(Self {
            compiler: Arc::clone(compiler),
            watch: Watch::new(tokenizer),
            ends: required || format == ToolFormat::Llama3,
            calls,
            state,
            stops: tokenizer.stop_ids().to_vec(),
        })
    }

    /// Adds a token of a text. Returns the grammar of the call that it begins, if it does.
    fn begun(&mut self, token: u32) -> Option<String> {
        let marks = match self.calls.format {
            ToolFormat::Harmony => &["<|message|>"],
            format => format.opening(),
        };
        let mark = self.watch.ends_with(token, marks)?;
        let text = std::mem::take(&mut self.watch.text);
        if self.calls.format != ToolFormat::Harmony {
            return Some(self.calls.after(mark));
        }
        // The header of a message says whom it is for.
        let (_, recipient) = text.rsplit_once("to=functions.")?;
        let name = recipient.split(|c: char| c.is_whitespace() || c == '<').next()?;
        self.calls.tools.iter().find(|tool| tool.name == name).map(arguments)
    }
}

impl Constraint for ToolCalls {
    fn mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        if let State::Call(inner) = &mut self.state {
            inner.mask(mask)?;
            let is_stop = |id: u32| self.stops.binary_search(&id).is_ok();
            let only_stops = (0u32..)
                .zip(mask.iter())
                .all(|(word, bits)| (0..32).filter(|bit| bits >> bit & 1 == 1).all(|bit| is_stop(32 * word + bit)));
            if !only_stops || self.ends {
                return Ok(());
            }
            // The call is complete.
            mask.fill(0);
            self.state = State::Free;
        }
        mask.fill(u32::MAX);
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        match std::mem::replace(&mut self.state, State::Free) {
            State::Call(mut inner) => {
                inner.accept(token)?;
                self.state = State::Call(inner);
            }
            State::Reasoning(inner) => {
                let ended = self.watch.ends_with(token, &["</think>"]).is_some();
                self.state = if ended { State::Call(inner) } else { State::Reasoning(inner) };
            }
            State::Free => {
                if let Some(grammar) = self.begun(token) {
                    let compiled = self.compiler.compile(&Grammar::Grammar(grammar));
                    self.state = State::Call(compiled.map_err(|error| error.to_string())?);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::{
            call_grammar::xml_rules,
            output::{OutputParser, Part},
        },
        *,
    };
    use crate::{gguf::Gguf, quant::Rng};

    const FORMATS: [ToolFormat; 5] =
        [ToolFormat::Hermes, ToolFormat::QwenXml, ToolFormat::Llama3, ToolFormat::Mistral, ToolFormat::Harmony];

    fn tokenizer() -> Arc<Tokenizer> {
        let gguf = Gguf::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-q4_k_m.gguf")).expect("the demo model");
        Arc::new(Tokenizer::from_gguf(&gguf).expect("a tokenizer"))
    }

    /// Returns tools with arguments that are short.
    fn tools() -> Vec<Tool> {
        let weather = json!({
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Bern", "Rome"]},
                "days": {"type": "integer", "minimum": 0, "maximum": 9},
                "sure": {"type": "boolean"},
                "note": {"type": "string", "maxLength": 6},
            },
            "required": ["city", "days"], "additionalProperties": false,
        });
        let now = json!({"type": "object", "properties": {}, "additionalProperties": false});
        let tool = |name: &str, parameters| Tool { name: name.to_owned(), description: None, parameters, strict: true };
        vec![tool("weather", weather), tool("now", now)]
    }

    fn follows_the_schema(name: &str, arguments: &str) -> bool {
        let Ok(Value::Object(map)) = serde_json::from_str::<Value>(arguments) else { return false };
        match name {
            "now" => map.is_empty(),
            "weather" => {
                map.get("city").is_some_and(|city| city == "Bern" || city == "Rome")
                    && map.get("days").and_then(Value::as_i64).is_some_and(|days| (0..=9).contains(&days))
                    && map.get("sure").is_none_or(Value::is_boolean)
                    && map.get("note").is_none_or(|note| note.as_str().is_some_and(|note| note.chars().count() <= 6))
                    && map.keys().all(|key| ["city", "days", "sure", "note"].contains(&key.as_str()))
            }
            _ => false,
        }
    }

    fn masked(constraint: &mut ToolCalls, vocab: u32) -> Vec<u32> {
        let mut mask = vec![0; vocab.div_ceil(32) as usize];
        constraint.mask(&mut mask).expect("a mask");
        (0..vocab).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect()
    }

    /// Parses a reply, whole and in parts.
    fn calls(format: ToolFormat, text: &str) -> (String, Vec<(String, String)>) {
        let mut all = [false, true].map(|streams| {
            let mut parser = OutputParser::new(format, tools(), false, false).stream_calls(streams);
            let (mut shown, mut calls) = (String::new(), Vec::new());
            for part in parser.push(text).into_iter().chain(parser.finish()) {
                match part {
                    Part::Text(more) | Part::Reasoning(more) => shown.push_str(&more),
                    Part::Call(call) => calls.push((call.name, call.arguments)),
                    Part::CallStart(name) => calls.push((name, String::new())),
                    Part::Arguments(more) => calls.last_mut().expect("a call").1.push_str(&more),
                }
            }
            (shown, calls)
        });
        let json = |calls: &[(String, String)]| -> Vec<(String, Value)> {
            calls.iter().map(|(name, text)| (name.clone(), serde_json::from_str(text).expect("JSON"))).collect()
        };
        assert_eq!(json(&all[0].1), json(&all[1].1), "{text}");
        std::mem::take(&mut all[0])
    }

    #[test]
    fn random_models_call_as_the_schemas_say() {
        let tokenizer = tokenizer();
        let compiler = Arc::new(GrammarCompiler::new(&tokenizer).expect("a compiler"));
        let vocab = tokenizer.vocab_size() as u32;
        let message = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>";
        let mut rng = Rng::new(7);
        for format in FORMATS {
            // A required call, and one that the model begins itself after some text.
            let begun = match format {
                ToolFormat::Hermes | ToolFormat::QwenXml => "Well. <tool_call>",
                ToolFormat::Mistral => "Well. [TOOL_CALLS]",
                ToolFormat::Llama3 => "{",
                ToolFormat::Harmony => message,
            };
            for (required, prefix) in [(true, ""), (false, begun), (true, ""), (false, begun)] {
                let mut constraint = ToolCalls::new(&compiler, &tokenizer, format, &tools(), required, false)
                    .unwrap_or_else(|error| panic!("{format:?}: {error}"));
                let mut decoder = tokenizer.decode_stream().show_control(true);
                let mut text = String::new();
                for token in tokenizer.encode(prefix, true).expect("tokens") {
                    assert!(masked(&mut constraint, vocab).contains(&token), "{format:?}: {prefix}");
                    constraint.accept(token).expect("an allowed token");
                    text.extend(decoder.push(token).expect("a token"));
                }
                for count in 0.. {
                    assert!(count < 400, "{format:?}: no end of {text}");
                    let allowed = masked(&mut constraint, vocab);
                    if allowed.len() as u32 >= vocab || allowed.iter().any(|id| tokenizer.stop_ids().contains(id)) {
                        break;
                    }
                    let token = allowed[rng.below(allowed.len() as u32) as usize];
                    constraint.accept(token).expect("an allowed token");
                    text.extend(decoder.push(token).expect("a token"));
                }
                text.extend(decoder.finish());
                let (_, calls) = calls(format, &text);
                assert!(!calls.is_empty(), "{format:?}: no call in {text}");
                for (name, arguments) in &calls {
                    assert!(follows_the_schema(name, arguments), "{format:?}: {name} {arguments} in {text}");
                }
            }
        }
    }

    #[test]
    fn recorded_calls_are_allowed_and_others_are_not() {
        let tokenizer = tokenizer();
        let compiler = Arc::new(GrammarCompiler::new(&tokenizer).expect("a compiler"));
        let vocab = tokenizer.vocab_size() as u32;
        let xml = |city: &str, days: &str| {
            format!(
                "Hi\n<tool_call>\n<function=weather>\n<parameter=city>\n{city}\n</parameter>\n<parameter=days>\n{days}\n</parameter>\n</function>\n</tool_call>"
            )
        };
        let json = |key: &str, days: &str| {
            format!("{{\"name\": \"weather\", \"{key}\": {{\"city\": \"Bern\", \"days\": {days}}}}}")
        };
        let harmony = |days: &str| {
            format!(
                "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{{\"city\": \"Bern\", \"days\": {days}}}"
            )
        };
        let cases = [
            (ToolFormat::QwenXml, xml("Bern", "3"), true),
            (ToolFormat::QwenXml, xml("Oslo", "3"), false),
            (ToolFormat::QwenXml, xml("Bern", "many"), false),
            (ToolFormat::Llama3, json("parameters", "3"), true),
            (ToolFormat::Llama3, format!("{}; {}", json("parameters", "3"), json("parameters", "4")), true),
            (ToolFormat::Llama3, json("parameters", "30"), false),
            (ToolFormat::Llama3, "It is warm.".to_owned(), true),
            (ToolFormat::Hermes, format!("Hi <tool_call>\n{}\n</tool_call>", json("arguments", "3")), true),
            (ToolFormat::Hermes, format!("Hi <tool_call>\n{}\n</tool_call>", json("arguments", "null")), false),
            (ToolFormat::Mistral, format!("[TOOL_CALLS][{}]", json("arguments", "3")), true),
            (ToolFormat::Mistral, format!("[TOOL_CALLS][{}]", json("arguments", "3.5")), false),
            (ToolFormat::Harmony, harmony("3"), true),
            (ToolFormat::Harmony, harmony("\"3\""), false),
        ];
        for (format, reply, wanted) in cases {
            let mut constraint =
                ToolCalls::new(&compiler, &tokenizer, format, &tools(), false, false).expect("a constraint");
            let fine = tokenizer
                .encode(&reply, true)
                .expect("tokens")
                .into_iter()
                .all(|token| masked(&mut constraint, vocab).contains(&token) && constraint.accept(token).is_ok());
            assert_eq!(fine, wanted, "{format:?}: {reply}");
        }
    }

    #[test]
    fn schemas_without_a_form_in_xml_are_refused_if_strict() {
        let tool = |parameters: Value, strict| [Tool { name: "x".to_owned(), description: None, parameters, strict }];
        let of = |property: Value| json!({"type": "object", "properties": {"a": property}, "required": ["a"]});
        let fine = [
            of(json!({"type": "string"})),
            of(json!({"type": ["string", "null"]})),
            of(json!({"$ref": "#/$defs/n"})),
            of(json!({"type": "array", "items": {"type": "string"}})),
            json!({}),
        ];
        for schema in fine {
            assert!(xml_rules(&tool(schema.clone(), true)).is_ok(), "{schema}");
        }
        for schema in [
            of(json!({"type": "string", "pattern": "a+"})),
            of(json!({"type": "string", "enum": ["a<b"]})),
            json!({"anyOf": []}),
            json!({"type": "object", "required": ["b"]}),
            json!({"type": "object", "properties": {"a>b": {}}}),
        ] {
            assert!(xml_rules(&tool(schema.clone(), true)).is_err(), "{schema}");
            assert!(xml_rules(&tool(schema.clone(), false)).is_ok(), "{schema}");
        }
    }
}
