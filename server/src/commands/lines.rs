//! Each event of the log stays one line, whatever its fields quote.
//!
//! Stands between the formatter and every place that lines go to, so that none who logs has to remember it.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use tanist_windows::one_line::one_line;
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// Makes writers that keep each event on one line.
pub(crate) struct Lines<M> {
    to: M,
    /// Colours are let pass, which a terminal alone gets: they do no harm. Nothing else that moves its cursor is.
    color: bool,
}

impl<M> Lines<M> {
    pub(crate) fn to(to: M, color: bool) -> Lines<M> {
        Lines { to, color }
    }
}

impl<'m, M: MakeWriter<'m>> MakeWriter<'m> for Lines<M> {
    type Writer = Line<M::Writer>;

    fn make_writer(&'m self) -> Self::Writer {
        Line { to: self.to.make_writer(), color: self.color }
    }

    fn make_writer_for(&'m self, meta: &Metadata<'_>) -> Self::Writer {
        Line { to: self.to.make_writer_for(meta), color: self.color }
    }
}

pub(crate) struct Line<W> {
    to: W,
    color: bool,
}

/// Bytes of a colour at the beginning of `text`, such as `ESC [ 2 m`.
fn color(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then_some(2 + end + 1)
}

fn escaped(text: &str, colors: bool) -> Cow<'_, str> {
    if !colors {
        return one_line(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\u{1b}') {
        shown.push_str(&one_line(&rest[..at]));
        let length = color(&rest[at..]);
        match length {
            Some(length) => shown.push_str(&rest[at..at + length]),
            None => shown.push_str(&one_line("\u{1b}")),
        }
        rest = &rest[at + length.unwrap_or(1)..];
    }
    shown.push_str(&one_line(rest));
    Cow::Owned(shown)
}

impl<W: Write> Write for Line<W> {
    /// One whole event, as the formatter gives it.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (body, end) = text.strip_suffix('\n').map_or((&*text, ""), |body| (body, "\n"));
        let mut line = escaped(body, self.color).into_owned();
        line.push_str(end);
        self.to.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(json: bool, color: bool) -> String {
        let kept = Kept::default();
        let into = kept.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(color);
        let layer = layer.with_writer(Lines::to(move || into.clone(), color));
        let evil = "t\n2026-01-01T00:00:00Z  INFO forged\r\u{1b}[31mred\u{1b}[2J\u{85}\u{2028}end";
        let say = || {
            tracing::warn!(display = %evil, debug = ?evil, text = evil, "quotes {evil}");
            tracing::info!("next");
        };
        match json {
            true => tracing::subscriber::with_default(tracing_subscriber::registry().with(layer.json()), say),
            false => tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), say),
        }
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn event_is_one_line_in_every_format_whatever_it_quotes() {
        for (json, color) in [(false, false), (false, true), (true, false)] {
            let text = logged(json, color);
            let lines: Vec<_> = text.split('\n').collect();
            assert!(lines.len() == 3 && lines[2].is_empty(), "json {json}, color {color}: {text:?}");
            assert!(!text.contains(['\r', '\u{85}', '\u{2028}']), "{text:?}");
            assert_eq!(text.contains('\u{1b}'), color, "{text:?}");
            let all = text.match_indices('\u{1b}');
            assert!(
                all.clone().all(|(at, _)| super::color(&text[at..]).is_some()),
                "more than colours: {text:?}"
            );
            if json {
                let event: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
                assert!(event["fields"]["text"].as_str().unwrap().contains("\n2026"), "{text}");
            }
        }
    }
}
