//! Output: results to standard output, everything else to standard error.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use super::exit::Failure;

/// Writes a line to standard error. Unlike `eprintln!` it ignores write errors.
pub fn note(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes text to standard output and flushes it.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::stdout)
}

/// Writes text of a model to standard output. On a terminal, control characters are shown instead of obeyed.
pub fn print_reply(text: &str) -> Result<(), Failure> {
    if io::stdout().is_terminal() { print(&harmless(text)) } else { print(text) }
}

/// Returns the text with control characters, except line ends and tabs, as pictures (U+2400 …) or U+FFFD.
fn harmless(text: &str) -> String {
    let shown = |c: char| match u32::from(c) {
        0x09 | 0x0A => c,
        code @ 0..0x20 => char::from_u32(0x2400 + code).unwrap_or(char::REPLACEMENT_CHARACTER),
        0x7F => '\u{2421}',
        0x80..0xA0 => char::REPLACEMENT_CHARACTER,
        _ => c,
    };
    text.chars().map(shown).collect()
}

/// Makes untrusted text printable on one line: whitespace becomes spaces, control characters are escaped.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_whitespace() {
            shown.push(' ');
        } else if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Joins the lines of a message.
pub fn one_line(message: &str) -> String {
    printable(message).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Formats rows as aligned columns, indented by two spaces. The columns in `right` are right-aligned.
pub fn table<const N: usize>(rows: &[[String; N]], right: &[usize]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(i, cell)| {
            let width = widths[i];
            if right.contains(&i) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Formats a number of bytes with a suitable unit.
pub fn size(bytes: u64) -> String {
    const UNITS: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match UNITS.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => format!("{:.2} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_one_line() {
        assert_eq!(one_line("a\n\n  Caused by:\r\n\tb \u{1b}[31mred"), "a Caused by: b \\u{1b}[31mred");
    }

    #[test]
    fn replies_cannot_command_a_terminal() {
        assert_eq!(harmless("a\n\tb\u{1b}[2J\r\u{9b}1m\u{7f}é"), "a\n\tb␛[2J␍\u{fffd}1m␡é");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a".to_owned(), "1".to_owned()], ["bcd".to_owned(), "10".to_owned()]];
        assert_eq!(table(&rows, &[1]), "  a     1\n  bcd  10\n");
    }

    #[test]
    fn sizes_have_their_unit() {
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(3 << 19), "1.50 MiB");
        assert_eq!(size(5 << 30), "5.00 GiB");
    }
}
