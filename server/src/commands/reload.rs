//! The configuration file as it changes while the machine runs, and the files of keys and certificates that it names.
//!
//! Owns the watch on the files and on their folders (editors put a new file in the old one's place). Whoever runs the machine
//! takes a changed configuration from here; a bad one is refused with the reason, and the old one stays in force.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{sync::mpsc, time::timeout};
use tracing_subscriber::EnvFilter;

use super::logging::log_filter;
use crate::{
    causes::in_words,
    config::{Changes, Config},
    http::Secured,
};

/// The file is looked at so often even when nobody says that it has changed: links and some file systems tell nothing.
const LOOK: Duration = Duration::from_secs(5);
/// Whoever is writing gets so long to finish.
const QUIET: Duration = Duration::from_millis(200);
/// A file that keeps changing is looked at nevertheless.
const CHANGES: usize = 20;

/// A good configuration that differs from the one that was looked at before.
pub(super) struct Change {
    pub(super) config: Config,
    pub(super) filter: EnvFilter,
    /// What differs from the one in force and can change while a machine runs, by name.
    pub(super) fields: Vec<String>,
}

/// A file that the configuration names.
struct Named {
    field: &'static str,
    path: PathBuf,
    /// Of its content and rights; `None`: it can't be read.
    mark: Option<Mark>,
}

type Mark = ([u8; 32], u32);

/// Changes with the file; shows nothing of it.
fn mark(path: &Path) -> Option<Mark> {
    let content = std::fs::read(path).ok()?;
    #[cfg(unix)]
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path).ok()?);
    #[cfg(not(unix))]
    let mode = 0;
    Some((*blake3::hash(&content).as_bytes(), mode))
}

fn named(config: &Config) -> Vec<Named> {
    let files = config.watched_files().into_iter();
    files.map(|(field, path)| Named { field, mark: mark(&path), path }).collect()
}

/// A configuration file that is watched.
pub(super) struct Reload {
    path: PathBuf,
    /// What the machine was started with.
    started: String,
    /// What is in force, as far as it can change.
    current: String,
    /// What was looked at last, good or bad.
    seen: Option<String>,
    /// Files that it names, each with its field and what was in it.
    named: Vec<Named>,
    /// The fields whose files have changed since they were last taken over.
    stale: BTreeSet<&'static str>,
    told: mpsc::Receiver<()>,
    /// Somebody wants it looked at.
    asked: bool,
    /// Watches as long as it is there.
    _watcher: Option<RecommendedWatcher>,
}

impl Reload {
    /// Watches a file whose text was `text` when the machine was started with it, as `config`.
    pub(super) fn watch(path: &Path, text: String, config: &Config) -> Reload {
        let (tell, told) = mpsc::channel(1);
        let named = named(config);
        let watcher = watcher(path, &named, tell)
            .inspect_err(|error| {
                tracing::warn!(file = %path.display(), %error, every = ?LOOK, "the configuration file can't be watched and is looked at instead");
            })
            .ok();
        Reload {
            path: path.to_owned(),
            started: text.clone(),
            current: text.clone(),
            seen: Some(text),
            named,
            stale: BTreeSet::new(),
            told,
            asked: false,
            _watcher: watcher,
        }
    }

    /// Looks at the file at once, and says so even when nothing has changed.
    pub(super) fn ask(&mut self) {
        self.asked = true;
    }

    /// The next changed configuration, or why it can't be used. May be given up and asked again.
    pub(super) async fn next(&mut self) -> Result<Change, String> {
        loop {
            if std::mem::take(&mut self.asked) {
                let found = self.look();
                let news = if found.is_some() { "has changed" } else { "is as it was" };
                tracing::info!(file = %self.path.display(), "asked to read the configuration: it {news}");
                if let Some(changed) = found {
                    return changed;
                }
            }
            // An error is the time for a look that nobody has asked for.
            if timeout(LOOK, told(&mut self.told)).await.is_ok() {
                for _ in 0..CHANGES {
                    if timeout(QUIET, told(&mut self.told)).await.is_err() {
                        break;
                    }
                }
            }
            if let Some(changed) = self.look() {
                return changed;
            }
        }
    }

