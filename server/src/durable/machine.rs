//! What the system gives to know this computer by.
//!
//! Owns nothing. A container has none: its files say what its image or its host says. Nor has a system that makes itself a new one at
//! each boot. `TANIST_MACHINE` stands for it where an administrator knows better.

/// The variable that says what this machine is, instead of what the system says.
const VARIABLE: &str = "TANIST_MACHINE";

/// A mark of this computer, which says nothing to others; `None` where the system gives nothing that lasts.
pub(crate) fn mark() -> Option<String> {
    let given = std::env::var(VARIABLE).ok().filter(|given| !given.is_empty());
    let name = given.or_else(of_system)?;
    let hash = blake3::derive_key("tanist: the computer that a data directory belongs to", name.as_bytes());
    Some(blake3::Hash::from(hash).to_hex()[..32].to_owned())
}

#[cfg(target_os = "linux")]
fn of_system() -> Option<String> {
    use std::path::Path;
    let contained = ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"];
    // systemd puts one there that holds until the next boot, when the disk can't keep it.
    let passing = "/run/machine-id";
    if contained.into_iter().chain([passing]).any(|path| Path::new(path).exists()) {
        return None;
    }
    read(&std::fs::read_to_string("/etc/machine-id").ok()?)
}

#[cfg(any(target_os = "linux", test))]
fn read(text: &str) -> Option<String> {
    let id = text.trim();
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

#[cfg(windows)]
fn of_system() -> Option<String> {
    tanist_windows::machine_guid()
}

#[cfg(not(any(target_os = "linux", windows)))]
fn of_system() -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_machine_id_counts() {
        assert!(read("3d1219c7c4c5404aaa1f6d2a48adfda4\n").is_some());
        for none in ["", "uninitialized\n", "3d1219c7", "3d1219c7c4c5404aaa1f6d2a48adfdaX"] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
