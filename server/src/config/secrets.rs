//! The cluster's keys as files, and who may read what is secret.
//!
//! Owns the names of the files beside `key_file` while the key is changed, and the one rule by which the machine, `tanist doctor`
//! and every command judge a secret file's rights.

use std::path::{Path, PathBuf};

use tanist_transport::{ClusterKey, Keys};

use super::{Config, ConfigError, resolved::Fields};

/// Behind the name of `key_file`: a key that is accepted besides, and will be the one to dial with.
pub const NEXT: &str = ".next";
/// The key that was the one to dial with until now.
pub const OLD: &str = ".old";

const EXPECTED: &str = "32 bytes as base64 or hexadecimal, as `tanist init` makes it";

/// `file` with `.next` or `.old` behind its name.
#[must_use]
pub fn beside(file: &Path, end: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

pub(super) fn read_key(fields: &Fields<'_>, path: &Path) -> Result<ClusterKey, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let found = format!("{} ({error})", path.display());
        fields.error("key_file", found, "a readable file with the cluster key")
    })?;
    text.parse().map_err(|_| fields.error("key_file", path.display(), EXPECTED))
}

/// The machine's keys.
pub(super) fn keys(
    fields: &Fields<'_>,
    folder: &Path,
    key: Option<&str>,
    file: Option<&str>,
) -> Result<Keys, ConfigError> {
    match (key, file) {
        (Some(text), None) => {
            let found = || format!("{} characters", text.len());
            let key = text.parse().map_err(|_| fields.error("key", found(), EXPECTED))?;
            Ok(Keys { key, other: None })
        }
        (None, Some(name)) => keys_in(fields, &folder.join(name)),
        (None, None) => {
            Err(fields.error("key_file", "nothing", "a file with the cluster key (or `key` itself)"))
        }
        (Some(_), Some(_)) => Err(fields.error("key", "both key and key_file", "one of the two")),
    }
}

/// The key in `path` and the one beside it. In the middle of a change by `tanist key rotate` one of them may stand in two files.
fn keys_in(fields: &Fields<'_>, path: &Path) -> Result<Keys, ConfigError> {
    let key = read_key(fields, path)?;
    let (next, old) = (beside(path, NEXT), beside(path, OLD));
    let mut others = vec![];
    for file in [&next, &old].into_iter().filter(|file| file.exists()) {
        let other = read_key(fields, file)?;
        if other != key && !others.contains(&other) {
            others.push(other);
        }
    }
    if others.len() > 1 {
        let found = format!("both {} and {}", next.display(), old.display());
        let expected = "two keys at most: `tanist key drop` ends the change before";
        return Err(fields.error("key_file", found, expected));
    }
    Ok(Keys { key, other: others.pop() })
}

/// Who besides its owner reads a secret file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Nobody.
    Nobody,
    /// The members of this group, because root has given it to them.
    Group(u32),
}

/// Who reads a secret file that a machine with this data directory needs; or the mode that lets others do so, and the mode
/// that it should have. Root's file may be read by a group: that is how a service gets it that runs as another user. A file
/// that the service owns itself needs no group.
///
/// # Errors
/// When others may read or write it.
#[cfg(unix)]
pub fn readers(file: &Path, data_dir: &Path) -> Result<Readers, (u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(metadata) = std::fs::metadata(file) else { return Ok(Readers::Nobody) };
    let me = rustix::process::geteuid().as_raw();
    // Before there is a data directory, root can't know as whom the service will run.
    let service = std::fs::metadata(data_dir).ok().map(|metadata| metadata.uid());
    let service = service.or(Some(me).filter(|me| *me != 0));
    let mode = metadata.mode() & 0o777;
    let given = metadata.uid() == 0 && metadata.gid() != 0 && service != Some(0);
    let may = if given { 0o640 } else { 0o600 };
    match mode & 0o077 {
        0 => Ok(Readers::Nobody),
        others if others & !may == 0 => Ok(Readers::Group(metadata.gid())),
        _ => Err((mode, may)),
    }
}

/// On other systems the rights of the folder count, which `tanist service install` sets.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn readers(_: &Path, _: &Path) -> Result<Readers, (u32, u32)> {
    Ok(Readers::Nobody)
}

