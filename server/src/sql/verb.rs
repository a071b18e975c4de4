//! What a statement's text sets out to do, by SQLite's own rules for tokens.
//!
//! Decides only what SQLite doesn't tell: an UPDATE of no row and a CREATE IF NOT EXISTS look the same to it. Whether anything was
//! written, and which row, is asked of SQLite itself (`mod.rs`).

/// What a statement does, if it does more than read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// INSERT or REPLACE.
    Insert,
    /// UPDATE or DELETE.
    Change,
    /// VACUUM.
    Vacuum,
    /// All else: reads, EXPLAIN, schema, PRAGMA.
    Other,
}

/// Whether the first statement in `sql` begins as one that takes rows or tables away.
pub(crate) fn removes(sql: &str) -> bool {
    let first = Tokens(sql).find(|token| *token != ";");
    first.is_some_and(|word| is(word, "delete") || is(word, "drop"))
}

impl Verb {
    /// Of the first statement in `sql`.
    pub(super) fn of(sql: &str) -> Verb {
        let mut tokens = Tokens(sql);
        let mut first = tokens.next();
        while first == Some(";") {
            first = tokens.next();
        }
        match first {
            Some(word) if is(word, "with") => Verb::after_with(tokens),
            word => Verb::named(word),
        }
    }

    fn named(word: Option<&str>) -> Verb {
        let verbs = [
            ("insert", Verb::Insert),
            ("replace", Verb::Insert),
            ("update", Verb::Change),
            ("delete", Verb::Change),
            ("vacuum", Verb::Vacuum),
        ];
        let word = word.unwrap_or_default();
        verbs.into_iter().find(|(verb, _)| is(word, verb)).map_or(Verb::Other, |(_, verb)| verb)
    }

    /// Behind WITH: the first word that follows a table's closing parenthesis, but for AS after its columns.
    fn after_with(tokens: Tokens<'_>) -> Verb {
        let mut depth = 0_usize;
        let mut closed = false;
        for token in tokens {
            match token {
                "(" => depth += 1,
                ")" => depth = depth.saturating_sub(1),
                word if depth == 0 && closed && word != "," && !is(word, "as") => {
                    return Verb::named(Some(word));
                }
                _ => {}
            }
            closed = token == ")" && depth == 0;
        }
        Verb::Other
    }
}

fn is(word: &str, keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword)
}

/// SQLite's tokens, without white space and comments; what is quoted is one token, and so is each other character.
struct Tokens<'s>(&'s str);

impl<'s> Iterator for Tokens<'s> {
    type Item = &'s str;

    fn next(&mut self) -> Option<&'s str> {
        loop {
            // SQLite takes a byte order mark for white space, wherever it stands.
            self.0 = self.0.trim_start_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r', '\u{feff}']);
            let (end, comment) = if self.0.starts_with("--") {
                (self.0.find('\n').map_or(self.0.len(), |end| end + 1), true)
            } else if self.0.starts_with("/*") {
                (self.0.get(2..).and_then(|rest| rest.find("*/")).map_or(self.0.len(), |end| end + 4), true)
            } else {
                (token_end(self.0)?, false)
            };
            let (token, rest) = self.0.split_at_checked(end)?;
            self.0 = rest;
            if !comment {
                return Some(token);
            }
        }
    }
}

/// Where the token at the start of `text` ends; `None` at the end of the text.
fn token_end(text: &str) -> Option<usize> {
    let first = text.chars().next()?;
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
    let quoted = |quote: char| {
        // A quote within is written twice, and so ends one part and begins another: for the end of the last it is the same.
        text.get(1..).and_then(|rest| rest.find(quote)).map_or(text.len(), |end| end + 2)
    };
    Some(match first {
        '\'' | '"' | '`' => quoted(first),
        '[' => quoted(']'),
        c if word(c) => text.find(|c| !word(c)).unwrap_or(text.len()),
        c => c.len_utf8(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verb_is_found_behind_whatever_may_stand_before_it() {
        let before = [
            "",
            " \t\r\n",
            ";",
            ";; ;\n;",
            "\u{feff}",
            ";\u{feff};",
            "-- why\n",
            "/* who */",
            "/**/--x\n/* ; */;",
            "/*/ still a comment */",
            "WITH a AS (SELECT 1) ",
            "with recursive a(x, y) as materialized (select ')', \"(\" from b), c AS NOT MATERIALIZED (VALUES (1)) ",
            "WITH\"insert\"AS(SELECT 1)",
            "WITH replace AS (SELECT 'it''s (' -- )\n) /* , */",
            "WITH [a(] AS (DELETE), `)` AS (SELECT (1), ((2)))\u{feff}",
        ];
        let verbs = [
            ("INSERT INTO t VALUES (1)", Verb::Insert),
            ("insert", Verb::Insert),
            ("REPLACE INTO t DEFAULT VALUES", Verb::Insert),
            ("UPDATE t SET a = 1", Verb::Change),
            ("Delete from t", Verb::Change),
            ("SELECT insert FROM update", Verb::Other),
        ];
        for before in before {
            for (text, verb) in verbs {
                assert_eq!(Verb::of(&format!("{before}{text}")), verb, "{before}{text}");
            }
        }
        let others = [
            "",
            ";",
            "-- INSERT",
            "/* INSERT",
            "inserted",
            "insert_",
            "'insert'",
            "[insert]",
            "EXPLAIN INSERT INTO t VALUES (1)",
            "EXPLAIN QUERY PLAN DELETE FROM t",
            "CREATE TABLE insert_t (a)",
            "WITH",
            "WITH a AS (SELECT 1",
            "WITH a AS SELECT",
            "'",
            "PRAGMA user_version",
            "explain vacuum",
            "äinsert",
        ];
        for text in others {
            assert_eq!(Verb::of(text), Verb::Other, "{text}");
        }
        for text in ["VACUUM", ";vacuum INTO 'x'", "\u{feff}/* VACUUM */ VaCuUm"] {
            assert_eq!(Verb::of(text), Verb::Vacuum, "{text}");
        }
    }
}
