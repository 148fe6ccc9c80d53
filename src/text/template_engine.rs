//! The Jinja engine, configured as chat templates expect and sandboxed: templates come from untrusted files.

use std::collections::BTreeMap;
use std::time::SystemTime;

use minijinja::machinery::{CodeGenerator, Instructions, eval, make_string_output, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ObjectRepr, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, escape_formatter};

use super::checked_syntax::{self, CONCATENATED, ELEMENT, ITERATED, ITERATOR_TO_JSON, OPERAND, SUM};
use super::date::strftime;
use super::error::TextError;
use super::to_json;

/// A time, and the offset of the local time from UTC in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalTime {
    pub(super) utc: SystemTime,
    pub(super) offset: i32,
}

/// Escapes text for HTML with the character references of Python's markupsafe. The result is not escaped again.
fn escape(value: Value) -> Value {
    if value.is_safe() {
        return value;
    }
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
    Value::from_safe_string(escaped)
}

/// Returns `left + right`. Text that is not safe is escaped if the other side is safe, as by `Markup` of Python's markupsafe.
fn sum(state: &mut State, left: Value, right: Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        state.consume_fuel((a.len() as u64 + b.len() as u64) / BYTES_PER_FUEL)?;
        return Ok(match (left.is_safe(), right.is_safe()) {
            (false, false) => Value::from([a, b].concat()),
            (true, true) => Value::from_safe_string([a, b].concat()),
            (true, false) => Value::from_safe_string(format!("{a}{}", escape(right))),
            (false, true) => Value::from_safe_string(format!("{}{b}", escape(left))),
        });
    }
    // The engine's `sum` adds as its operator does, but takes a missing start for 0 and leaves out undefined values.
    if [&left, &right].iter().any(|side| side.is_none() || side.is_undefined()) {
        let message = format!("cannot add {} and {}", left.kind(), right.kind());
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    state.apply_filter("sum", &[Value::from(vec![right]), Value::from(Kwargs::from_iter([("start", left)]))])
}

/// A template and the limits it runs under.
pub(super) struct Run<'a> {
    /// The template's source.
    pub(super) source: &'a str,
    /// The time of `strftime_now`; without it the function is undefined.
    pub(super) now: Option<LocalTime>,
    /// The work limit: one unit is one instruction or 64 bytes of data created.
    pub(super) fuel: u64,
}

