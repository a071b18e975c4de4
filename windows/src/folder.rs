//! Folders and who may read them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Where data of all users is, `C:\ProgramData` as a rule.
#[must_use]
pub fn program_data() -> PathBuf {
    std::env::var_os("ProgramData").map_or_else(|| PathBuf::from(r"C:\ProgramData"), PathBuf::from)
}

/// What the service's account may do in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Configuration and key.
    Read,
    /// Data and logs.
    Write,
}

/// Gives a folder and all in it to administrators, the system and this account, and to nobody else: the cluster's key is in it. Who else
/// may read is for an administrator to say, afterwards.
///
/// # Errors
/// When it can't be made, or `icacls` says so, in its words.
pub fn restrict(folder: &Path, account: &str, access: Access) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|error| format!("make {}: {error}", folder.display()))?;
    let mask = match access {
        Access::Read => "RX",
        Access::Write => "M",
    };
    // Windows's own by number: their names are translated. Rights that are there already stay as they are.
    let mut grants = vec!["*S-1-5-18:(OI)(CI)F".to_owned(), "*S-1-5-32-544:(OI)(CI)F".to_owned()];
    if !account.eq_ignore_ascii_case("LocalSystem") {
        grants.push(format!("{account}:(OI)(CI){mask}"));
    }
    icacls(folder, &[vec!["/inheritance:r".to_owned(), "/grant".to_owned()], grants].concat())
}

fn icacls(folder: &Path, arguments: &[String]) -> Result<(), String> {
    let system = std::env::var_os("SystemRoot").map_or_else(|| PathBuf::from(r"C:\Windows"), PathBuf::from);
    let program = system.join("System32").join("icacls.exe");
    let output = Command::new(&program)
        .arg(folder)
        .args(arguments)
        .arg("/Q")
        .output()
        .map_err(|error| format!("run {}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("icacls {}: {}: {}", folder.display(), output.status, String::from_utf8_lossy(&said).trim()))
}
