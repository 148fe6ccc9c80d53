//! Reading the prompt.

use std::io::{self, IsTerminal, Read};

use super::exit::Failure;

/// Returns the prompt: `given` by an option, else standard input without its last newline. `None` if that is a
/// terminal.
pub fn read(given: Option<&str>) -> Result<Option<String>, Failure> {
    let prompt = match given {
        Some(prompt) => prompt.to_owned(),
        None if io::stdin().is_terminal() => return Ok(None),
        None => {
            let mut bytes = Vec::new();
            let read = io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|error| Failure::usage(format!("cannot read the prompt from standard input: {error}")))?;
            let text = String::from_utf8(bytes);
            without_newline(text.map_err(|_| Failure::usage("the prompt on standard input is not UTF-8"))?)
        }
    };
    if prompt.is_empty() {
        return Err(Failure::usage("the prompt is empty (pass one with -p or on standard input)"));
    }
    Ok(Some(prompt))
}

/// Removes one newline from the end.
pub fn without_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}