impl Run<'_> {
    /// Compiles the template without running it.
    pub(super) fn check(&self) -> Result<(), TextError> {
        self.on_own_stack(|| compile(&self.known_tags()).map(drop))
    }

    /// Renders the template with `variables`.
    pub(super) fn render(&self, variables: Vec<(&str, Value)>) -> Result<String, TextError> {
        self.on_own_stack(|| {
            let source = self.known_tags();
            let (instructions, blocks) = compile(&source)?;
            let environment = self.environment();
            let mut text = String::new();
            let mut output = make_string_output(&mut text);
            eval(&environment, &instructions, Value::from_pairs(variables), &blocks, &mut output, AutoEscape::None)?;
            Ok(text)
        })
    }

    /// Returns the source with tags that the engine knows. Hugging Face's block `generation` marks what a model is
    /// trained on; here it only has a scope, as the block `with`.
    fn known_tags(&self) -> String {
        let mut known = String::with_capacity(self.source.len());
        let mut rest = self.source;
        while let Some((start, open)) = ["{{", "{%", "{#"].iter().filter_map(|tag| Some((rest.find(tag)?, *tag))).min()
        {
            let (text, tag) = rest.split_at(start);
            let len = tag_len(tag, open);
            let (tag, after) = tag.split_at(len);
            known.push_str(text);
            let inner = tag.trim_start_matches(['{', '%', '-', '+']).trim_end_matches(['}', '%', '-', '+']).trim();
            match inner {
                "generation" if open == "{%" => known.push_str(&tag.replace("generation", "with")),
                "endgeneration" if open == "{%" => known.push_str(&tag.replace("endgeneration", "endwith")),
                _ => known.push_str(tag),
            }
            rest = after;
            if inner == "raw" && open == "{%" {
                let end = rest.find("endraw").unwrap_or(rest.len());
                known.push_str(rest.get(..end).unwrap_or_default());
                rest = rest.get(end..).unwrap_or_default();
            }
        }
        known.push_str(rest);
        known
    }

    /// Runs `work` on a thread with a large enough stack.
    ///
    /// The engine is recursive: it compiles nested expressions, and prints and drops nested values, on the call stack.
    /// The template's length and fuel bound the depth, so they determine the stack size. (Stack is address space;
    /// memory is committed as it is used.) The thread also contains a panic in the engine.
    #[cfg(not(target_arch = "wasm32"))]
    fn on_own_stack<T: Send>(&self, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, TextError> {
        const FOR_SOURCE: u64 = 64 << 20;
        const PER_FUEL: u64 = 256;
        const MAX: u64 = 1 << 30;
        let size = FOR_SOURCE.saturating_add(PER_FUEL.saturating_mul(self.fuel)).min(MAX);
        let builder = std::thread::Builder::new()
            .name("chat template".to_owned())
            .stack_size(usize::try_from(size).unwrap_or(usize::MAX));
        std::thread::scope(|scope| {
            let thread = builder
                .spawn_scoped(scope, || work().map_err(|error| describe(&error)))
                .map_err(|error| TextError::TemplateFailed(format!("cannot start a thread: {error}")))?;
            thread.join().unwrap_or_else(|_| Err(TextError::TemplateFailed("the template engine panicked".to_owned())))
        })
    }

    /// Runs `work` on the current stack. WebAssembly traps on stack overflow, which the host can catch.
    #[cfg(target_arch = "wasm32")]
    fn on_own_stack<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, TextError> {
        work().map_err(|error| describe(&error))
    }

    fn environment(&self) -> Environment<'_> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(self.fuel));
        environment.set_recursion_limit(RECURSION_LIMIT);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_debug(false);
        let max_bytes = self.fuel.saturating_mul(BYTES_PER_FUEL);
        environment.set_formatter(move |output, state, value| {
            Elements::count(state, value, max_bytes)?;
            escape_formatter(output, state, value)
        });
        environment.add_filter(OPERAND, move |state: &State, value: Value| {
            Elements::count(state, &value, max_bytes)?;
            Ok::<_, Error>(value)
        });
        environment.add_filter(ELEMENT, move |state: &State, value: Value| {
            // A namespace is the only mutable value, so only it could come to contain itself.
            if value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace")) {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    "a namespace cannot be an element of another value",
                ));
            }
            Elements::count(state, &value, max_bytes)?;
            Ok(value)
        });
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("escape", escape);
        environment.add_filter("e", escape);
        environment.add_filter("tojson", to_json::filter);
        environment.add_filter(SUM, sum);
        environment.add_filter(CONCATENATED, |state: &State, value: Value| match value.as_str() {
            Some(text) if value.is_safe() && matches!(state.auto_escape(), AutoEscape::None) => Value::from(text),
            _ => value,
        });
        environment.add_filter(ITERATED, |value: Value| match value.is_none() {
            true => Err(Error::new(ErrorKind::InvalidOperation, "none is not iterable")),
            false => Ok(value),
        });
        environment.add_filter(ITERATOR_TO_JSON, |_: Value, _: Kwargs| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "an iterator has no JSON form; use `list` first"))
        });
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raise_exception was called").with_source(Raised(message)))
        });
        if let Some(now) = self.now {
            environment.add_function("strftime_now", move |format: &str| strftime(format, now.utc, now.offset));
        }
        // As in Python: none is not iterable, and all that has a length and an order is a sequence.
        environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        environment.add_test("sequence", |value: &Value| {
            use ValueKind as Kind;
            matches!(value.kind(), Kind::Seq | Kind::String | Kind::Map | Kind::Undefined)
        });
        environment.remove_global("debug");
        environment
    }
}

