//! The interactive conversation.

use ferrum_wgpu::{Message, Role};

use super::exit::{Code, Failure};
use super::generate::Generator;
use super::line_editor::LineEditor;
use super::output::note;
use super::prompt::without_newline;

const HELP: &str = "\
\"\"\"            start or end a message of several lines; pasted text is one message too
/clear         clear the conversation, but keep the system message
/system TEXT   set the system message; without TEXT remove it
/help          show this help
/exit          quit; also Ctrl-D and Ctrl-C (during a reply, Ctrl-C stops the reply)
arrow keys     edit the line, and go through the history";

/// Starts and ends a message of several lines.
const FENCE: &str = "\"\"\"";

/// What a user has entered.
#[derive(Debug, PartialEq, Eq)]
enum Input {
    /// A command, and what follows it.
    Command(String, String),
    /// A message; empty for nothing.
    Message(String),
}

/// Reads lines from the terminal and replies to each, until the user quits.
pub async fn repl(generator: &mut Generator) -> Result<Code, Failure> {
    let mut editor = LineEditor::new()?;
    note(format_args!("/help lists the commands"));
    while let Some(input) = input(|prompt| editor.line(prompt))? {
        match input {
            Input::Message(text) if text.is_empty() => {}
            Input::Message(text) => {
                editor.remember(&text);
                match generator.reply(text).await {
                    Ok(_) => {}
                    // The template or the context refuses the message: the conversation continues without it.
                    Err(failure @ Failure::Error(Code::Usage | Code::Model, _)) => drop(failure.report()),
                    Err(failure) => return Err(failure),
                }
            }
            Input::Command(command, rest) => {
                editor.remember(format!("{command} {rest}").trim_end());
                match command.as_str() {
                    "/exit" => break,
                    "/help" => note(format_args!("{HELP}")),
                    "/clear" => generator.chat.clear(),
                    "/system" => {
                        let mut messages = generator.chat.messages();
                        messages.retain(|message| message.role != Role::System);
                        if !rest.is_empty() {
                            messages.insert(0, Message::system(rest));
                        }
                        generator.chat.set_messages(messages);
                    }
                    _ => note(format_args!("unknown command {command}; /help lists the commands")),
                }
            }
        }
    }
    Ok(Code::Success)
}

/// Reads a message or a command from lines; `None` at their end. A line may have line ends, if it was pasted.
fn input(mut line: impl FnMut(&str) -> Result<Option<String>, Failure>) -> Result<Option<Input>, Failure> {
    let Some(first) = line("> ")? else { return Ok(None) };
    if let Some(first) = first.trim_start().strip_prefix(FENCE) {
        return block(first, line).map(|text| Some(Input::Message(text)));
    }
    let one_line = first.trim();
    if one_line.starts_with('/') && !one_line.contains('\n') {
        let (command, rest) = one_line.split_once(char::is_whitespace).unwrap_or((one_line, ""));
        return Ok(Some(Input::Command(command.to_owned(), rest.trim().to_owned())));
    }
    // The indentation of a pasted text may matter, as in code.
    let text = if one_line.contains('\n') { first.trim_end() } else { one_line };
    Ok(Some(Input::Message(text.to_owned())))
}

/// Reads a message up to the next fence. `first` is what follows the first fence on its line.
fn block(first: &str, mut line: impl FnMut(&str) -> Result<Option<String>, Failure>) -> Result<String, Failure> {
    let mut text = String::new();
    let mut next = Some(first.to_owned());
    while let Some(current) = next {
        if let Some((last, _)) = current.split_once(FENCE) {
            text.push_str(last);
            break;
        }
        // The fence's own line may be empty.
        if !(text.is_empty() && current.is_empty()) {
            text.push_str(&current);
            text.push('\n');
        }
        next = line("... ")?;
    }
    // A pasted block begins with the end of the fence's line.
    let text = text.strip_prefix("\r\n").or(text.strip_prefix('\n')).unwrap_or(&text).to_owned();
    Ok(without_newline(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what is entered by lines.
    fn entered(lines: &[&str]) -> Vec<Input> {
        let mut lines = lines.iter().map(|line| (*line).to_owned());
        let mut inputs = Vec::new();
        while let Some(input) = input(|_| Ok(lines.next())).expect("input") {
            inputs.push(input);
        }
        inputs
    }

    fn message(text: &str) -> Input {
        Input::Message(text.to_owned())
    }

    fn command(name: &str, rest: &str) -> Input {
        Input::Command(name.to_owned(), rest.to_owned())
    }

    /// A pasted text is one message (ollama issues 357 and 169).
    #[test]
    fn several_lines_are_one_message_if_pasted_or_fenced() {
        assert_eq!(entered(&["Summarise:\na cat sat on a mat\n"]), [message("Summarise:\na cat sat on a mat")]);
        assert_eq!(entered(&["    if x:\n        y()", " hi "]), [message("    if x:\n        y()"), message("hi")]);
        for fenced in [&["\"\"\"a", "  b", "", "c\"\"\""][..], &["\"\"\"", "a", "  b", "", "c", "\"\"\""]] {
            assert_eq!(entered(fenced), [message("a\n  b\n\nc")]);
        }
        assert_eq!(entered(&["\"\"\"\na\n\nb\n\"\"\""]), [message("a\n\nb")]);
        assert_eq!(entered(&["\"\"\"one line\"\"\"", "\"\"\"no end"]), [message("one line"), message("no end")]);
    }

    #[test]
    fn commands_are_single_lines() {
        assert_eq!(entered(&["/exit", " /system  be brief "]), [command("/exit", ""), command("/system", "be brief")]);
        assert_eq!(entered(&["/etc\n/usr", "", "  "]), [message("/etc\n/usr"), message(""), message("")]);
        assert_eq!(entered(&["\"\"\"/exit\"\"\""]), [message("/exit")]);
    }
}
