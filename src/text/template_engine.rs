//! The template engine, set up as chat templates expect it and fenced in, as they come from files.

use std::collections::BTreeMap;
use std::time::SystemTime;

use minijinja::machinery::{CodeGenerator, Instructions, eval, make_string_output, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{ObjectRepr, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, escape_formatter};

use super::checked_syntax::{self, OPERAND, PART};
use super::date::strftime;
use super::error::TextError;
use super::to_json;

/// How a template is run.
pub(super) struct Run<'a> {
    /// The template.
    pub(super) source: &'a str,
    /// What `strftime_now` says; the function is not defined without.
    pub(super) now: Option<SystemTime>,
    /// How much the template may do: one unit is an instruction or 64 bytes of data made.
    pub(super) fuel: u64,
}

impl Run<'_> {
    /// Reads the template without running it.
    pub(super) fn check(&self) -> Result<(), TextError> {
        self.on_own_stack(|| self.compile().map(drop))
    }

    /// Runs the template with these variables.
    pub(super) fn render(&self, variables: Vec<(&'static str, Value)>) -> Result<String, TextError> {
        self.on_own_stack(|| {
            let (instructions, blocks) = self.compile()?;
            let environment = self.environment();
            let mut text = String::new();
            let mut output = make_string_output(&mut text);
            eval(&environment, &instructions, Value::from_pairs(variables), &blocks, &mut output, AutoEscape::None)?;
            Ok(text)
        })
    }

    /// The template as the engine runs it, with checks of what it would go through without a limit.
    fn compile(&self) -> Result<(Instructions<'_>, BTreeMap<&str, Instructions<'_>>), Error> {
        const NAME: &str = "chat template";
        // As Hugging Face sets up Jinja.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        let mut generator = CodeGenerator::new(NAME, self.source);
        generator.compile_stmt(&checked_syntax::stmt(&parse(self.source, NAME, syntax)?));
        Ok(generator.finish())
    }

    /// Does the work on a thread that has stack enough for it.
    ///
    /// The engine compiles nested expressions, and prints and drops nested values, by recursion. How deep that goes is
    /// up to the template, limited by its length and by its fuel, so the stack is as large as these can make use of
    /// (it is address space; memory is taken only as far as it is used). A panic in the engine ends there, too.
    #[cfg(not(target_arch = "wasm32"))]
    fn on_own_stack<T: Send>(&self, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, TextError> {
        const FOR_THE_SOURCE: u64 = 64 << 20;
        const PER_FUEL: u64 = 256;
        const MOST: u64 = 1 << 30;
        let size = FOR_THE_SOURCE.saturating_add(PER_FUEL.saturating_mul(self.fuel)).min(MOST);
        let builder = std::thread::Builder::new()
            .name("chat template".to_owned())
            .stack_size(usize::try_from(size).unwrap_or(usize::MAX));
        std::thread::scope(|scope| {
            let thread = builder
                .spawn_scoped(scope, || work().map_err(|error| describe(&error)))
                .map_err(|error| TextError::TemplateFailed(format!("no thread for it: {error}")))?;
            thread.join().unwrap_or_else(|_| Err(TextError::TemplateFailed("the template engine panicked".to_owned())))
        })
    }

    /// Where there are no threads, a stack that overflows traps, which the host can catch.
    #[cfg(target_arch = "wasm32")]
    fn on_own_stack<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, TextError> {
        work().map_err(|error| describe(&error))
    }

    fn environment(&self) -> Environment<'_> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(self.fuel));
        environment.set_recursion_limit(RECURSION);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_debug(false);
        let most = self.fuel.saturating_mul(BYTES_PER_FUEL);
        environment.set_formatter(move |output, state, value| {
            Parts::count(state, value, most)?;
            escape_formatter(output, state, value)
        });
        environment.add_filter(OPERAND, move |state: &State, value: Value| {
            Parts::count(state, &value, most)?;
            Ok::<_, Error>(value)
        });
        environment.add_filter(PART, move |state: &State, value: Value| {
            // A namespace is the one thing that can be changed, and so be made to hold itself.
            if value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace")) {
                return Err(Error::new(ErrorKind::InvalidOperation, "a namespace cannot be a part of something"));
            }
            Parts::count(state, &value, most)?;
            Ok(value)
        });
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json::filter);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raise_exception was called").with_source(Raised(message)))
        });
        if let Some(now) = self.now {
            environment.add_function("strftime_now", move |format: &str| strftime(format, now));
        }
        environment.remove_global("debug");
        environment
    }
}

/// What the engine makes for a unit of fuel.
const BYTES_PER_FUEL: u64 = 64;

/// A count of the parts of a value, each as often as it is there.
struct Parts {
    counted: u64,
    /// Bytes of text that there may yet be.
    bytes: u64,
}

impl Parts {
    /// How deeply values may nest: real ones do by five or six.
    const DEEPEST: usize = 64;
    const PER_FUEL: u64 = 8;

    /// Charges the fuel for going through a value, once or a few times. It is an error if there is not enough, if the value is
    /// nested too deeply, or if its texts are longer than `most`.
    fn count(state: &State, value: &Value, most: u64) -> Result<(), Error> {
        // Texts alone are the engine's to charge.
        if value.as_object().is_none() {
            return Ok(());
        }
        let mut parts = Self { counted: 0, bytes: most };
        parts.add(state, value, 0)?;
        state.consume_fuel(parts.counted / Self::PER_FUEL)
    }

    fn add(&mut self, state: &State, value: &Value, depth: usize) -> Result<(), Error> {
        self.counted += 1;
        // Before more is counted than can be paid.
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
        // Loops have all that they go over as parts, and are written and compared without.
        if object.type_name().ends_with("::Loop") {
            return Ok(());
        }
        if depth >= Self::DEEPEST {
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

/// How deeply macros may call each other.
const RECURSION: usize = 100;

/// What a template said when it called `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn describe(error: &Error) -> TextError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return TextError::TemplateRaised(one_line(message));
        }
        cause = current.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => TextError::TemplateLimit,
        ErrorKind::SyntaxError => TextError::TemplateSyntax(one_line(&error.to_string())),
        _ => TextError::TemplateFailed(one_line(&error.to_string())),
    }
}

/// A message from a template, as one line of bearable length.
fn one_line(message: &str) -> String {
    const LONGEST: usize = 500;
    message.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
