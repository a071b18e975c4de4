//! Keys below `HKEY_LOCAL_MACHINE`, as far as they are needed here.

use std::io;

use winreg::{
    RegKey,
    enums::{HKEY_LOCAL_MACHINE, RegType},
    types::ToRegValue as _,
};

fn machine() -> RegKey {
    RegKey::predef(HKEY_LOCAL_MACHINE)
}

fn failed(path: &str, error: &io::Error) -> String {
    format!("registry HKLM\\{path}: {error}")
}

/// Writes a text, in which `%NAME%` stands for a variable, and a number of a key, which is made if needed.
pub(crate) fn write(path: &str, text: (&str, &str), number: (&str, u32)) -> Result<(), String> {
    let write = || {
        let (key, _) = machine().create_subkey(path)?;
        let mut expanded = text.1.to_reg_value();
        expanded.vtype = RegType::REG_EXPAND_SZ;
        key.set_raw_value(text.0, &expanded)?;
        key.set_value(number.0, &number.1)
    };
    write().map_err(|error| failed(path, &error))
}

/// A number there, if there is one.
pub(crate) fn number(path: &str, name: &str) -> Option<u32> {
    machine().open_subkey(path).ok()?.get_value(name).ok()
}

/// The id that Windows gave this computer when it was installed, if it can be read.
#[must_use]
pub fn machine_guid() -> Option<String> {
    machine().open_subkey(r"SOFTWARE\Microsoft\Cryptography").ok()?.get_value("MachineGuid").ok()
}

/// Removes a key without keys below it. One that isn't there is removed already.
pub(crate) fn remove(path: &str) -> Result<(), String> {
    match machine().delete_subkey(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, &error)),
        _ => Ok(()),
    }
}
