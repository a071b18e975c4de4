//! `If-Match` and `If-None-Match` (RFC 9110, 13.1): what must be so for a change, or for an answer with a body.
//!
//! An entity tag is the revision in quotes, the same on every machine. A header that can't be read is refused, which the
//! usual libraries don't: a change that was meant to have a condition must not be made without it.

use http::{HeaderMap, HeaderName, header};

use super::Refusal;

/// What a request's headers demand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

/// What one of the headers names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tags {
    /// `*`: whatever there is.
    Any,
    Listed(Vec<Tag>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tag {
    weak: bool,
    /// Between the quotes.
    text: String,
}

/// The entity tag of a revision.
pub(crate) fn tag(revision: i64) -> String {
    format!("\"{revision}\"")
}

impl Tags {
    fn matches(&self, revision: i64, weakly: bool) -> bool {
        match self {
            Tags::Any => true,
            Tags::Listed(tags) => {
                let text = revision.to_string();
                tags.iter().any(|tag| (weakly || !tag.weak) && tag.text == text)
            }
        }
    }

    /// Of all the lines of a header.
    fn read(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, String> {
        let mut tags = None;
        for line in headers.get_all(name) {
            let found = line.to_str().ok().and_then(Tags::parse);
            let found = found.ok_or_else(|| {
                format!("{name}: found {line:?}, expected entity tags such as \"812\" in quotes, or *")
            })?;
            tags = Some(match (tags, found) {
                (Some(Tags::Listed(mut tags)), Tags::Listed(more)) => {
                    tags.extend(more);
                    Tags::Listed(tags)
                }
                (None, found) => found,
                _ => return Err(format!("{name}: found * beside another, expected it alone")),
            });
        }
        Ok(tags)
    }

    fn parse(line: &str) -> Option<Tags> {
        let mut rest = line.trim();
        if rest == "*" {
            return Some(Tags::Any);
        }
        let mut tags = Vec::new();
        loop {
            let (weak, quoted) = match rest.strip_prefix("W/") {
                Some(quoted) => (true, quoted),
                None => (false, rest),
            };
            let (text, after) = quoted.strip_prefix('"')?.split_once('"')?;
            if text.bytes().any(|byte| !byte.is_ascii_graphic()) {
                return None;
            }
            tags.push(Tag { weak, text: text.to_owned() });
            rest = after.trim_start();
            if rest.is_empty() {
                return Some(Tags::Listed(tags));
            }
            rest = rest.strip_prefix(',')?.trim_start();
        }
    }
}

impl Condition {
    /// Reads the headers.
    ///
    /// # Errors
    /// Which can't be understood.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Condition, String> {
        Ok(Condition {
            if_match: Tags::read(headers, &header::IF_MATCH)?,
            if_none_match: Tags::read(headers, &header::IF_NONE_MATCH)?,
        })
    }

    /// Whether the client has this revision already (a read's answer is 304 then).
    pub(crate) fn is_known(&self, revision: i64) -> bool {
        self.if_none_match.as_ref().is_some_and(|known| known.matches(revision, true))
    }

    /// Whether a change of what has this revision now (`None`: isn't there) is allowed.
    ///
    /// # Errors
    /// What was found instead.
    pub(super) fn check(&self, revision: Option<i64>) -> Result<(), Refusal> {
        let refuse = |name: HeaderName| {
            let found = match revision {
                None => "there is none".to_owned(),
                Some(revision) => format!("its revision is {}", tag(revision)),
            };
            Err(Refusal::Condition(format!("{name}: {found}; nothing was changed")))
        };
        let is = |tags: &Tags, weakly| revision.is_some_and(|revision| tags.matches(revision, weakly));
        if self.if_match.as_ref().is_some_and(|wanted| !is(wanted, false)) {
            return refuse(header::IF_MATCH);
        }
        if self.if_none_match.as_ref().is_some_and(|unwanted| is(unwanted, true)) {
            return refuse(header::IF_NONE_MATCH);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(lines: &[(&'static str, &str)]) -> Result<Condition, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        Condition::from_headers(&headers)
    }

    #[test]
    fn lists_weak_tags_and_stars_mean_what_the_standard_says() {
        let (five, none) = (Some(5), None);
        for (name, value, of_five, of_nothing) in [
            ("if-match", "*", true, false),
            ("if-match", "\"5\"", true, false),
            ("if-match", "\"4\" , \"5\"", true, false),
            ("if-match", "\"4\"", false, false),
            ("if-match", "W/\"5\"", false, false),
            ("if-match", "\"05\"", false, false),
            ("if-none-match", "*", false, true),
            ("if-none-match", "W/\"5\"", false, true),
            ("if-none-match", "\"a,b\",\"4\"", true, true),
        ] {
            let condition = condition(&[(name, value)]).unwrap();
            assert_eq!(condition.check(five).is_ok(), of_five, "{name}: {value}");
            assert_eq!(condition.check(none).is_ok(), of_nothing, "{name}: {value}");
        }
        let lines = condition(&[("if-match", "\"4\""), ("if-match", "\"5\"")]).unwrap();
        assert!(lines.check(five).is_ok() && lines.check(Some(6)).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_refused_not_ignored() {
        for value in
            ["", "5", "\"5", "5\"", "\"5\" \"6\"", "\"5\",", ",", "*, \"5\"", "w/\"5\"", "\"a b\"", "\"ä\""]
        {
            for name in ["if-match", "if-none-match"] {
                let error = condition(&[(name, value)]).unwrap_err();
                assert!(error.starts_with(name), "{value}: {error}");
            }
        }
        assert!(condition(&[("if-match", "*"), ("if-match", "\"5\"")]).is_err());
    }
}
