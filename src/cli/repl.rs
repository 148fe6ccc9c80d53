//! The interactive conversation.

use std::io::{self, BufRead, Write};

use ferrum_wgpu::{Message, Role};

use super::chat::Chat;
use super::exit::{Code, Failure};
use super::generate::Generator;
use super::output::note;
use super::prompt::without_newline;

const HELP: &str = "\
\"\"\"            start or end a message of several lines
/clear         clear the conversation, but keep the system message
/system TEXT   set the system message; without TEXT remove it
/help          show this help
/exit          quit; also Ctrl-D and Ctrl-C (during a reply, Ctrl-C stops the reply)";

/// Reads lines from the terminal and replies to each, until the user quits.
pub async fn repl(chat: &Chat, generator: &mut Generator<'_>, mut conversation: Vec<Message>) -> Result<Code, Failure> {
    note(format_args!("/help lists the commands"));
    while let Some(line) = next_line("> ")? {
        let block = match line.trim_start().strip_prefix(FENCE) {
            Some(first) => Some(block(first)?),
            None => None,
        };
        let line = block.as_deref().unwrap_or(line.trim());
        let (command, rest) = match block {
            Some(_) => ("\"\"\"", ""),
            None => line.split_once(char::is_whitespace).unwrap_or((line, "")),
        };
        match command {
            "" => {}
            "/exit" => break,
            "/help" => note(format_args!("{HELP}")),
            "/clear" => conversation.retain(|message| message.role == Role::System),
            "/system" => {
                conversation.retain(|message| message.role != Role::System);
                if !rest.trim().is_empty() {
                    conversation.insert(0, Message::system(rest.trim()));
                }
            }
            _ if command.starts_with('/') => note(format_args!("unknown command {command}; /help lists the commands")),
            _ => {
                conversation.push(Message::user(line));
                match chat.encode(&conversation, generator.session.capacity()) {
                    Ok(prompt) => match generator.reply(&prompt).await?.text {
                        // Stopped before any text: drop the user's message too.
                        text if text.is_empty() => drop(conversation.pop()),
                        text => conversation.push(Message::assistant(text)),
                    },
                    Err(failure) => {
                        // The conversation continues without this message.
                        conversation.pop();
                        failure.report();
                    }
                }
            }
        }
    }
    Ok(Code::Success)
}

/// Starts and ends a message of several lines.
const FENCE: &str = "\"\"\"";

/// Reads a message of several lines up to the next fence. `first` is what follows the first fence on its line.
fn block(first: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let mut line = Some(first.to_owned());
    while let Some(current) = line {
        if let Some((last, _)) = current.split_once(FENCE) {
            text.push_str(last);
            break;
        }
        // The fence's own line may be empty.
        if !(text.is_empty() && current.is_empty()) {
            text.push_str(&current);
            text.push('\n');
        }
        line = next_line("... ")?;
    }
    Ok(without_newline(text))
}

/// Reads a line from standard input; `None` at its end.
fn next_line(prompt: &str) -> Result<Option<String>, Failure> {
    let mut err = io::stderr();
    let _ = write!(err, "{prompt}").and_then(|()| err.flush());
    let mut bytes = Vec::new();
    let read = io::stdin().lock().read_until(b'\n', &mut bytes);
    match read.map_err(|error| Failure::Error(Code::Runtime, format!("cannot read standard input: {error}")))? {
        0 => {
            note(format_args!(""));
            Ok(None)
        }
        _ => Ok(Some(without_newline(String::from_utf8_lossy(&bytes).into_owned()))),
    }
}