/// Returns the length of the tag at the start of `text`, of which `open` is the opening. In expressions, strings may
/// contain what looks like an end.
fn tag_len(text: &str, open: &str) -> usize {
    let close = match open {
        "{{" => "}}",
        "{%" => "%}",
        _ => return text.find("#}").map_or(text.len(), |at| at + 2),
    };
    let mut quote = None;
    let mut chars = text.char_indices().skip(2);
    while let Some((at, c)) = chars.next() {
        match quote {
            Some(_) if c == '\\' => drop(chars.next()),
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if text.get(at..).is_some_and(|rest| rest.starts_with(close)) => return at + 2,
            None => {}
        }
    }
    text.len()
}

/// Compiles a template, adding a check to each operation whose work the engine does not limit.
fn compile(source: &str) -> Result<(Instructions<'_>, BTreeMap<&str, Instructions<'_>>), Error> {
    const NAME: &str = "chat template";
    // As Hugging Face configures Jinja.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&checked_syntax::stmt(&parse(source, NAME, syntax)?));
    Ok(generator.finish())
}

/// Bytes of data that the engine may create per unit of fuel.
const BYTES_PER_FUEL: u64 = 64;

/// A counter of a value's nested elements. A shared element counts once per occurrence.
struct Elements {
    counted: u64,
    /// The remaining limit on bytes of text.
    bytes: u64,
}

impl Elements {
    /// The greatest nesting depth of values. Real templates need five or six.
    const MAX_DEPTH: usize = 64;
    const PER_FUEL: u64 = 8;

    /// Charges fuel for traversing a value. Fails if the fuel runs out, if the value is nested too deeply, or if its
    /// strings have more than `max_bytes` bytes.
    fn count(state: &State, value: &Value, max_bytes: u64) -> Result<(), Error> {
        // The engine charges for plain strings itself.
        if value.as_object().is_none() {
            return Ok(());
        }
        let mut elements = Self { counted: 0, bytes: max_bytes };
        elements.add(state, value, 0)?;
        state.consume_fuel(elements.counted / Self::PER_FUEL)
    }

    fn add(&mut self, state: &State, value: &Value, depth: usize) -> Result<(), Error> {
        self.counted += 1;
        // Charge early, before the count exceeds the remaining fuel by much.
        if self.counted >= 64 * Self::PER_FUEL {
            state.consume_fuel(64)?;
            self.counted = 0;
        }
        if let Some(text) = value.as_str() {
            return match self.bytes.checked_sub(text.len() as u64) {
                Some(left) => {
                    self.bytes = left;
                    Ok(())
                }
                None => Err(Error::from(ErrorKind::OutOfFuel)),
            };
        }
        let Some(object) = value.as_object().filter(|object| object.repr() != ObjectRepr::Plain) else { return Ok(()) };
        // A loop object contains all it iterates over, but printing and comparing it does not traverse that.
        if object.type_name().ends_with("::Loop") {
            return Ok(());
        }
        if depth >= Self::MAX_DEPTH {
            return Err(Error::from(ErrorKind::OutOfFuel));
        }
        if object.repr() == ObjectRepr::Map {
            for (key, part) in object.try_iter_pairs().into_iter().flatten() {
                self.add(state, &key, depth + 1)?;
                self.add(state, &part, depth + 1)?;
            }
        } else {
            for part in object.try_iter().into_iter().flatten() {
                self.add(state, &part, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// The recursion limit of macros.
const RECURSION_LIMIT: usize = 100;

/// The message of a template's `raise_exception` call.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// Returns a message with the line of the template that it comes from.
fn at_line(message: String, error: &Error) -> String {
    match error.line() {
        Some(line) => format!("{message} (in chat template:{line})"),
        None => message,
    }
}

fn describe(error: &Error) -> TextError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return TextError::TemplateRaised(at_line(one_line(message), error));
        }
        cause = current.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => TextError::TemplateLimit,
        ErrorKind::SyntaxError => TextError::TemplateSyntax(one_line(&error.to_string())),
        _ => TextError::TemplateFailed(one_line(&error.to_string())),
    }
}

/// Returns a message from a template as one line, truncated.
fn one_line(message: &str) -> String {
    const MAX_CHARS: usize = 500;
    message.chars().take(MAX_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
