//! Services by systemd: the unit's file, the user, and `systemctl`.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use tanist_windows::firewall::{self, Firewall};

use super::{Plan, ServiceStatus, unit, writable};
use crate::config::Config;

const UNITS: &str = "/etc/systemd/system";

pub(super) fn print(plan: &Plan) -> anyhow::Result<()> {
    std::io::stdout().write_all(unit::text(plan).as_bytes()).context("write the unit")
}

pub(super) fn install(plan: &Plan) -> anyhow::Result<()> {
    needs_systemd()?;
    needs_root("install")?;
    let name = plan.account.as_deref().unwrap_or(unit::USER);
    let user = find_or_make(name, &plan.name)?;
    for path in writable(&plan.config) {
        give(path, user, 0o700)?;
    }
    for path in secrets(&plan.file, &plan.config) {
        share(&path, user)?;
        must_read(name, &path)?;
    }
    write_unit(&unit_path(&plan.name), &unit::text(plan))?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "--quiet", &unit_name(&plan.name)])
}

pub(super) fn start(name: &str) -> anyhow::Result<()> {
    must_be_installed(name)?;
    systemctl(&["start", &unit_name(name)])
        .with_context(|| format!("start {name}; `journalctl -u {name} -n 30` shows what it said"))
}

pub(super) fn stop(name: &str) -> anyhow::Result<()> {
    must_be_installed(name)?;
    systemctl(&["stop", &unit_name(name)])
}

pub(super) fn uninstall(name: &str) -> anyhow::Result<()> {
    must_be_installed(name)?;
    needs_root("uninstall")?;
    systemctl(&["disable", "--quiet", "--now", &unit_name(name)])?;
    let path = unit_path(name);
    fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    systemctl(&["daemon-reload"])
}

pub(super) fn status(name: &str) -> anyhow::Result<ServiceStatus> {
    needs_systemd()?;
    let properties = "--property=LoadState,ActiveState,UnitFileState,MainPID";
    let shown = call("systemctl", &["show", properties, &unit_name(name)])?;
    Ok(parsed(name, &shown))
}

pub(super) fn firewall(firewall: &Firewall) -> anyhow::Result<()> {
    let words: Vec<_> =
        firewall::rules(firewall).iter().map(|words| format!("netsh {}", words.join(" "))).collect();
    bail!("`service firewall` is for Windows; there it would call:\n{}", words.join("\n"))
}

pub(super) fn run(_: &str, _: &Path) -> anyhow::Result<()> {
    bail!("`service run` is for Windows; systemd starts `tanist run`")
}

fn parsed(name: &str, shown: &str) -> ServiceStatus {
    let value = |key: &str| {
        let mut lines = shown.lines().filter_map(|line| line.split_once('='));
        lines.find(|(found, _)| *found == key).map_or("", |(_, value)| value)
    };
    let installed = value("LoadState") == "loaded";
    let state = match value("ActiveState") {
        _ if !installed => "none",
        "active" => "running",
        "activating" | "reloading" => "starting",
        "deactivating" => "stopping",
        "inactive" => "stopped",
        other => other,
    };
    ServiceStatus {
        name: name.to_owned(),
        installed,
        state: state.to_owned(),
        at_boot: value("UnitFileState").starts_with("enabled"),
        pid: value("MainPID").parse().ok().filter(|pid| *pid != 0),
    }
}

fn unit_name(name: &str) -> String {
    format!("{name}.service")
}

fn unit_path(name: &str) -> PathBuf {
    Path::new(UNITS).join(unit_name(name))
}

fn needs_systemd() -> anyhow::Result<()> {
    if sd_notify::booted().unwrap_or(false) {
        return Ok(());
    }
    bail!(
        "this computer isn't run by systemd (there is no /run/systemd/system): `tanist service unit` prints the unit for another one; here \
         let what starts programs at boot run `tanist run --config FILE`, and end it with SIGTERM"
    )
}

fn needs_root(command: &str) -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("`tanist service {command}` changes {UNITS}: run it as root, for instance with sudo")
}

fn must_be_installed(name: &str) -> anyhow::Result<()> {
    needs_systemd()?;
    if unit_path(name).exists() {
        return Ok(());
    }
    bail!("service {name} isn't installed: there is no {}", unit_path(name).display())
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<()> {
    call("systemctl", arguments).map(drop)
}

/// Runs a program to its end; what it printed, or what it said against it.
fn call(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}: {}", arguments.join(" "), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A user's number and that of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct User {
    id: u32,
    group: u32,
}

fn find(name: &str) -> Option<User> {
    passwd(&call("getent", &["passwd", name]).ok()?)
}

