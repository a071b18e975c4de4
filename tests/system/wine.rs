//! `tanist.exe` under Wine, told to be Windows 7: one Windows for all machines of a test process, each machine a process of its own.
//!
//! Owns the Wine prefix. `TANIST_EXE` names the program; without it, or without Wine, the tests of this kind are left out with
//! a note. With `TANIST_WINE=1` besides, the machines of all other tests are such ones, too.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, Weak},
};

/// Where Debian has it; the command `wine` is a script that starts it.
const WINE: &str = "/usr/lib/wine/wine64";

/// A Windows, with what is needed to run things in it; its processes end with it.
pub struct Wine {
    prefix: PathBuf,
    program: PathBuf,
    /// Held as long as something may run in it: one test process after the other.
    _lock: File,
}

impl Wine {
    /// The one of this process, made where there is none yet (some seconds).
    pub fn get() -> Option<Arc<Wine>> {
        static ONE: Mutex<Weak<Wine>> = Mutex::new(Weak::new());
        let Some(program) = std::env::var_os("TANIST_EXE").map(PathBuf::from) else {
            eprintln!("TANIST_EXE names no tanist.exe (made by windows/build.sh): left out");
            return None;
        };
        if !Path::new(WINE).exists() {
            eprintln!("no {WINE} here (Debian package wine64): left out");
            return None;
        }
        assert!(program.is_file(), "TANIST_EXE: found no file {}", program.display());
        let mut one = ONE.lock().unwrap();
        Some(one.upgrade().unwrap_or_else(|| {
            let made = Arc::new(Wine::make(program));
            *one = Arc::downgrade(&made);
            made
        }))
    }

    /// In the build's folder for temporary files, where the next run finds it ready.
    fn make(program: PathBuf) -> Wine {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wine-win7");
        let lock = File::create(prefix.with_extension("lock")).unwrap();
        lock.lock().unwrap();
        let wine = Wine { prefix, program, _lock: lock };
        let ready = wine.prefix.join("tanist-ready");
        if !ready.exists() {
            let _ = std::fs::remove_dir_all(&wine.prefix);
            std::fs::create_dir_all(&wine.prefix).unwrap();
            wine.must(&["wineboot", "-i"]);
            wine.must(&["reg", "add", r"HKCU\Software\Wine", "/v", "Version", "/d", "win7", "/f"]);
            std::fs::write(ready, "").unwrap();
        }
        let version = wine.must(&["cmd", "/c", "ver"]);
        assert!(version.contains("6.1.7601"), "expected Windows 7 SP1, found {version}");
        wine
    }

    fn must(&self, arguments: &[&str]) -> String {
        let output = self.command(WINE).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "wine {arguments:?}: {} {text}", output.status);
        text
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("WINEPREFIX", &self.prefix)
            .env("WINEDEBUG", "-all")
            // Names of files beyond ASCII.
            .env("LC_ALL", "C.UTF-8")
            .env("WINEDLLOVERRIDES", "mscoree,mshtml=")
            .env_remove("DISPLAY");
        command
    }

    /// `tanist.exe`. Its process is a process of this computer like any other: what it is sent by number it gets.
    pub fn tanist(&self) -> Command {
        let mut command = self.command(WINE);
        command.arg(&self.program);
        command
    }
}

impl Drop for Wine {
    fn drop(&mut self) {
        // Of this prefix alone; nothing runs in it that isn't a test's.
        let _ = self.command("wineserver").arg("-k").status();
    }
}
