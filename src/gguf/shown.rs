//! Display of text from a file in messages: truncated and escaped, so it cannot control a terminal or break a line.

use std::fmt::{self, Write as _};

const MAX_CHARS: usize = 80;

/// A name, without quotes.
pub(crate) struct Shown<'a>(pub &'a str);

/// A text in quotes.
pub(crate) struct Quoted<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_cut(f, self.0, |c| matches!(c, '"' | '\'' | '\\'))
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        write_cut(f, self.0, |c| c == '\'')?;
        f.write_char('"')
    }
}

/// Writes the first `MAX_CHARS` characters of `text`, escaping all but those that are `plain`.
fn write_cut(f: &mut fmt::Formatter<'_>, text: &str, plain: impl Fn(char) -> bool) -> fmt::Result {
    let mut chars = text.chars();
    for c in chars.by_ref().take(MAX_CHARS) {
        if plain(c) { f.write_char(c)? } else { write!(f, "{}", c.escape_debug())? }
    }
    if chars.next().is_some() { f.write_char('…') } else { Ok(()) }
}