    fn look(&mut self) -> Option<Result<Change, String>> {
        let file = self.path.display();
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) => {
                return self.seen.take().map(|_| Err(format!("configuration {file} can't be read: {error}")));
            }
        };
        let mut moved = false;
        for named in &mut self.named {
            let now = mark(&named.path);
            if now != named.mark {
                named.mark = now;
                self.stale.insert(named.field);
                moved = true;
            }
        }
        if self.seen.as_ref() == Some(&text) && !moved {
            return None;
        }
        let read = Config::parse(&self.path, &text).map_err(anyhow::Error::from);
        let read = read.and_then(|config| {
            config.check_secrets(&self.path)?;
            config.tls.as_ref().map(Secured::load).transpose()?;
            Ok((log_filter(&config)?, config))
        });
        self.seen = Some(text.clone());
        let (filter, config) = match read {
            Ok(read) => read,
            Err(error) => return Some(Err(in_words(&error))),
        };
        let restart = Changes::between(&self.started, &text).restart;
        let mut live = Changes::between(&self.current, &text).live;
        live.extend(std::mem::take(&mut self.stale).into_iter().map(|field| format!("the files of {field}")));
        self.current = text;
        if !restart.is_empty() {
            tracing::warn!(%file, fields = restart.join(", "), "these settings need a restart");
        }
        for warning in config.warnings() {
            tracing::warn!(%file, "{warning}");
        }
        Some(Ok(Change { config, filter, fields: live }))
    }
}

