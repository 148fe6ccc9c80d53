//! Stop strings.

/// A matcher for stop strings in a streamed text.
///
/// Text that may be the start of a stop string is held back until that is decided.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    /// The places in `held` of names of control tokens, which are matched but not shown.
    hidden: Vec<std::ops::Range<usize>>,
    /// The stop string that was found.
    found: Option<usize>,
}

impl StopStrings {
    /// Creates a matcher for `stops`. Empty strings are ignored.
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let stops = stops.into_iter().map(Into::into).filter(|stop| !stop.is_empty()).collect();
        Self { stops, held: String::new(), hidden: Vec::new(), found: None }
    }

    /// Adds a piece. Returns the text that is certain not to be part of a stop string, and whether a stop string was
    /// found; if so, the text ends there.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let places = self.stops.iter().enumerate().filter_map(|(i, stop)| Some((self.held.find(stop)?, i)));
        if let Some((at, stop)) = places.min() {
            self.found = Some(stop);
            let text = self.release(at);
            self.held.clear();
            self.hidden.clear();
            return (text, true);
        }
        let mut starts = self.held.char_indices().map(|(at, _)| at);
        let held = starts.find(|at| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..])));
        (self.release(held.unwrap_or(self.held.len())), false)
    }

    /// Returns the stop string that was found.
    pub fn found(&self) -> Option<&str> {
        self.found.and_then(|stop| self.stops.get(stop)).map(String::as_str)
    }

    /// Adds the name of a control token, which decoding does not show: a stop string can be or contain it.
    pub fn push_control(&mut self, name: &str) -> (String, bool) {
        self.hidden.push(self.held.len()..self.held.len() + name.len());
        self.push(name)
    }

    /// Removes the first `len` bytes, and returns what of them is shown.
    fn release(&mut self, len: usize) -> String {
        let mut shown = String::with_capacity(len);
        let mut at = 0;
        for hidden in &self.hidden {
            shown.push_str(self.held.get(at..hidden.start.min(len)).unwrap_or_default());
            at = hidden.end.min(len).max(at);
        }
        shown.push_str(self.held.get(at..len).unwrap_or_default());
        self.held.drain(..len);
        self.hidden.retain_mut(|hidden| {
            *hidden = hidden.start.saturating_sub(len)..hidden.end.saturating_sub(len);
            hidden.start < hidden.end
        });
        shown
    }

    /// Returns the text still held back, at the end of the stream.
    pub fn finish(&mut self) -> String {
        self.release(self.held.len())
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
    fn names_of_control_tokens_are_matched_but_not_shown() {
        let mut stops = StopStrings::new(["<|im_start|>user", "<x>"]);
        assert_eq!(stops.push("a"), ("a".to_owned(), false));
        assert_eq!(stops.push_control("<y>"), (String::new(), false));
        assert_eq!(stops.push_control("<|im_start|>"), (String::new(), false));
        assert_eq!(stops.push("use"), (String::new(), false));
        assert_eq!(stops.push("d <"), ("used ".to_owned(), false));
        assert_eq!(stops.found(), None);
        assert_eq!(stops.push_control("<x>"), ("<".to_owned(), true));
        assert_eq!(stops.found(), Some("<x>"));
        assert_eq!(stops.push_control("<|im_start|>"), (String::new(), false));
        assert_eq!(stops.finish(), "");
        assert_eq!((stops.push("b"), stops.finish()), (("b".to_owned(), false), String::new()));
    }

    #[test]
    fn nothing_is_lost_where_there_is_none() {
        assert_eq!(cut(&["END", ""], &["one E", "xN", "E"]).0, ["one ", "ExN", "", "E"]);
        assert_eq!(cut(&[], &["a", "b"]), (vec!["a".to_owned(), "b".to_owned(), String::new()], false));
    }
}
