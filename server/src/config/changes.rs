//! What differs between two configuration files, and what of it can be used by a machine that runs.

use toml::{Table, Value};

use super::Config;

/// Fields, and sections ending in a dot, that a running machine can take over.
const LIVE: [&str; 7] = [
    "log.filter",
    "health.",
    "hooks.",
    "limits.body",
    "limits.statements",
    "limits.master_wait",
    "limits.requests_per_second",
];

/// The fields that differ, by name; their values may be secret.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// These take effect at once.
    pub live: Vec<String>,
    /// These need a restart.
    pub restart: Vec<String>,
}

impl Changes {
    /// What differs between two texts that are both TOML.
    #[must_use]
    pub fn between(old: &str, new: &str) -> Changes {
        let parse = |text: &str| text.parse::<Table>().unwrap_or_default();
        let mut differing = vec![];
        compare("", &parse(old), &parse(new), &mut differing);
        let is_live = |field: &String| {
            LIVE.iter().any(|live| field == live || (live.ends_with('.') && field.starts_with(live)))
        };
        let (live, restart) = differing.into_iter().partition(is_live);
        Changes { live, restart }
    }
}

fn compare(section: &str, old: &Table, new: &Table, differing: &mut Vec<String>) {
    let empty = Table::new();
    let added = new.iter().filter(|(name, _)| !old.contains_key(*name));
    for (name, value) in old.iter().chain(added) {
        let field = format!("{section}{name}");
        match (value, old.get(name), new.get(name)) {
            (Value::Table(_), old, new) => {
                let table = |value: Option<&Value>| value.and_then(Value::as_table).cloned();
                let (old, new) = (table(old), table(new));
                let (old, new) = (old.as_ref().unwrap_or(&empty), new.as_ref().unwrap_or(&empty));
                compare(&format!("{field}."), old, new, differing);
            }
            (_, old, new) if old != new => differing.push(field),
            _ => {}
        }
    }
}

impl Config {
    /// Takes over what a running machine can; see [`Changes::live`].
    pub fn take_over(&mut self, new: Config) {
        if self.key_file.is_some() && self.key_file == new.key_file {
            self.key = new.key;
            self.other_key = new.other_key;
        }
        self.health = new.health;
        self.hooks = new.hooks;
        self.log.filter = new.log.filter;
        self.limits.body = new.limits.body;
        self.limits.statements = new.limits.statements;
        self.limits.master_wait = new.limits.master_wait;
        self.limits.requests_per_second = new.limits.requests_per_second;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_named_and_sorted_by_what_they_need() {
        let old = "id = \"a\"\n[limits]\nbody = \"1MiB\"\nrows = 5\n[timing]\nlease = \"1s\"\n[[member]]\nid = \"a\"\n";
        let new = "id = \"a\"\n[limits]\nbody = \"2MiB\"\nrows = 6\n[hooks]\ntimeout = \"3s\"\n[[member]]\nid = \"b\"\n";
        let changes = Changes::between(old, new);
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut all = (changes.live, changes.restart);
        all.0.sort_unstable();
        all.1.sort_unstable();
        assert_eq!(all.0, names(&["hooks.timeout", "limits.body"]));
        assert_eq!(all.1, names(&["limits.rows", "member", "timing.lease"]));
        assert_eq!(Changes::between(new, &format!("# a remark\n{new}")), Changes::default());
    }
}
