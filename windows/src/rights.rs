//! Who is believed and who may what, as words for the programs of Windows that are asked. Pure, so that it is tested anywhere.

/// Accounts that may own a folder which this program believes: the system, administrators, and what installs Windows itself.
/// By number: their names are translated.
const TRUSTED: [&str; 3] =
    ["S-1-5-18", "S-1-5-32-544", "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"];

/// In this variable PowerShell finds the folder or file: its name is no part of a command then.
pub const FOLDER_VARIABLE: &str = "TANIST_FOLDER";

/// What the service's account may do in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Configuration and key.
    Read,
    /// Copies and logs.
    Write,
    /// The data directory: nobody else is let in, wherever it is.
    Data,
}

/// Arguments of `powershell.exe` that print the number of the account which owns [`FOLDER_VARIABLE`]. Any version knows them.
#[must_use]
pub fn owner_command() -> [String; 4] {
    let script = format!(
        "$place = $env:{FOLDER_VARIABLE}; \
         if ([System.IO.Directory]::Exists($place)) {{ $rights = [System.IO.Directory]::GetAccessControl($place, 'Owner') }} \
         else {{ $rights = [System.IO.File]::GetAccessControl($place, 'Owner') }}; \
         $rights.GetOwner([System.Security.Principal.SecurityIdentifier]).Value"
    );
    ["-NoProfile".to_owned(), "-NonInteractive".to_owned(), "-Command".to_owned(), script]
}

/// Whether what stands in a folder of this owner is believed. Anybody may make folders in `ProgramData`, and put a
/// configuration there that names programs to be run.
///
/// # Errors
/// When not, with what to do.
pub fn believe(folder: &str, owner: Option<&str>) -> Result<(), String> {
    let owner = owner.map(str::trim).filter(|owner| !owner.is_empty());
    let why = match owner {
        Some(owner) if TRUSTED.contains(&owner) => return Ok(()),
        Some(owner) => format!("it belongs to account {owner}"),
        None => "whose it is can't be found out".to_owned(),
    };
    Err(format!(
        "{folder} exists already and isn't known to be administrators' ({why}): whoever made it may have put a configuration there. Look at it \
         and move it away; or if all in it is yours, give it to administrators (icacls \"{folder}\" /setowner *S-1-5-32-544 /T), or say \
         --trust-folder"
    ))
}

/// Arguments of `icacls`, behind the folder, that let this account in. With `alone` nothing is inherited from the folder above:
/// nobody else is let in but administrators and the system.
#[must_use]
pub fn grants(account: Option<&str>, access: Access, alone: bool) -> Vec<String> {
    let mut arguments = vec![];
    if alone || access == Access::Data {
        arguments.push("/inheritance:r".to_owned());
    }
    arguments.push("/grant:r".to_owned());
    arguments.extend(["*S-1-5-18", "*S-1-5-32-544"].map(|who| format!("{who}:(OI)(CI)F")));
    let mask = match access {
        Access::Read => "RX",
        Access::Write | Access::Data => "M",
    };
    let own = account.filter(|account| !account.eq_ignore_ascii_case("LocalSystem"));
    arguments.extend(own.map(|account| format!("{account}:(OI)(CI){mask}")));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_administrators_are_believed() {
        for owner in TRUSTED {
            believe(r"C:\ProgramData\Tanist", Some(&format!("{owner}\r\n"))).unwrap();
        }
        let user = "S-1-5-21-1004336348-1177238915-682003330-1001";
        for owner in [Some(user), Some("S-1-5-32-545"), Some("S-1-5-18-1"), Some(""), None] {
            let error = believe(r"C:\ProgramData\Tanist", owner).unwrap_err();
            assert!(error.contains(r"C:\ProgramData\Tanist") && error.contains("--trust-folder"), "{error}");
        }
        assert!(believe("x", Some(user)).unwrap_err().contains(user));
        assert!(owner_command()[3].contains("$env:TANIST_FOLDER"), "the name is no part of the command");
    }

    #[test]
    fn nobody_but_the_service_administrators_and_the_system_are_let_in() {
        let service = r"NT SERVICE\Tanist";
        assert_eq!(
            grants(Some(service), Access::Read, true),
            [
                "/inheritance:r",
                "/grant:r",
                "*S-1-5-18:(OI)(CI)F",
                "*S-1-5-32-544:(OI)(CI)F",
                r"NT SERVICE\Tanist:(OI)(CI)RX"
            ]
        );
        assert_eq!(grants(None, Access::Read, true).len(), 4, "before there is a service: nobody else");
        assert_eq!(grants(Some("localsystem"), Access::Read, true), grants(None, Access::Read, true));
        assert!(grants(Some(service), Access::Data, false).contains(&"/inheritance:r".to_owned()));
        let shared = grants(Some(service), Access::Write, false);
        assert!(!shared.contains(&"/inheritance:r".to_owned()), "a folder of others keeps their rights");
        assert!(shared.last().unwrap().ends_with("(OI)(CI)M"));
    }
}
