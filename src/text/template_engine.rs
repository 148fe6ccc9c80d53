//! The template engine, set up as chat templates expect it and fenced in, as they come from files.

use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};

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
        self.on_own_stack(|| {
            let environment = self.environment()?;
            environment.template_from_str(self.source).map(drop)
        })
    }

    /// Runs the template with these variables.
    pub(super) fn render(&self, variables: Vec<(&'static str, Value)>) -> Result<String, TextError> {
        self.on_own_stack(|| {
            let environment = self.environment()?;
            environment.template_from_str(self.source)?.render(Value::from_pairs(variables))
        })
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

    fn environment(&self) -> Result<Environment<'_>, Error> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(self.fuel));
        environment.set_recursion_limit(RECURSION);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        // As Hugging Face sets up Jinja.
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json::filter);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raise_exception was called").with_source(Raised(message)))
        });
        if let Some(now) = self.now {
            environment.add_function("strftime_now", move |format: &str| strftime(format, now));
        }
        environment.remove_global("debug");
        Ok(environment)
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
