//! Reading the prompt.

use std::io::{self, IsTerminal, Read};

use super::exit::Failure;
use super::output::note;

/// Returns the prompt: the text piped to standard input, an empty line, and the text `given` by an option. `None` if
/// nothing is given and standard input is a terminal.
///
/// With a text from an option, standard input is read only if it is a pipe or a file: services leave it open.
pub fn read(given: Option<&str>) -> Result<Option<String>, Failure> {
    let prompt = match given {
        Some(given) => {
            let piped = if is_piped() { without_newline(standard_input("prompt")?) } else { String::new() };
            if piped.is_empty() {
                given.to_owned()
            } else {
                note(format_args!("note: {} bytes of standard input come before the prompt", piped.len()));
                format!("{piped}\n\n{given}")
            }
        }
        None if io::stdin().is_terminal() => return Ok(None),
        None => without_newline(standard_input("prompt")?),
    };
    if prompt.is_empty() {
        return Err(Failure::usage("the prompt is empty (pass one with -p or on standard input)"));
    }
    Ok(Some(prompt))
}

/// Reads standard input. `what` is read there, for errors.
pub fn standard_input(what: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut bytes);
    read.map_err(|error| Failure::usage(format!("cannot read the {what} from standard input: {error}")))?;
    String::from_utf8(bytes).map_err(|_| Failure::usage(format!("the {what} on standard input is not UTF-8")))
}

/// Returns whether standard input is a pipe or a file.
#[cfg(unix)]
fn is_piped() -> bool {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileTypeExt;

    let file = io::stdin().as_fd().try_clone_to_owned().map(std::fs::File::from);
    let metadata = file.and_then(|file| file.metadata());
    metadata.is_ok_and(|metadata| metadata.is_file() || metadata.file_type().is_fifo())
}

/// Returns whether standard input is a pipe or a file.
#[cfg(not(unix))]
fn is_piped() -> bool {
    !io::stdin().is_terminal()
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
