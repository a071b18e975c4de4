//! The text of a systemd unit: what the machine needs, and nothing else of the computer.

use std::{net::ToSocketAddrs as _, path::Path, time::Duration};

use super::{Plan, stop_time, writable};

/// Opening a large replica after a power cut may take long; a machine that needs longer is stuck.
const START: Duration = Duration::from_secs(300);

/// As whom a service runs that isn't told otherwise.
pub(super) const USER: &str = "tanist";

/// The whole unit.
pub(super) fn text(plan: &Plan) -> String {
    let config = &plan.config;
    let user = plan.account.as_deref().unwrap_or(USER);
    let mut paths = writable(config);
    let mut all = paths.clone();
    all.extend([plan.file.as_path(), plan.program.as_path()]);
    // What these hide must not be needed.
    let is_below = |folders: &[&str]| all.iter().any(|path| folders.iter().any(|f| path.starts_with(f)));
    let hides_home = if is_below(&["/home", "/root", "/run/user"]) { "no" } else { "yes" };
    let hides_tmp = if is_below(&["/tmp", "/var/tmp"]) { "no" } else { "yes" };
    let state = format!("/var/lib/{}", plan.name);
    paths.retain(|path| !path.starts_with(&state));
    let writes: String =
        paths.iter().map(|path| format!("ReadWritePaths={}\n", quoted(path, false))).collect();
    let low_port = [&config.listen.peer, &config.listen.http].iter().any(|listen| {
        let mut addresses = listen.to_socket_addrs().into_iter().flatten();
        addresses.any(|address| (1..1024).contains(&address.port()))
    });
    let capabilities = if low_port { "CAP_NET_BIND_SERVICE" } else { "" };
    format!(
        "# Written by `tanist service install`. Own settings: `systemctl edit {name}`, they outlive the next install.\n\
         [Unit]\n\
         Description=Tanist, replicated SQLite master: {id} of {cluster}\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         # It is tried again for as long as it takes.\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         # Started: when the machine listens.\n\
         Type=notify\n\
         NotifyAccess=main\n\
         ExecStart={program} run --config {file}\n\
         # It sees a changed configuration by itself; this makes it look at once.\n\
         ExecReload=/bin/kill -HUP $MAINPID\n\
         Restart=on-failure\n\
         RestartSec=2s\n\
         TimeoutStartSec={start}s\n\
         # A stop hands the throne over first.\n\
         TimeoutStopSec={stop}s\n\
         # After an end that nobody asked for its helper gets the time to tell the others, so that they needn't wait for the lease.\n\
         ExecStopPost=/bin/sleep 0.3\n\
         # Programs that it has started are ended by itself, and by force only when it is gone.\n\
         KillMode=mixed\n\
         User={user}\n\
         Group={user}\n\
         UMask=0027\n\
         StateDirectory={name}\n\
         StateDirectoryMode=0700\n\
         {writes}\
         LimitNOFILE=65536\n\
         # Heartbeats go before other work.\n\
         LimitNICE=-10\n\
         OOMScoreAdjust=-500\n\
         \n\
         # Hooks and checks run inside of these too; one that needs more gets it by `systemctl edit {name}`.\n\
         AmbientCapabilities={capabilities}\n\
         CapabilityBoundingSet={capabilities}\n\
         NoNewPrivileges=yes\n\
         ProtectSystem=strict\n\
         ProtectHome={hides_home}\n\
         PrivateTmp={hides_tmp}\n\
         PrivateDevices=yes\n\
         ProtectClock=yes\n\
         ProtectControlGroups=yes\n\
         ProtectHostname=yes\n\
         ProtectKernelLogs=yes\n\
         ProtectKernelModules=yes\n\
         ProtectKernelTunables=yes\n\
         ProtectProc=invisible\n\
         LockPersonality=yes\n\
         MemoryDenyWriteExecute=yes\n\
         RemoveIPC=yes\n\
         RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK\n\
         RestrictNamespaces=yes\n\
         RestrictRealtime=yes\n\
         RestrictSUIDSGID=yes\n\
         SystemCallArchitectures=native\n\
         SystemCallFilter=@system-service\n\
         SystemCallErrorNumber=EPERM\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        name = plan.name,
        id = plain(config.id.as_str()),
        cluster = plain(config.cluster.as_str()),
        program = quoted(&plan.program, true),
        file = quoted(&plan.file, true),
        start = START.as_secs(),
        stop = stop_time(config).as_secs() + 1,
    )
}

