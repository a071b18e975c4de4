//! A file system of its own for a machine's data directory, which outlives the machine's process and can be filled, emptied
//! and made larger meanwhile. Nobody else sees it, and it ends with the test.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Keeps the file system's namespace.
pub struct SmallDisk {
    holder: Child,
    mount: PathBuf,
}

impl SmallDisk {
    /// Mounts it at `mount`, which is made.
    pub fn mount(mount: &Path, bytes: u64) -> SmallDisk {
        std::fs::create_dir_all(mount).unwrap();
        let script = "mount -t tmpfs -o size=\"$1\" small \"$2\" && exec sleep 100000";
        let holder = Command::new("unshare")
            .args(["--mount", "--map-root-user", "sh", "-c", script, "sh"])
            .arg(bytes.to_string())
            .arg(mount)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let disk = SmallDisk { holder, mount: mount.to_owned() };
        let until = Instant::now() + Duration::from_secs(30);
        while disk.free() > bytes {
            assert!(Instant::now() < until, "nothing is mounted at {}", mount.display());
            std::thread::sleep(Duration::from_millis(10));
        }
        disk
    }

    /// The file system, as it is reached from outside.
    pub fn path(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.mount.strip_prefix("/").unwrap())
    }

    /// A command that sees it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "-U", "-m", "--preserve-credentials", program]);
        command
    }

    pub fn free(&self) -> u64 {
        fs4::available_space(self.path()).unwrap_or(u64::MAX)
    }

    /// Takes all room that is left, as another program would.
    pub fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.path().join("filler")).unwrap();
        for piece in [1 << 20, 4096] {
            while file.write_all(&vec![1; piece]).is_ok() {}
        }
        assert!(self.free() < 64 << 10, "{} bytes are free", self.free());
    }

    /// Gives back what `fill` took.
    pub fn empty(&self) {
        std::fs::remove_file(self.path().join("filler")).unwrap();
    }

    pub fn resize(&self, bytes: u64) {
        let size = format!("remount,size={bytes}");
        let status = self.command("mount").args(["-o", &size]).arg(&self.mount).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