/// Waits for the watcher, or for ever.
async fn told(told: &mut mpsc::Receiver<()>) {
    if told.recv().await.is_none() {
        std::future::pending().await
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn watcher(path: &Path, named: &[Named], tell: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let paths = || [path].into_iter().chain(named.iter().map(|named| named.path.as_path()));
    let names: BTreeSet<OsString> =
        paths().filter_map(|path| path.file_name().map(ToOwned::to_owned)).collect();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file is an event, too: it must not be read again for that.
        let concerns = event.map_or(true, |event| {
            !event.kind.is_access()
                && event.paths.iter().any(|path| path.file_name().is_some_and(|name| names.contains(name)))
        });
        if concerns {
            // When it is full, somebody is about to look.
            let _ = tell.try_send(());
        }
    })?;
    watcher.watch(folder(path), RecursiveMode::NonRecursive)?;
    let others: BTreeSet<&Path> = paths().map(folder).filter(|other| *other != folder(path)).collect();
    for other in others {
        // They are looked at besides.
        if let Err(error) = watcher.watch(other, RecursiveMode::NonRecursive) {
            tracing::debug!(folder = %other.display(), %error, "a folder with keys or certificates can't be watched");
        }
    }
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "cluster = \"wall\"\nid = \"a\"\nkey = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n[[member]]\nid = \"a\"\nrank = 1\npeer = [\"127.0.0.1:7450\"]\n";

    fn reload(dir: &tempfile::TempDir) -> (Reload, PathBuf) {
        let path = dir.path().join("tanist.toml");
        tanist_store::private::write(&path, GOOD.as_bytes()).unwrap();
        let config = Config::load(&path).unwrap();
        (Reload::watch(&path, GOOD.to_owned(), &config), path)
    }

    #[tokio::test]
    async fn good_change_is_taken_also_by_a_new_file_in_the_old_ones_place() {
        let dir = tempfile::TempDir::new().unwrap();
        let (mut reload, path) = reload(&dir);
        std::fs::write(&path, format!("{GOOD}[limits]\nstatements = 5\n")).unwrap();
        assert_eq!(reload.next().await.unwrap().config.limits.statements, 5);
        let new = dir.path().join("tanist.toml.new");
        tanist_store::private::write(&new, format!("{GOOD}[limits]\nstatements = 6\n").as_bytes()).unwrap();
        std::fs::rename(&new, &path).unwrap();
        assert_eq!(reload.next().await.unwrap().config.limits.statements, 6);
    }

    #[tokio::test]
    async fn asked_for_it_is_looked_at_without_waiting() {
        let dir = tempfile::TempDir::new().unwrap();
        let (mut reload, path) = reload(&dir);
        std::fs::write(&path, format!("{GOOD}[limits]\nstatements = 8\n")).unwrap();
        reload.ask();
        let change = timeout(Duration::ZERO, reload.next()).await.expect("at once").unwrap();
        assert_eq!(change.config.limits.statements, 8);
        reload.ask();
        assert!(timeout(Duration::ZERO, reload.next()).await.is_err(), "nothing has changed since");
    }

    #[test]
    fn bad_file_changes_nothing_and_neither_does_one_that_needs_a_restart() {
        let dir = tempfile::TempDir::new().unwrap();
        let (mut reload, path) = reload(&dir);
        let mut look = |more: &str| {
            std::fs::write(&path, format!("{GOOD}{more}")).unwrap();
            reload.look().map(|change| {
                change.map(|change| (change.config.limits.statements, change.fields.len())).map_err(drop)
            })
        };
        assert_eq!(look(""), None);
        assert_eq!(look("[limits]\nstatements = 0\n"), Some(Err(())), "a bad value");
        assert_eq!(look("[limits]\nstatements = 0\n"), None, "said once");
        assert_eq!(look("[limits\n"), Some(Err(())), "no TOML");
        assert_eq!(look("[log]\nfilter = \"=\"\n"), Some(Err(())), "a bad filter");
        assert_eq!(look("[timing]\nheartbeat = \"50ms\"\n"), Some(Ok((1000, 0))), "needs a restart");
        assert_eq!(look("[timing]\nheartbeat = \"50ms\"\n[limits]\nstatements = 7\n"), Some(Ok((7, 1))));
        assert_eq!(look("[timing]\nheartbeat = \"50ms\"\n[limits]\nstatements = 7\n"), None, "known");
        assert_eq!(look(""), Some(Ok((1000, 1))), "back to the default");
    }

    #[cfg(unix)]
    #[test]
    fn files_of_keys_and_certificates_are_looked_at_too_and_bad_ones_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        use tanist_store::private;
        const OTHER: &str = "AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let dir = tempfile::TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        let certificate = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let made =
                rcgen::CertificateParams::new(vec!["pc-1".to_owned()]).unwrap().self_signed(&key).unwrap();
            (made.pem(), key.serialize_pem())
        };
        let text =
            GOOD.replace("key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"", "key_file = \"c.key\"");
        let text = format!("{text}[tls]\ncert_file = \"t.crt\"\nkey_file = \"t.key\"\n");
        private::write(&at("c.key"), b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let (cert, key) = certificate();
        private::write(&at("t.crt"), cert.as_bytes()).unwrap();
        private::write(&at("t.key"), key.as_bytes()).unwrap();
        private::write(&at("tanist.toml"), text.as_bytes()).unwrap();
        let config = Config::load(&at("tanist.toml")).unwrap();
        let mut reload = Reload::watch(&at("tanist.toml"), text, &config);
        assert!(reload.look().is_none());

        private::write(&at("c.key.next"), OTHER.as_bytes()).unwrap();
        let change = reload.look().unwrap().unwrap();
        assert_eq!(change.config.other_key.unwrap().to_text(), OTHER);
        assert_eq!(change.fields, ["the files of key_file"]);
        assert!(reload.look().is_none(), "known");
        std::fs::set_permissions(at("c.key.next"), std::fs::Permissions::from_mode(0o644)).unwrap();
        let why = reload.look().unwrap().err().unwrap();
        assert!(why.contains("chmod 600") && why.contains("c.key.next"), "{why}");
        std::fs::remove_file(at("c.key.next")).unwrap();
        assert!(reload.look().unwrap().unwrap().config.other_key.is_none());

        let (cert, key) = certificate();
        private::write(&at("t.crt"), cert.as_bytes()).unwrap();
        let why = reload.look().unwrap().err().unwrap();
        assert!(why.contains("tls"), "{why}");
        assert!(reload.look().is_none(), "said once");
        private::write(&at("t.key"), key.as_bytes()).unwrap();
        assert_eq!(reload.look().unwrap().unwrap().fields, ["the files of tls"]);
    }
}
