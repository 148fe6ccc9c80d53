//! Where the prompt comes from.

use std::io::{self, IsTerminal, Read};

use super::exit::Failure;

/// The prompt: `given` by an option, else all of standard input without its last newline. `None` if that is a terminal,
/// where one can talk.
pub fn read(given: Option<&str>) -> Result<Option<String>, Failure> {
    let prompt = match given {
        Some(prompt) => prompt.to_owned(),
        None if io::stdin().is_terminal() => return Ok(None),
        None => {
            let mut bytes = Vec::new();
            let read = io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|error| Failure::usage(format!("no prompt: cannot read standard input: {error}")))?;
            let text = String::from_utf8(bytes);
            without_newline(text.map_err(|_| Failure::usage("the prompt on standard input is not UTF-8"))?)
        }
    };
    if prompt.is_empty() {
        return Err(Failure::usage("the prompt is empty (give one with -p or on standard input)"));
    }
    Ok(Some(prompt))
}

/// The text without one newline at its end.
pub fn without_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}
