//! Text of others in a log: on one line, and nothing in it that a terminal or a reader of lines would follow.

use std::{borrow::Cow, fmt::Write as _};

/// What ends a line, moves the cursor, or turns the direction of writing.
fn is_unfit(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

/// The text with such characters written as JSON writes them, `\\n` or `\\u001b`: so that a line of JSON stays one, too.
#[must_use]
pub fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unfit) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            // None of them lies beyond 16 bits.
            c if is_unfit(c) => drop(write!(shown, "\\u{:04x}", u32::from(c))),
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_the_line_or_moves_the_cursor() {
        assert_eq!(one_line("plain äöü \u{1f600}"), "plain äöü \u{1f600}");
        assert_eq!(one_line("a\r\nb\tc"), "a\\r\\nb\\tc");
        let all: String = (0..=0x20ff).filter_map(char::from_u32).collect();
        let shown = one_line(&all);
        assert!(!shown.chars().any(is_unfit) && shown.lines().count() == 1);
        assert!(
            shown.contains("\\u001b") && shown.contains("\\u0085") && shown.contains("\\u2028"),
            "{shown}"
        );
    }
}