/// A path as one word of a unit. In a command line, `$` has a meaning as well.
fn quoted(path: &Path, command: bool) -> String {
    let mut text = plain(&path.display().to_string()).replace('\\', "\\\\").replace('"', "\\\"");
    if command {
        text = text.replace('$', "$$");
    }
    format!("\"{text}\"")
}

/// `%` begins a specifier, and a line break a line.
fn plain(text: &str) -> String {
    text.replace('%', "%%").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::config::Config;

    fn plan(file: &str, more: &str) -> Plan {
        let text = format!(
            "cluster = \"wall\"\nid = \"pc-1\"\nkey = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n{more}\
             [[member]]\nid = \"pc-1\"\nrank = 1\npeer = [\"127.0.0.1:7450\"]\n"
        );
        Plan {
            trust_folder: false,
            name: "tanist".into(),
            file: file.into(),
            config: Config::parse(Path::new(file), &text).unwrap(),
            program: "/usr/bin/tanist".into(),
            account: None,
        }
    }

    fn has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line:?} in:\n{text}");
        }
    }

    #[test]
    fn unit_lets_the_machine_hand_over_and_shuts_the_rest_away() {
        let text = text(&plan("/etc/tanist/tanist.toml", "data_dir = \"/var/lib/tanist\"\n"));
        has(
            &text,
            &[
                "Type=notify",
                "ExecStart=\"/usr/bin/tanist\" run --config \"/etc/tanist/tanist.toml\"",
                "Restart=on-failure",
                "TimeoutStopSec=41s",
                "User=tanist",
                "StateDirectory=tanist",
                "ProtectSystem=strict",
                "ProtectHome=yes",
                "PrivateTmp=yes",
                "CapabilityBoundingSet=",
            ],
        );
        assert!(!text.contains("ReadWritePaths"), "{text}");
    }

    #[test]
    fn unit_follows_the_configuration() {
        let more = "data_dir = \"/srv/a 100%/data\"\n[listen]\nhttp = \"127.0.0.1:80\"\n\
                    [backup]\ndirectory = \"/mnt/b\"\n[log]\ndirectory = \"/var/log/tanist\"\n[hooks]\ntimeout = \"60s\"\n";
        let text = text(&Plan { account: Some("me".into()), ..plan("/home/me/t $1.toml", more) });
        has(
            &text,
            &[
                "ExecStart=\"/usr/bin/tanist\" run --config \"/home/me/t $$1.toml\"",
                "ReadWritePaths=\"/srv/a 100%%/data\"",
                "ReadWritePaths=\"/mnt/b\"",
                "ReadWritePaths=\"/var/log/tanist\"",
                "ProtectHome=no",
                "AmbientCapabilities=CAP_NET_BIND_SERVICE",
                "TimeoutStopSec=91s",
                "User=me",
            ],
        );
    }

    /// Where systemd's own checker is installed, it has nothing to say.
    #[test]
    fn systemd_understands_every_line() {
        let dir = tempfile::TempDir::new().unwrap();
        let unit = dir.path().join("tanist.service");
        let file = dir.path().join("tanist.toml");
        let mut plan = plan(&file.display().to_string(), "data_dir = \"/srv/a b\"\n");
        plan.program = "/bin/sh".into();
        plan.account = Some("root".into());
        std::fs::write(&unit, text(&plan)).unwrap();
        let verify =
            |unit: &Path| Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(unit).output();
        let Ok(output) = verify(&unit) else {
            eprintln!("systemd-analyze is missing: left out");
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("tanist.service"), "{said}");
        std::fs::write(&unit, text(&plan).replace("NoNewPrivileges=", "NoNewPrivilege=")).unwrap();
        let said = verify(&unit).unwrap().stderr;
        assert!(String::from_utf8_lossy(&said).contains("NoNewPrivilege"), "the checker tells mistakes");
    }
}
