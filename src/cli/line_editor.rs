//! Reading lines from the terminal, with editing, history and bracketed paste.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::{Behavior, Config, DefaultEditor};

use super::cache;
use super::exit::{Code, Failure};

/// The most entries of the history.
const MAX_HISTORY: usize = 1000;

/// A line editor with a history that is kept between runs.
#[derive(Debug)]
pub struct LineEditor {
    editor: DefaultEditor,
    /// `None` if there is no cache directory.
    history: Option<PathBuf>,
}

impl LineEditor {
    /// Opens the terminal and reads the history. A history that cannot be read is ignored.
    pub fn new() -> Result<Self, Failure> {
        // The prompt belongs to the terminal where replies are redirected.
        let behavior = if io::stdout().is_terminal() { Behavior::Stdio } else { Behavior::PreferTerm };
        let config = Config::builder().bracketed_paste(true).behavior(behavior).max_history_size(MAX_HISTORY);
        let mut editor = DefaultEditor::with_config(config.map_err(failure)?.build()).map_err(failure)?;
        let history = cache::history();
        if let Some(path) = &history
            && let Err(error) = editor.load_history(path)
        {
            tracing::info!(path = %path.display(), %error, "cannot read the history");
        }
        Ok(Self { editor, history })
    }

    /// Reads a line; `None` after Ctrl-C and Ctrl-D. A pasted text is one line, whatever line ends it has.
    pub fn line(&mut self, prompt: &str) -> Result<Option<String>, Failure> {
        loop {
            match self.editor.readline(prompt) {
                Ok(line) => return Ok(Some(line)),
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(None),
                // The terminal's size has changed.
                Err(ReadlineError::Signal(_)) => {}
                Err(error) => return Err(failure(error)),
            }
        }
    }

    /// Adds a message or command to the history.
    pub fn remember(&mut self, entry: &str) {
        let added = self.editor.add_history_entry(entry);
        let Some(path) = self.history.as_ref().filter(|_| added.unwrap_or(false)) else { return };
        if let Err(error) = self.editor.append_history(path) {
            tracing::info!(path = %path.display(), %error, "cannot write the history");
        }
    }
}

fn failure(error: ReadlineError) -> Failure {
    Failure::Error(Code::Runtime, format!("cannot read from the terminal: {error}"))
}
