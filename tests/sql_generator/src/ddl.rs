//! Statements that change the schema.

use crate::{
    Generator,
    schema::{Make, Schema, Table, View},
};

const COLUMNS: [&str; 9] = ["a", "b", "c", "d", "hex", "\"e f\"", "\"select\"", "G", "ä"];
/// More tables than this are dropped again.
const TABLES: usize = 9;

impl Generator {
    pub(crate) fn ddl(&mut self) -> String {
        if self.schema.tables.len() > TABLES {
            return self.drop_table();
        }
        match self.rng.u32(..100) {
            0..18 => self.create_table(),
            18..24 => self.create_virtual(),
            24..32 => self.drop_table(),
            32..58 => self.alter_table(),
            58..70 => self.create_index(),
            70..73 => self.drop_one("INDEX"),
            73..82 => self.create_view(),
            82..92 => self.create_trigger(),
            92..95 => self.drop_one("TRIGGER"),
            95..97 => self.drop_view(),
            97 => format!("PRAGMA user_version = {}", self.rng.u32(..100)),
            // No ANALYZE: other connections take its numbers over later, and may give rows in another order until then.
            _ => "REINDEX".to_owned(),
        }
    }

    /// The schema as it is after the statement.
    fn changed(&mut self, change: impl FnOnce(&mut Schema)) {
        let mut next = self.schema.clone();
        change(&mut next);
        self.next = Some(next);
    }

    /// A name that counts on even when the statement is refused.
    fn new_name(&mut self, prefix: &str) -> String {
        self.schema.name(&mut self.rng, prefix)
    }

    pub(crate) fn create_table(&mut self) -> String {
        let name = self.new_name("t");
        let strict = self.chance(25);
        let without_rowid = self.chance(20);
        let count = self.rng.usize(1..=5);
        let mut names: Vec<String> = COLUMNS.iter().map(ToString::to_string).collect();
        self.rng.shuffle(&mut names);
        names.truncate(count);
        if self.chance(8) {
            return self.create_as(&name);
        }
        let key = self.rng.u32(..100);
        let single_key = key < 60 || without_rowid;
        let mut generated = vec![];
        let mut parts = vec![];
        for (at, column) in names.iter().enumerate() {
            let kind = if strict {
                self.pick(&["INTEGER", "TEXT", "REAL", "BLOB", "ANY"])
            } else {
                self.pick(&["INTEGER", "TEXT", "REAL", "BLOB", "NUMERIC", "", "VARCHAR(9)", "BOOLEAN"])
            };
            let mut part = format!("{column} {kind}");
            if at == 0 && single_key {
                part = match key {
                    0..40 if !without_rowid => format!("{column} INTEGER PRIMARY KEY"),
                    40..50 if !without_rowid => format!("{column} INTEGER PRIMARY KEY AUTOINCREMENT"),
                    _ => format!("{column} TEXT PRIMARY KEY"),
                };
                part += self.pick(&["", "", "", " ON CONFLICT REPLACE", " ON CONFLICT IGNORE"]);
                part = part.replace("AUTOINCREMENT ON CONFLICT REPLACE", "AUTOINCREMENT");
                part = part.replace("AUTOINCREMENT ON CONFLICT IGNORE", "AUTOINCREMENT");
            } else if at > 0 && self.chance(12) {
                let first = &names[0];
                part += &format!(" AS (coalesce({first}, 0) || '-') {}", self.pick(&["VIRTUAL", "STORED"]));
                generated.push(column.clone());
            } else {
                part += &self.constraint(column);
            }
            parts.push(part);
        }
        let columns: Vec<_> = names.iter().filter(|name| !generated.contains(name)).cloned().collect();
        let mut unique = if single_key { vec![names[0].clone()] } else { vec![] };
        if columns.len() > 1 && !single_key && self.chance(40) {
            unique = columns[..2].to_vec();
            parts.push(format!("PRIMARY KEY ({})", unique.join(", ")));
        }
        if columns.len() > 1 && self.chance(10) {
            parts.push(format!("CHECK (typeof({}) <> 'blob' OR {} IS NULL)", columns[0], columns[1]));
        }
        if let (Some(parent), true) = (self.any_table(), self.chance(10))
            && let (Some(own), Some(other)) = (columns.last(), parent.unique.first())
        {
            let action = self.pick(&["", " ON DELETE CASCADE", " ON DELETE SET NULL ON UPDATE CASCADE"]);
            parts.push(format!("FOREIGN KEY ({own}) REFERENCES {}({other}){action}", parent.name));
        }
        let mut options = vec![];
        if strict {
            options.push("STRICT");
        }
        if without_rowid {
            options.push("WITHOUT ROWID");
        }
        let exists = if self.chance(30) { "IF NOT EXISTS " } else { "" };
        let sql = format!("CREATE TABLE {exists}{name}({}) {}", parts.join(", "), options.join(", "));
        let make = if without_rowid { Make::WithoutRowid } else { Make::Ordinary };
        if exists.is_empty() || !self.schema.tables.iter().any(|table| table.name == name) {
            self.changed(|schema| schema.add(Table { name, make, columns, generated, unique }));
        }
        sql
    }

