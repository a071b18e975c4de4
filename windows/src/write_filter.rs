//! Write filters of Windows Embedded: what is written goes to memory and is gone at the next boot.
//!
//! Looks only whether one is there and starts with the system; which volumes it protects, and what is excluded, only its own
//! program tells.

use crate::registry;

/// The drivers, with the program that shows what each does.
const FILTERS: [(&str, &str); 3] =
    [("ewf", "ewfmgr.exe"), ("fbwf", "fbwfmgr.exe"), ("uwfvol", "uwfmgr.exe get-config")];

/// Below this, a driver is started at boot; 3 is by hand, 4 never.
const BY_HAND: u32 = 3;

/// The installed filters: what each is called, and how to look at it.
#[must_use]
pub fn write_filters() -> Vec<(&'static str, &'static str)> {
    let starts = |driver: &str| {
        let path = format!(r"SYSTEM\CurrentControlSet\Services\{driver}");
        registry::number(&path, "Start").is_some_and(|start| start < BY_HAND)
    };
    FILTERS.into_iter().filter(|(driver, _)| starts(driver)).collect()
}
