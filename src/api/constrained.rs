//! Constraints that begin in the course of a reply: after its reasoning, or with a tool call.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    ApiError,
    tools::{Tool, ToolFormat},
};
use crate::{
    engine::Constraint,
    grammar::{Grammar, GrammarCompiler, bounded_space},
    text::{Decoder, Tokenizer},
};

/// The last characters of a reply that are kept to find a marker.
const WATCHED: usize = 64;

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

    /// Adds a token. Returns whether the text now ends with one of `marks`, or a control token is one.
    fn ends_with(&mut self, token: u32, marks: &[&str]) -> bool {
        if let Some(name) = self.tokenizer.hidden_name(token) {
            return marks.contains(&name);
        }
        self.text.extend(self.decoder.push(&self.tokenizer, token).ok().flatten());
        let found = marks.iter().any(|mark| self.text.trim_end().ends_with(mark));
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
        self.begun = self.watch.ends_with(token, &["</think>"]);
        Ok(())
    }
}

/// A constraint of tool calls: each is by the tool's schema, once it has begun. If one is required, the reply begins with it.
pub(super) struct ToolCalls {
    compiler: Arc<GrammarCompiler>,
    watch: Watch,
    format: ToolFormat,
    /// The grammar of a call after its opening.
    grammar: String,
    state: State,
    required: bool,
    stops: Vec<u32>,
}

enum State {
    /// In the reasoning, after which a call is required.
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
        if let Some(at) = tools.iter().position(|tool| tool.strict)
            && (matches!(format, ToolFormat::QwenXml)
                || (!required && matches!(format, ToolFormat::Llama3 | ToolFormat::Harmony)))
        {
            return Err(ApiError::unsupported(
                format!("tools[{at}].strict"),
                "is not supported with the format in which this model writes calls",
            ));
        }
        let opening = match format {
            ToolFormat::Mistral => match tokenizer.token_id("[TOOL_CALLS]") {
                Some(id) if tokenizer.hidden_name(id).is_some() => format!("<[{id}]>"),
                _ => "\"[TOOL_CALLS]\"".to_owned(),
            },
            ToolFormat::Hermes | ToolFormat::QwenXml => "\"<tool_call>\"".to_owned(),
            ToolFormat::Llama3 | ToolFormat::Harmony => "\"\"".to_owned(),
        };
        let body = call_grammar(format, tools);
        let grammar = format!("start: {body}");
        let compile = |text: String| {
            compiler
                .compile(&Grammar::Grammar(text))
                .map_err(|error| ApiError::field("tools", error).code("invalid_grammar"))
        };
        let begin = if opening == "\"\"" { grammar.clone() } else { format!("start: {opening} {body}") };
        let state = match (required, reasoning) {
            (true, true) => State::Reasoning(compile(begin)?),
            (true, false) => State::Call(compile(begin)?),
            (false, _) => {
                // An invalid schema is found before the first call.
                compile(grammar.clone())?;
                State::Free
            }
        };
        let stops = tokenizer.stop_ids().to_vec();
        Ok(Self {
            compiler: Arc::clone(compiler),
            watch: Watch::new(tokenizer),
            format,
            grammar,
            state,
            required,
            stops,
        })
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
            if !only_stops {
                return Ok(());
            }
            // The call is complete. A required one is the whole reply.
            if self.required {
                return Ok(());
            }
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
                let ended = self.watch.ends_with(token, &["</think>"]);
                self.state = if ended { State::Call(inner) } else { State::Reasoning(inner) };
            }
            State::Free => {
                let opening = self.format.opening();
                if !opening.is_empty() && self.watch.ends_with(token, opening) {
                    self.watch.text.clear();
                    let compiled = self.compiler.compile(&Grammar::Grammar(self.grammar.clone()));
                    self.state = State::Call(compiled.map_err(|error| error.to_string())?);
                }
            }
        }
        Ok(())
    }
}

/// Returns the Lark expression of a call behind its opening.
fn call_grammar(format: ToolFormat, tools: &[Tool]) -> String {
    let object = |arguments: &str, tool: &Tool| -> Value {
        json!({
            "type": "object",
            "properties": {"name": {"const": tool.name}, arguments: tool.parameters},
            "required": ["name", arguments],
            "additionalProperties": false,
        })
    };
    let any = |arguments: &str| match tools {
        [tool] => object(arguments, tool),
        tools => json!({"anyOf": tools.iter().map(|tool| object(arguments, tool)).collect::<Vec<_>>()}),
    };
    match format {
        ToolFormat::Hermes => {
            format!("/\\n?/ json /\\n?/ \"</tool_call>\"\njson: %json {}\n", bounded_space(any("arguments")))
        }
        ToolFormat::QwenXml => {
            let names: Vec<String> = tools.iter().map(|tool| json!(tool.name).to_string()).collect();
            format!(
                "/\\n?/ \"<function=\" name \">\" rest\nname: {}\nrest[lazy]: /(?s:.*)<\\/function>\\s*<\\/tool_call>/\n",
                names.join(" | ")
            )
        }
        ToolFormat::Llama3 => format!("json\njson: %json {}\n", bounded_space(any("parameters"))),
        ToolFormat::Mistral => {
            let list = bounded_space(json!({"type": "array", "items": any("arguments"), "minItems": 1}));
            format!("json\njson: %json {list}\n")
        }
        ToolFormat::Harmony => {
            let calls = tools.iter().enumerate().map(|(i, tool)| {
                let head =
                    json!(format!("<|channel|>commentary to=functions.{} <|constrain|>json<|message|>", tool.name));
                (
                    format!("call{i}"),
                    format!("call{i}: {head} json{i}\njson{i}: %json {}\n", bounded_space(tool.parameters.clone())),
                )
            });
            let (names, rules): (Vec<_>, Vec<_>) = calls.unzip();
            format!("call\ncall: {}\n{}", names.join(" | "), rules.concat())
        }
    }
}
