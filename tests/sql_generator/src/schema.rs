//! What the generator believes that the database holds.

/// How a table is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    Ordinary,
    WithoutRowid,
    Fts,
    Rtree,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) make: Make,
    /// Those that can be written.
    pub(crate) columns: Vec<String>,
    /// Those that can only be read.
    pub(crate) generated: Vec<String>,
    /// Columns that are unique together, for upserts.
    pub(crate) unique: Vec<String>,
}

impl Table {
    pub(crate) fn readable(&self) -> Vec<String> {
        self.columns.iter().chain(&self.generated).cloned().collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) name: String,
    pub(crate) columns: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Schema {
    pub(crate) tables: Vec<Table>,
    pub(crate) views: Vec<View>,
    pub(crate) indexes: Vec<String>,
    pub(crate) triggers: Vec<String>,
    /// Names are numbered from here.
    pub(crate) made: u32,
}

impl Schema {
    /// A name nobody has, or one that was given before.
    pub(crate) fn name(&mut self, rng: &mut fastrand::Rng, prefix: &str) -> String {
        if self.made > 2 && rng.u32(..100) < 25 {
            return format!("{prefix}{}", rng.u32(1..=self.made));
        }
        self.made += 1;
        format!("{prefix}{}", self.made)
    }

    /// Makes a table anew, or for the first time.
    pub(crate) fn add(&mut self, table: Table) {
        self.tables.retain(|other| other.name != table.name);
        self.tables.push(table);
    }
}
