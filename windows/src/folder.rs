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

/// Lets this account into a folder and all in it. A folder of its own in [`program_data`] is closed to everybody else but administrators
/// and the system: the cluster's key is in it; who else may read is for an administrator to say, afterwards. Elsewhere the other
/// rights stay as they are, whatever they are: the folder may be for more than this.
///
/// # Errors
/// When it can't be made, or `icacls` says so, in its words.
pub fn restrict(folder: &Path, account: &str, access: Access) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|error| format!("make {}: {error}", folder.display()))?;
    let everything = |who: &str| format!("{who}:(OI)(CI)F");
    let mask = match access {
        Access::Read => "RX",
        Access::Write => "M",
    };
    let mut arguments = vec![];
    if is_own(folder) {
        arguments.push("/inheritance:r".to_owned());
    }
    // By number: their names are translated.
    arguments.extend(["/grant".to_owned(), everything("*S-1-5-18"), everything("*S-1-5-32-544")]);
    if !account.eq_ignore_ascii_case("LocalSystem") {
        arguments.push(format!("{account}:(OI)(CI){mask}"));
    }
    icacls(folder, &arguments)
}

/// Whether the folder is one of those that this program makes for itself.
fn is_own(folder: &Path) -> bool {
    let words = |path: &Path| -> Vec<String> {
        path.components().map(|word| word.as_os_str().to_string_lossy().to_lowercase()).collect()
    };
    let (folder, data) = (words(folder), words(&program_data()));
    folder.len() > data.len() && folder.starts_with(&data) && !folder.contains(&"..".to_owned())
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
