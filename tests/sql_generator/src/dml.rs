//! Statements about rows.

use crate::{
    Generator,
    schema::{Make, Table},
};

impl Generator {
    /// A table, or now and then a view.
    fn target(&mut self) -> Table {
        if self.chance(12)
            && let Some(view) = self.rng.choice(self.schema.views.iter()).cloned()
        {
            return Table {
                name: view.name,
                make: Make::WithoutRowid,
                columns: view.columns,
                generated: vec![],
                unique: vec![],
            };
        }
        self.any_table().unwrap_or_else(|| Table {
            name: "nothing".to_owned(),
            make: Make::Ordinary,
            columns: vec!["a".to_owned()],
            generated: vec![],
            unique: vec![],
        })
    }

    fn values(&mut self, table: &Table, columns: usize) -> String {
        let values: Vec<_> = (0..columns)
            .map(|at| match table.make {
                Make::Fts => format!("'{} {}'", self.word(), self.word()),
                Make::Rtree => ((at as i64).max(self.rng.i64(..9)) + at as i64).to_string(),
                _ => self.value(),
            })
            .collect();
        format!("({})", values.join(", "))
    }

    pub(crate) fn insert(&mut self) -> String {
        let table = self.target();
        let verb = match self.rng.u32(..100) {
            0..70 => "INSERT",
            70..78 => "INSERT OR IGNORE",
            78..84 => "INSERT OR REPLACE",
            84..88 => "INSERT OR FAIL",
            88..90 => "INSERT OR ABORT",
            _ => "REPLACE",
        };
        let mut columns = table.columns.clone();
        if columns.len() > 1 && self.chance(30) {
            self.rng.shuffle(&mut columns);
            columns.truncate(columns.len() - 1);
        }
        let list = if self.chance(20) { String::new() } else { format!("({})", columns.join(", ")) };
        let count = if list.is_empty() { table.columns.len() } else { columns.len() };
        let (with, source) = match self.rng.u32(..100) {
            0..66 => {
                let rows: Vec<_> = (0..self.rng.usize(1..=3)).map(|_| self.values(&table, count)).collect();
                (String::new(), format!("VALUES {}", rows.join(", ")))
            }
            66..74 => (String::new(), "DEFAULT VALUES".to_owned()),
            74..84 => {
                let from = self.target();
                let picked: Vec<_> = (0..count).map(|_| self.one_of(&from.readable())).collect();
                let limit = self.rng.u32(..3);
                (
                    String::new(),
                    format!("SELECT {} FROM {} WHERE 1 LIMIT {limit}", picked.join(", "), from.name),
                )
            }
            _ => {
                let names: Vec<_> = (0..count).map(|at| format!("n{at}")).collect();
                let values = self.values(&table, count);
                let recursive = self.pick(&["", "RECURSIVE "]);
                let with = format!("WITH {recursive}replace({}) AS (VALUES {values}) ", names.join(", "));
                (with, format!("SELECT * FROM replace WHERE {}", self.pick(&["1", "1", "0"])))
            }
        };
        let upsert = if source.starts_with("DEFAULT") || verb != "INSERT" {
            String::new()
        } else {
            self.upsert(&table)
        };
        let returning = self.returning(&table);
        format!("{with}{verb} INTO {}{list} {source}{upsert}{returning}", table.name)
    }

    fn upsert(&mut self, table: &Table) -> String {
        if !self.chance(30) {
            return String::new();
        }
        let target = if table.unique.is_empty() || self.chance(20) {
            String::new()
        } else {
            format!(" ({})", table.unique.join(", "))
        };
        if self.chance(35) {
            return format!(" ON CONFLICT{target} DO NOTHING");
        }
        let column = self.one_of(&table.columns);
        let value = match self.rng.u32(..3) {
            0 => format!("excluded.{column}"),
            1 => format!("{}.{column}", table.name),
            _ => self.value(),
        };
        let condition = self.pick(&["", "", " WHERE 1", " WHERE 0"]);
        format!(" ON CONFLICT{target} DO UPDATE SET {column} = {value}{condition}")
    }

    fn returning(&mut self, table: &Table) -> String {
        match self.rng.u32(..100) {
            0..18 => " RETURNING *".to_owned(),
            18..26 => format!(" RETURNING {}", self.one_of(&table.readable())),
            26..30 => " RETURNING 1 + 1 AS two, NULL".to_owned(),
            30..33 if table.make == Make::Ordinary => " RETURNING rowid, *".to_owned(),
            _ => String::new(),
        }
    }