/// Reads a line of passwd(5).
fn passwd(line: &str) -> Option<User> {
    let mut fields = line.trim().split(':').skip(2);
    Some(User { id: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
}

fn find_or_make(user: &str, service: &str) -> anyhow::Result<User> {
    if let Some(found) = find(user) {
        return Ok(found);
    }
    let home = format!("/var/lib/{service}");
    let arguments = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"];
    let arguments: Vec<&str> = arguments.into_iter().chain(["--home-dir", &home, user]).collect();
    call("useradd", &arguments).with_context(|| format!("make the user {user}"))?;
    find(user).with_context(|| format!("the user {user} was made but isn't found"))
}

/// Makes a directory for the user. One that another user has already is left alone, and that is said.
fn give(path: &Path, user: User, mode: u32) -> anyhow::Result<()> {
    if let Ok(metadata) = fs::metadata(path) {
        if metadata.uid() == user.id || user.id == 0 {
            return Ok(());
        }
        bail!(
            "{} belongs to user {}, and the service runs as {}: `chown -R {}:{} {}` gives it to it",
            path.display(),
            metadata.uid(),
            user.id,
            user.id,
            user.group,
            path.display()
        );
    }
    fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
    chown(path, Some(user.id), Some(user.group)).with_context(|| format!("give {} away", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("restrict {}", path.display()))
}

/// The configuration and what it names that only root may read so far.
fn secrets(file: &Path, config: &Config) -> Vec<PathBuf> {
    let mut files = vec![file.to_owned()];
    files.extend(config.watched_files().into_iter().map(|(_, path)| path).filter(|path| path.exists()));
    files
}

/// Lets the user's group read a file of root's; what others may is left as it is.
fn share(path: &Path, user: User) -> anyhow::Result<()> {
    let metadata = fs::metadata(path).with_context(|| format!("read {}", path.display()))?;
    if metadata.mode() & 0o004 != 0 || metadata.uid() == user.id {
        return Ok(());
    }
    chown(path, None, Some(user.group)).with_context(|| format!("share {}", path.display()))?;
    let mode = metadata.mode() & 0o777 | 0o040;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("share {}", path.display()))
}

/// Tries it: the rights of all folders above count, too.
fn must_read(user: &str, path: &Path) -> anyhow::Result<()> {
    let file = path.display();
    call("runuser", &["-u", user, "--", "test", "-r", &file.to_string()]).map(drop).with_context(|| {
        format!(
            "the user {user} can't read {file}: let it pass the folders above, or put it into /etc/tanist"
        )
    })
}

fn write_unit(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new(UNITS));
    let mut file =
        tempfile::NamedTempFile::new_in(folder).with_context(|| format!("write {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644))
        .with_context(|| format!("write {}", path.display()))?;
    file.persist(path).with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causes::in_words;

    fn me() -> User {
        let id = rustix::process::geteuid().as_raw();
        User { id, group: rustix::process::getegid().as_raw() }
    }

    #[test]
    fn systemds_words_are_translated() {
        let shown = "MainPID=4711\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n";
        let status = parsed("tanist", shown);
        assert_eq!((status.state.as_str(), status.at_boot, status.pid), ("running", true, Some(4711)));
        let shown = "MainPID=0\nLoadState=loaded\nActiveState=failed\nUnitFileState=disabled\n";
        let status = parsed("tanist", shown);
        assert_eq!((status.state.as_str(), status.at_boot, status.pid), ("failed", false, None));
        let status =
            parsed("tanist", "MainPID=0\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\n");
        assert_eq!((status.installed, status.state.as_str()), (false, "none"));
        assert!(!parsed("tanist", "").installed, "whatever is said");
    }

    #[test]
    fn user_is_read_from_its_line() {
        let line = "tanist:x:998:997::/var/lib/tanist:/usr/sbin/nologin\n";
        assert_eq!(passwd(line), Some(User { id: 998, group: 997 }));
        assert_eq!(passwd("tanist:x\n"), None);
        assert_eq!(find("root"), Some(User { id: 0, group: 0 }));
        assert_eq!(find("nobody-of-this-name"), None);
    }

    #[test]
    fn directory_is_made_for_the_user_and_anothers_is_refused() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("a").join("data");
        give(&path, me(), 0o700).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        give(&path, me(), 0o700).unwrap();
        let other = User { id: me().id + 1, group: 1 };
        let error = give(&path, other, 0o700).unwrap_err().to_string();
        assert!(error.contains("chown -R") && error.contains("data"), "{error}");
    }

    #[test]
    fn files_with_secrets_are_found_and_shared_with_the_group_alone() {
        let dir = tempfile::TempDir::new().unwrap();
        let (file, key) = (dir.path().join("tanist.toml"), dir.path().join("cluster.key"));
        let text = "cluster = \"wall\"\nid = \"a\"\nkey_file = \"cluster.key\"\n[tls]\ncert_file = \"/etc/c.crt\"\n\
                    key_file = \"c.key\"\n[[member]]\nid = \"a\"\nrank = 1\npeer = [\"127.0.0.1:7450\"]\n";
        fs::write(&key, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let config = Config::parse(&file, text).unwrap();
        let tls_key = dir.path().join("c.key");
        fs::write(&tls_key, "").unwrap();
        assert_eq!(secrets(&file, &config), [file.clone(), key.clone(), tls_key]);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        share(&key, User { id: me().id + 1, group: me().group }).unwrap();
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn file_in_a_folder_that_the_user_cannot_enter_is_found_before_the_start() {
        if !rustix::process::geteuid().is_root() || find("nobody").is_none() {
            eprintln!("only root can try what others may: left out");
            return;
        }
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("tanist.toml");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let error = in_words(&must_read("nobody", &file).unwrap_err());
        assert!(error.contains("tanist.toml") && error.contains("nobody"), "{error}");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        must_read("nobody", &file).unwrap();
    }

    #[test]
    fn unit_replaces_an_older_one_whole() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("tanist.service");
        write_unit(&path, "[Unit]\nlonger\n").unwrap();
        write_unit(&path, "[Unit]\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "[Unit]\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