    fn create_as(&mut self, name: &str) -> String {
        let Some(from) = self.any_table() else {
            return "CREATE TABLE nothing AS SELECT 1 AS one".to_owned();
        };
        let columns = from.readable();
        let table = Table {
            name: name.to_owned(),
            make: Make::Ordinary,
            columns: columns.clone(),
            generated: vec![],
            unique: vec![],
        };
        self.changed(|schema| schema.add(table));
        format!("CREATE TABLE {name} AS SELECT {} FROM {}", columns.join(", "), from.name)
    }

    fn constraint(&mut self, column: &str) -> String {
        match self.rng.u32(..100) {
            0..10 => " NOT NULL".to_owned(),
            10..18 => " NOT NULL DEFAULT 5".to_owned(),
            18..26 => " DEFAULT 'dflt'".to_owned(),
            26..30 => " DEFAULT (1.5 * 2)".to_owned(),
            30..40 => {
                format!(" UNIQUE{}", self.pick(&["", "", " ON CONFLICT IGNORE", " ON CONFLICT REPLACE"]))
            }
            40..46 => " COLLATE NOCASE".to_owned(),
            46..52 => format!(" CHECK ({column} IS NOT 42)"),
            _ => String::new(),
        }
    }

    fn create_virtual(&mut self) -> String {
        let (make, columns, sql): (_, Vec<&str>, _) = if self.chance(60) {
            let name = self.new_name("t");
            let options = self.pick(&["", ", tokenize = 'porter'", ", prefix = '2'"]);
            (
                Make::Fts,
                vec!["title", "body"],
                (name.clone(), format!("CREATE VIRTUAL TABLE {name} USING fts5(title, body{options})")),
            )
        } else {
            let name = self.new_name("t");
            let module = self.pick(&["rtree", "rtree_i32"]);
            (
                Make::Rtree,
                vec!["id", "x0", "x1"],
                (name.clone(), format!("CREATE VIRTUAL TABLE {name} USING {module}(id, x0, x1)")),
            )
        };
        let (name, sql) = sql;
        let columns = columns.into_iter().map(str::to_owned).collect();
        self.changed(|schema| schema.add(Table { name, make, columns, generated: vec![], unique: vec![] }));
        sql
    }

    fn drop_table(&mut self) -> String {
        let exists = if self.chance(40) { "IF EXISTS " } else { "" };
        let name = self.any_table().map_or_else(|| "nothing".to_owned(), |table| table.name);
        let sql = format!("DROP TABLE {exists}{name}");
        self.changed(|schema| schema.tables.retain(|table| table.name != name));
        sql
    }

    fn alter_table(&mut self) -> String {
        let Some(table) = self.any_table() else { return "ALTER TABLE nothing RENAME TO t99".to_owned() };
        let name = table.name.clone();
        let column = self.one_of(&table.columns);
        let free = COLUMNS.iter().find(|column| !table.readable().iter().any(|own| own == *column));
        match (self.rng.u32(..100), free) {
            (0..45, Some(free)) => {
                let constraint = self.pick(&[
                    "",
                    "",
                    " DEFAULT 5",
                    " DEFAULT 'x'",
                    " NOT NULL DEFAULT 1",
                    " NOT NULL",
                    " TEXT COLLATE NOCASE",
                ]);
                self.changed(|schema| {
                    schema.edit(&name, |table| table.columns.push((*free).to_owned()));
                });
                format!("ALTER TABLE {name} ADD COLUMN {free}{constraint}")
            }
            (45..65, _) => {
                self.changed(|schema| schema.edit(&name, |table| table.forget(&column)));
                format!("ALTER TABLE {name} DROP COLUMN {column}")
            }
            (65..85, Some(free)) => {
                self.changed(|schema| schema.edit(&name, |table| table.rename(&column, free)));
                format!("ALTER TABLE {name} RENAME COLUMN {column} TO {free}")
            }
            _ => {
                let to = self.new_name("t");
                self.changed(|schema| schema.edit(&name, |table| table.name.clone_from(&to)));
                format!("ALTER TABLE {name} RENAME TO {to}")
            }
        }
    }