    fn condition(&mut self, table: &Table) -> String {
        let column = self.one_of(&table.readable());
        match self.rng.u32(..100) {
            0..12 => String::new(),
            12..20 if table.make == Make::Fts => {
                format!(" WHERE {} MATCH '{}'", table.name, self.pick(&["red", "bolt", "x*"]))
            }
            20..30 if table.make == Make::Rtree => " WHERE x0 <= 4 AND x1 >= 2".to_owned(),
            30..36 => " WHERE 0".to_owned(),
            36..44 => format!(" WHERE {column} IS NULL"),
            44..50 => format!(" WHERE {column} BETWEEN 0 AND 9"),
            50..56 => format!(" WHERE {column} IN (SELECT {column} FROM {} LIMIT 2)", table.name),
            56..62 => format!(" WHERE {column} LIKE '%{}%'", self.pick(&["a", "e", "1"])),
            62..68 if matches!(table.make, Make::Ordinary | Make::Fts) => {
                format!(" WHERE rowid <= {}", self.rng.u32(..6))
            }
            _ => {
                let how = self.pick(&["=", "<>", ">", "IS", "<="]);
                format!(" WHERE {column} {how} {}", self.value())
            }
        }
    }

    pub(crate) fn update(&mut self) -> String {
        let table = self.target();
        let verb = match self.rng.u32(..10) {
            0 => "UPDATE OR IGNORE",
            1 => "UPDATE OR REPLACE",
            2 => "UPDATE OR FAIL",
            _ => "UPDATE",
        };
        let column = self.one_of(&table.columns);
        let set = match (self.rng.u32(..4), table.make) {
            (_, Make::Rtree) => "x1 = x1 + 1".to_owned(),
            (0, _) => format!("{column} = {column} || 'x'"),
            (1, _) => format!("{column} = {column} + 1"),
            _ => format!("{column} = {}", self.value()),
        };
        let from = if self.chance(6) { " FROM (SELECT 1 AS one) AS o" } else { "" };
        let condition = self.condition(&table);
        let returning = self.returning(&table);
        let with = if self.chance(6) { "WITH n AS (SELECT 1) " } else { "" };
        format!("{with}{verb} {} SET {set}{from}{condition}{returning}", table.name)
    }

    pub(crate) fn delete(&mut self) -> String {
        let table = self.target();
        let mut condition = self.condition(&table);
        if condition.is_empty() && self.chance(70) {
            // Rows should last for a while.
            condition = format!(" WHERE {} = {}", self.one_of(&table.readable()), self.value());
        }
        let returning = self.returning(&table);
        let with =
            if self.chance(10) { "WITH n(x) AS (SELECT 'a'), m AS MATERIALIZED (SELECT 1) " } else { "" };
        format!("{with}DELETE FROM {}{condition}{returning}", table.name)
    }

    pub(crate) fn select(&mut self) -> String {
        let table = self.target();
        let name = table.name.clone();
        let shape = self.rng.u32(..18);
        // A parameter that isn't in the text would be one too many.
        let condition = if matches!(shape, 0..8 | 10 | 13) { self.condition(&table) } else { String::new() };
        let (one, two) = (self.one_of(&table.readable()), self.one_of(&table.readable()));
        match shape {
            0..5 => format!("SELECT * FROM {name}{condition}"),
            5 => format!(
                "SELECT {one}, {two} AS \"x y\", typeof({one}) FROM {name}{condition} ORDER BY 1, 2, 3"
            ),
            6 => format!(
                "SELECT count(*), sum({one}), min({two}), group_concat({two}, '|') FROM {name}{condition}"
            ),
            7 => format!(
                "SELECT {one}, count(*) AS n FROM {name}{condition} GROUP BY 1 HAVING n > 0 ORDER BY 1"
            ),
            8 => {
                let other = self.target();
                let key = self.one_of(&other.readable());
                format!(
                    "SELECT l.*, r.{key} FROM {name} AS l LEFT JOIN {} AS r ON l.{one} = r.{key} LIMIT 20",
                    other.name
                )
            }
            9 => format!(
                "WITH RECURSIVE c(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM c WHERE i < 4) SELECT i, (SELECT {one} FROM {name} LIMIT 1) FROM c"
            ),
            10 => format!(
                "SELECT {one}, row_number() OVER (ORDER BY {one}, {two}) FROM {name}{condition} ORDER BY 2"
            ),
            11 => format!("SELECT {one} FROM {name} UNION SELECT {} ORDER BY 1 LIMIT 9", self.value()),
            12 => format!("SELECT {}, {} AS v WHERE {}", self.value(), self.value(), self.pick(&["1", "0"])),
            13 => format!("EXPLAIN QUERY PLAN SELECT * FROM {name}{condition}"),
            14 => format!(
                "SELECT json_object('a', {one}), CAST({two} AS TEXT) FROM {name} WHERE typeof({one}) <> 'blob' LIMIT 5"
            ),
            15 => format!("SELECT name, type FROM pragma_table_xinfo('{name}')"),
            _ => format!(
                "PRAGMA {}({name})",
                self.pick(&["table_info", "table_xinfo", "index_list", "foreign_key_list"])
            ),
        }
    }
}
