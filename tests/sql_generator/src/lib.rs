//! Users' SQL by chance: DDL and DML that the authorizer lets through, over every feature of SQLite that users have.
//!
//! The same seed gives the same statements, as long as the caller says the same of each ([`Generator::accepted`]). Statements refer
//! to what was made before and accepted, but not always: errors are part of it. What depends on the moment, the connection or
//! chance (dates, `random()`, `changes()`) is left out, so that any two SQLites of one version must answer alike.

mod ddl;
mod dml;
mod schema;

use serde_json::{Value, json};

use schema::Schema;

/// What a statement is, by the way it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// INSERT or REPLACE.
    Insert,
    /// UPDATE or DELETE.
    Change,
    /// Changes the schema or a number of the database's.
    Schema,
    /// Only reads; may go to a reader.
    Read,
}

/// One statement.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// Its text.
    pub sql: String,
    /// For its `?`, as a request has them.
    pub params: Vec<Value>,
    /// What it is.
    pub kind: Kind,
}

/// Makes statements.
#[derive(Debug)]
pub struct Generator {
    rng: fastrand::Rng,
    /// What was accepted.
    schema: Schema,
    /// What is so if the newest statement is accepted.
    next: Option<Schema>,
    /// Earlier statements, to come again when the schema is another.
    earlier: Vec<Generated>,
    params: Vec<Value>,
}

/// So many statements may come again.
const EARLIER: usize = 60;

impl Generator {
    /// A generator with an empty database before it.
    #[must_use]
    pub fn new(seed: u64) -> Generator {
        Generator {
            rng: fastrand::Rng::with_seed(seed),
            schema: Schema::default(),
            next: None,
            earlier: vec![],
            params: vec![],
        }
    }

    /// The next statement.
    pub fn next_statement(&mut self) -> Generated {
        self.next = None;
        // A text that was prepared before meets another schema, other rows, and statement caches.
        if !self.earlier.is_empty() && self.chance(30) {
            let at = self.rng.usize(..self.earlier.len());
            return self.earlier[at].clone();
        }
        self.params.clear();
        let (kind, sql) = match self.rng.u32(..100) {
            _ if self.schema.tables.is_empty() => (Kind::Schema, self.create_table()),
            0..18 => (Kind::Schema, self.ddl()),
            18..48 => (Kind::Insert, self.insert()),
            48..60 => (Kind::Change, self.update()),
            60..67 => (Kind::Change, self.delete()),
            _ => (Kind::Read, self.select()),
        };
        let sql = self.adorned(sql);
        let generated = Generated { sql, params: std::mem::take(&mut self.params), kind };
        if kind != Kind::Schema || self.chance(20) {
            if self.earlier.len() == EARLIER {
                let at = self.rng.usize(..EARLIER);
                self.earlier.swap_remove(at);
            }
            self.earlier.push(generated.clone());
        }
        generated
    }

    /// Says whether the newest statement was accepted.
    pub fn accepted(&mut self, accepted: bool) {
        if let (Some(next), true) = (self.next.take(), accepted) {
            self.schema = next;
        }
    }

    /// The tables and views that there should be.
    #[must_use]
    pub fn tables(&self) -> Vec<String> {
        let tables = self.schema.tables.iter().map(|table| table.name.clone());
        tables.chain(self.schema.views.iter().map(|view| view.name.clone())).collect()
    }

    /// A value as SQL has it, of any type, the awkward ones among them. Not the largest integer: as a row's number it makes SQLite
    /// choose the next ones by chance.
    pub fn literal(&mut self) -> String {
        let literals = [
            "NULL",
            "0",
            "1",
            "-1",
            "7",
            "42",
            "4611686018427387907",
            "-9223372036854775808",
            "0.0",
            "-0.0",
            "1.5",
            "-2.5e-7",
            "0.1",
            "1e300",
            "9e999",
            "-9e999",
            "123456789012345678.0",
            "''",
            "'a'",
            "'ab c'",
            "'Ä\u{1f600}'",
            "'12'",
            "'1.50'",
            "x''",
            "x'00ff'",
            "x'6162'",
            "CAST(x'66ff6f' AS TEXT)",
            "char(0, 10, 34)",
            "'it''s'",
            "TRUE",
            "(1 + 2)",
            "'{\"hex\":\"00\"}'",
            "json_array(1, 2.50)",
        ];
        match self.rng.u32(..10) {
            0..6 => literals[self.rng.usize(..literals.len())].to_owned(),
            6..8 => self.rng.i64(-5..15).to_string(),
            8 => format!("'{}'", self.word()),
            _ => format!("{:?}", f64::from(self.rng.i32(-1000..1000)) / 7.0),
        }
    }

    /// A value, perhaps by parameter.
    fn value(&mut self) -> String {
        if !self.chance(25) {
            return self.literal();
        }
        let params = [
            json!(null),
            json!(true),
            json!(3),
            json!(-8),
            json!(4_611_686_018_427_387_907_i64),
            json!(0.1),
            json!(1e300),
            json!(-0.0),
            json!("p"),
            json!("ä"),
            json!("a\u{0}b"),
            json!({ "base64": "AP8=" }),
            json!({ "base64": "" }),
            json!({ "real": "Infinity" }),
            json!({ "text_base64": "Zv9v" }),
        ];
        self.params.push(params[self.rng.usize(..params.len())].clone());
        "?".to_owned()
    }

    fn word(&mut self) -> &'static str {
        let words = ["red", "green", "blue", "Red", "bolt", "nut", "a b", "zz", "x1", "the"];
        words[self.rng.usize(..words.len())]
    }

    /// In so many of a hundred cases.
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(..100) < percent
    }

    fn pick<'p>(&mut self, from: &[&'p str]) -> &'p str {
        from[self.rng.usize(..from.len())]
    }

    /// With what may stand around a statement, or a mistake in it.
    fn adorned(&mut self, sql: String) -> String {
        let sql = if self.chance(2) { self.broken(&sql) } else { sql };
        let before = match self.rng.u32(..100) {
            0..4 => ";",
            4..8 => "\u{feff}",
            8..12 => "-- ü\n",
            12..16 => "/* a; b */ ",
            16..18 => ";;\n\t",
            _ => "",
        };
        let after = match self.rng.u32(..100) {
            0..8 => ";",
            8..12 => " -- end",
            12..15 => "; /* end */",
            _ => "",
        };
        format!("{before}{sql}{after}")
    }

    /// Without one of its words.
    fn broken(&mut self, sql: &str) -> String {
        let words: Vec<_> = sql.split(' ').collect();
        let without = self.rng.usize(..words.len());
        let kept = words.iter().enumerate().filter(|(at, _)| *at != without).map(|(_, word)| *word);
        kept.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn same_seed_gives_the_same_statements_and_another_seed_others() {
        let run = |seed| {
            let mut generator = Generator::new(seed);
            let statements = (0..500).map(|_| {
                let statement = generator.next_statement();
                generator.accepted(!statement.sql.len().is_multiple_of(5));
                statement
            });
            statements.collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let kinds: HashSet<_> = run(7).iter().map(|statement| format!("{:?}", statement.kind)).collect();
        assert_eq!(kinds.len(), 4, "{kinds:?}");
    }
}