    fn create_index(&mut self) -> String {
        let Some(table) = self.any_table() else { return "CREATE INDEX i ON nothing(a)".to_owned() };
        let name = self.new_name("i");
        let (one, two) = (self.one_of(&table.readable()), self.one_of(&table.columns));
        let unique = if self.chance(25) { "UNIQUE " } else { "" };
        let what = match self.rng.u32(..4) {
            0 => one,
            1 => format!("{one}, {two} DESC"),
            2 => format!("lower({one})"),
            _ => format!("{two}, length({one})"),
        };
        let part = match self.rng.u32(..4) {
            0 => format!(" WHERE {two} IS NOT NULL"),
            1 => format!(" WHERE {two} > 3"),
            _ => String::new(),
        };
        self.changed(|schema| schema.indexes.push(name.clone()));
        format!("CREATE {unique}INDEX IF NOT EXISTS {name} ON {}({what}){part}", table.name)
    }

    fn drop_one(&mut self, what: &str) -> String {
        let names = if what == "INDEX" { &self.schema.indexes } else { &self.schema.triggers };
        let name = self.rng.choice(names.iter()).cloned().unwrap_or_else(|| "nothing".to_owned());
        format!("DROP {what} IF EXISTS {name}")
    }

    fn create_view(&mut self) -> String {
        let Some(table) = self.any_table() else { return "CREATE VIEW v AS SELECT 1".to_owned() };
        let name = self.new_name("v");
        let columns = table.readable();
        let sql = format!("CREATE VIEW {name} AS SELECT {} FROM {}", columns.join(", "), table.name);
        self.changed(|schema| {
            schema.views.retain(|view| view.name != name);
            schema.views.push(View { name, columns });
        });
        sql
    }

    fn drop_view(&mut self) -> String {
        let Some(view) = self.rng.choice(self.schema.views.iter()).cloned() else {
            return "DROP VIEW IF EXISTS nothing".to_owned();
        };
        self.changed(|schema| schema.views.retain(|other| other.name != view.name));
        format!("DROP VIEW {}", view.name)
    }

    fn create_trigger(&mut self) -> String {
        let trigger = self.new_name("g");
        let target = self.any_table();
        let body = match &target {
            Some(into) if into.make != Make::Rtree => {
                let columns = into.columns.join(", ");
                let values: Vec<_> = into.columns.iter().map(|_| self.literal()).collect();
                let how = self.pick(&["INSERT OR IGNORE INTO", "INSERT OR REPLACE INTO", "INSERT INTO"]);
                format!("{how} {}({columns}) VALUES ({})", into.name, values.join(", "))
            }
            _ => "SELECT 1".to_owned(),
        };
        let event = self.pick(&["INSERT", "UPDATE", "DELETE"]);
        let when = match (self.rng.choice(self.schema.views.iter()).cloned(), self.chance(50)) {
            (Some(view), true) => format!("INSTEAD OF {event} ON {}", view.name),
            _ => {
                let table = self.any_table().map_or_else(|| "nothing".to_owned(), |table| table.name);
                format!("{} {event} ON {table}", self.pick(&["BEFORE", "AFTER"]))
            }
        };
        self.changed(|schema| schema.triggers.push(trigger.clone()));
        let condition = self.pick(&["", "", " WHEN 1", " WHEN 0"]);
        format!("CREATE TRIGGER {trigger} {when}{condition} BEGIN {body}; END")
    }

    pub(crate) fn any_table(&mut self) -> Option<Table> {
        self.rng.choice(self.schema.tables.iter()).cloned()
    }

    pub(crate) fn one_of(&mut self, names: &[String]) -> String {
        self.rng.choice(names.iter()).cloned().unwrap_or_else(|| "nothing".to_owned())
    }
}

impl Schema {
    fn edit(&mut self, name: &str, edit: impl FnOnce(&mut Table)) {
        if let Some(table) = self.tables.iter_mut().find(|table| table.name == name) {
            edit(table);
        }
    }
}

impl Table {
    fn forget(&mut self, column: &str) {
        self.columns.retain(|other| other != column);
    }

    fn rename(&mut self, column: &str, to: &str) {
        for name in self.columns.iter_mut().chain(&mut self.unique).filter(|name| *name == column) {
            to.clone_into(name);
        }
    }
}
