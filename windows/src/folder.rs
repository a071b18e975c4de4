//! Folders and who may read them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    firewall::{Firewall, rules},
    rights::{Access, FOLDER_VARIABLE, believe, grants, owner_command},
};

/// Where data of all users is, `C:\ProgramData` as a rule.
#[must_use]
pub fn program_data() -> PathBuf {
    std::env::var_os("ProgramData").map_or_else(|| PathBuf::from(r"C:\ProgramData"), PathBuf::from)
}

/// Makes a folder of this program's own in [`program_data`] that only administrators and the system are let into, before
/// anything secret is in it. One that is there must be administrators', unless `trust`. Elsewhere nothing is done.
///
/// # Errors
/// When it isn't believed, can't be made, or `icacls` says so, in its words.
pub fn close(folder: &Path, trust: bool) -> Result<(), String> {
    if !is_own(folder) {
        return Ok(());
    }
    make(folder, trust)?;
    icacls(folder, &grants(None, Access::Read, true))
}

/// Refuses a folder or file in [`program_data`] that isn't administrators', or is in a folder that isn't, unless `trust`. What isn't
/// there yet is fine.
///
/// # Errors
/// When it isn't believed.
pub fn check(folder: &Path, trust: bool) -> Result<(), String> {
    if trust {
        return Ok(());
    }
    for folder in folder.ancestors().take_while(|folder| is_own(folder)) {
        let shown = folder.display().to_string();
        let Ok(metadata) = std::fs::symlink_metadata(folder) else { continue };
        if metadata.file_type().is_symlink() {
            return Err(format!("{shown} leads elsewhere: expected a folder or file, found a link"));
        }
        believe(&shown, owner(folder).as_deref())?;
    }
    Ok(())
}

/// Lets this account into a folder and all in it. A folder of its own in [`program_data`], and a data directory anywhere, is
/// closed to everybody else but administrators and the system: the cluster's key is in it; who else may read is for an
/// administrator to say, afterwards. Elsewhere the other rights stay as they are, whatever they are: the folder may be for
/// more than this.
///
/// # Errors
/// When it isn't believed, can't be made, or `icacls` says so, in its words.
pub fn restrict(folder: &Path, account: &str, access: Access, trust: bool) -> Result<(), String> {
    make(folder, trust)?;
    icacls(folder, &grants(Some(account), access, is_own(folder)))
}

/// Makes a folder, or checks the one that is there.
fn make(folder: &Path, trust: bool) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("make {}: {error}", folder.display());
    if let Some(above) = folder.parent() {
        std::fs::create_dir_all(above).map_err(fail)?;
    }
    match std::fs::create_dir(folder) {
        Ok(()) => {
            // As it is by default; a policy may say otherwise. The rights count from the next call on in any case.
            let _ = icacls(folder, &["/setowner".to_owned(), "*S-1-5-32-544".to_owned()]);
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => check(folder, trust),
        Err(error) => Err(fail(error)),
    }
}

/// The number of the account that owns a folder or file, if it can be found out.
fn owner(folder: &Path) -> Option<String> {
    let program = system32().join(r"WindowsPowerShell\v1.0\powershell.exe");
    let output = Command::new(program).args(owner_command()).env(FOLDER_VARIABLE, folder).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn system32() -> PathBuf {
    let system = std::env::var_os("SystemRoot").map_or_else(|| PathBuf::from(r"C:\Windows"), PathBuf::from);
    system.join("System32")
}

/// Sets the rules of the firewall.
///
/// # Errors
/// When `netsh` refuses one, in its words.
pub fn set_firewall(firewall: &Firewall) -> Result<(), String> {
    for arguments in rules(firewall) {
        // Where there was no rule, none can go.
        let may_fail = arguments.iter().any(|word| word == "delete");
        let called = call(&system32().join("netsh.exe"), None, &arguments);
        if !may_fail {
            called?;
        }
    }
    Ok(())
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
    let arguments: Vec<String> = arguments.iter().cloned().chain(["/Q".to_owned()]).collect();
    call(&system32().join("icacls.exe"), Some(folder), &arguments)
}

/// Runs a program of Windows; what it said against it.
fn call(program: &Path, folder: Option<&Path>, arguments: &[String]) -> Result<(), String> {
    let output = Command::new(program)
        .args(folder)
        .args(arguments)
        .output()
        .map_err(|error| format!("run {}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let what = folder.map_or_else(|| arguments.join(" "), |folder| folder.display().to_string());
    let name = program.file_stem().unwrap_or_default().display();
    Err(format!("{name} {what}: {}: {}", output.status, String::from_utf8_lossy(&said).trim()))
}