impl Config {
    /// The keys that count for this machine.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys { key: self.key.clone(), other: self.other_key.clone() }
    }

    /// The files with secrets that this configuration, itself in `file`, names or is; each with its field.
    #[must_use]
    pub fn secret_files(&self, file: &Path) -> Vec<(&'static str, PathBuf)> {
        let mut files = vec![];
        match &self.key_file {
            None => files.push(("key", file.to_owned())),
            Some(key) => {
                let all = [key.clone(), beside(key, NEXT), beside(key, OLD)];
                files.extend(all.into_iter().filter(|file| file.exists()).map(|file| ("key_file", file)));
            }
        }
        files.extend(self.tls.iter().map(|tls| ("tls.key_file", tls.key_file.clone())));
        files
    }

    /// Files that are looked at again while the machine runs, each with the field that it belongs to.
    #[must_use]
    pub(crate) fn watched_files(&self) -> Vec<(&'static str, PathBuf)> {
        let mut files = vec![];
        if let Some(key) = &self.key_file {
            let all = [key.clone(), beside(key, NEXT), beside(key, OLD)];
            files.extend(all.map(|file| ("key_file", file)));
        }
        files.extend(self.tls.iter().flat_map(super::Tls::files).map(|file| ("tls", file.to_owned())));
        files
    }

    /// Refuses secrets that others may read; `file` is the configuration's own.
    ///
    /// # Errors
    /// When others may read one, with what closes it.
    pub fn check_secrets(&self, file: &Path) -> Result<(), ConfigError> {
        let fields = Fields::of(file);
        for (field, secret) in self.secret_files(file) {
            if let Err((mode, may)) = readers(&secret, &self.data_dir) {
                let path = secret.display();
                let found = format!("{path}, which others may read (mode {mode:o})");
                let expected = format!("a secret that others may not read: chmod {may:o} {path}");
                return Err(fields.error(field, found, &expected));
            }
        }
        Ok(())
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

    use super::*;

    const KEYS: [&str; 3] = [
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "AgECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    ];

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn config(dir: &Path) -> Result<Config, ConfigError> {
        let file = dir.join("tanist.toml");
        let text = "cluster = \"wall\"\nid = \"a\"\nkey_file = \"cluster.key\"\n\
                    [[member]]\nid = \"a\"\nrank = 1\npeer = [\"127.0.0.1:7450\"]\n";
        write(&file, text, 0o644);
        Config::load(&file)
    }

    #[test]
    fn second_key_stands_beside_the_first_and_a_third_is_refused() {
        let dir = tempfile::TempDir::new().unwrap();
        let key = dir.path().join("cluster.key");
        write(&key, KEYS[0], 0o600);
        assert_eq!(config(dir.path()).unwrap().other_key, None);
        write(&beside(&key, NEXT), KEYS[1], 0o600);
        let both = config(dir.path()).unwrap();
        assert_eq!(
            (both.key.to_text().as_str(), both.other_key.unwrap().to_text().as_str()),
            (KEYS[0], KEYS[1])
        );
        // In the middle of the change the old one stands in two files.
        write(&beside(&key, OLD), KEYS[0], 0o600);
        assert_eq!(config(dir.path()).unwrap().other_key.unwrap().to_text(), KEYS[1]);
        write(&beside(&key, OLD), KEYS[2], 0o600);
        let error = config(dir.path()).unwrap_err().to_string();
        assert!(error.contains("cluster.key.next and") && error.contains("tanist key drop"), "{error}");
        write(&beside(&key, OLD), "rubbish", 0o600);
        let error = config(dir.path()).unwrap_err().to_string();
        assert!(error.contains("cluster.key.old"), "{error}");
    }

    #[test]
    fn every_secret_that_others_may_read_is_refused_with_the_command_that_closes_it() {
        let dir = tempfile::TempDir::new().unwrap();
        let key = dir.path().join("cluster.key");
        write(&key, KEYS[0], 0o600);
        for (name, mode) in [(&key, 0o644), (&beside(&key, NEXT), 0o604), (&key, 0o620)] {
            write(name, KEYS[0], mode);
            let error = config(dir.path()).unwrap_err().to_string();
            let advice = format!("chmod 600 {}", name.display());
            assert!(error.contains("key_file") && error.contains(&advice), "{error}");
            write(name, KEYS[0], 0o600);
            config(dir.path()).unwrap();
        }
        // A key in the configuration itself.
        let file = dir.path().join("tanist.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        write(&file, &text.replace("key_file = \"cluster.key\"", &format!("key = \"{}\"", KEYS[0])), 0o644);
        let error = Config::load(&file).unwrap_err().to_string();
        assert!(error.contains(&format!("chmod 600 {}", file.display())), "{error}");
    }

    #[test]
    fn a_group_reads_only_what_is_roots_and_only_for_a_service_that_is_not_root() {
        let dir = tempfile::TempDir::new().unwrap();
        let (key, data) = (dir.path().join("cluster.key"), dir.path().join("data"));
        std::fs::create_dir(&data).unwrap();
        write(&key, KEYS[0], 0o640);
        let owner = std::fs::metadata(&key).unwrap().uid();
        assert_eq!(readers(&key, &data), Err((0o640, 0o600)), "the owner's own file needs no group");
        if chown(&data, Some(4711), None).is_err() || owner != 0 {
            eprintln!("only root can give directories away: the rest is left out");
            return;
        }
        chown(&key, None, Some(4712)).unwrap();
        assert_eq!(readers(&key, &data), Ok(Readers::Group(4712)));
        let missing = dir.path().join("not yet");
        assert_eq!(readers(&key, &missing), Ok(Readers::Group(4712)), "root doesn't know for whom");
        write(&key, KEYS[0], 0o644);
        assert_eq!(readers(&key, &data), Err((0o644, 0o640)));
        write(&key, KEYS[0], 0o660);
        assert_eq!(readers(&key, &data), Err((0o660, 0o640)));
        write(&key, KEYS[0], 0o640);
        chown(&key, Some(4711), None).unwrap();
        assert_eq!(readers(&key, &data), Err((0o640, 0o600)));
    }
}
