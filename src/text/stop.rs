//! Stop strings.

/// A matcher for stop strings in a streamed text.
///
/// Text that may be the start of a stop string is held back until that is decided.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Creates a matcher for `stops`. Empty strings are ignored.
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let stops = stops.into_iter().map(Into::into).filter(|stop| !stop.is_empty()).collect();
        Self { stops, held: String::new() }
    }

    /// Adds a piece. Returns the text that is certain not to be part of a stop string, and whether a stop string was
    /// found; if so, the text ends there.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let mut starts = self.held.char_indices().map(|(at, _)| at);
        let held = starts.find(|at| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..])));
        let rest = self.held.split_off(held.unwrap_or(self.held.len()));
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// Returns the text still held back, at the end of the stream.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut watch = StopStrings::new(stops.iter().copied());
        let mut seen = Vec::new();
        for piece in pieces {
            let (text, found) = watch.push(piece);
            seen.push(text);
            if found {
                return (seen, true);
            }
        }
        seen.push(watch.finish());
        (seen, false)
    }

    #[test]
    fn a_stop_string_ends_the_text_wherever_it_is_cut() {
        let text = |(seen, found): (Vec<String>, bool)| (seen.concat(), found);
        assert_eq!(text(cut(&["END"], &["one END two"])), ("one ".to_owned(), true));
        assert_eq!(text(cut(&["END"], &["one E", "N", "D"])), ("one ".to_owned(), true));
        assert_eq!(text(cut(&["END"], &["one EN", "EN", "D"])), ("one EN".to_owned(), true));
        assert_eq!(text(cut(&["ß"], &["Stra", "ße"])), ("Stra".to_owned(), true));
        assert_eq!(text(cut(&["ab", "b"], &["xab"])), ("x".to_owned(), true));
        assert_eq!(text(cut(&["aab"], &["aaab"])), ("a".to_owned(), true));
    }

    #[test]
    fn nothing_is_lost_where_there_is_none() {
        assert_eq!(cut(&["END", ""], &["one E", "xN", "E"]).0, ["one ", "ExN", "", "E"]);
        assert_eq!(cut(&[], &["a", "b"]), (vec!["a".to_owned(), "b".to_owned(), String::new()], false));
    }
}
