//! Why a machine should not reign now, in its own words.

use std::{fmt, sync::Arc};

use minicbor::{Decode, Encode};

/// The words of a machine that isn't healthy, such as `disk is slow`; one line of at most [`Complaint::MAX`] bytes. Never
/// decides over safety, only over who comes first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint(Arc<str>);

impl Complaint {
    /// The longest, in bytes.
    pub const MAX: usize = 200;

    /// These words, cut to one line of the greatest length.
    #[must_use]
    pub fn new(text: &str) -> Complaint {
        let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given").trim();
        let mut end = line.len().min(Complaint::MAX);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        Complaint(line[..end].into())
    }

    /// The words.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<C> Encode<C> for Complaint {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Complaint {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Complaint, minicbor::decode::Error> {
        Ok(Complaint::new(d.str()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaint_is_one_line_of_bounded_length() {
        assert_eq!(Complaint::new("\n  field bus down \nsecond").as_str(), "field bus down");
        assert_eq!(Complaint::new(" \n").as_str(), "no reason given");
        let long = Complaint::new(&"ä".repeat(150));
        assert_eq!(long.as_str().len(), 200);
        let odd = Complaint::new(&format!("x{}", "ä".repeat(150)));
        assert_eq!(odd.as_str().len(), 199, "no character is cut in two");
    }
}
