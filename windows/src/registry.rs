//! Keys below `HKEY_LOCAL_MACHINE`, as far as they are needed here.

use winsafe::{HKEY, RegistryValue, co};

/// Writes values of a key, which is made if needed.
pub(crate) fn write(path: &str, values: &[(&str, RegistryValue)]) -> Result<(), String> {
    let fail = |error| format!("registry HKLM\\{path}: {error}");
    let (key, _) = HKEY::LOCAL_MACHINE
        .RegCreateKeyEx(path, None, co::REG_OPTION::default(), co::KEY::SET_VALUE, None)
        .map_err(fail)?;
    for (name, value) in values {
        key.RegSetValueEx(Some(name), value.clone()).map_err(fail)?;
    }
    Ok(())
}

/// A number there, if there is one.
pub(crate) fn number(path: &str, name: &str) -> Option<u32> {
    let options = co::REG_OPTION::default();
    let key = HKEY::LOCAL_MACHINE.RegOpenKeyEx(Some(path), options, co::KEY::QUERY_VALUE).ok()?;
    match key.RegQueryValueEx(Some(name)).ok()? {
        RegistryValue::Dword(number) => Some(number),
        _ => None,
    }
}

/// Removes a key without keys below it. One that isn't there is removed already.
pub(crate) fn remove(path: &str) -> Result<(), String> {
    match HKEY::LOCAL_MACHINE.RegDeleteKey(path) {
        Ok(()) | Err(co::ERROR::FILE_NOT_FOUND) => Ok(()),
        Err(error) => Err(format!("registry HKLM\\{path}: {error}")),
    }
}
