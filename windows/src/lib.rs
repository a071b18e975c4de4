//! What is particular to Windows: the service, the Event Log, write filters of embedded editions.
//!
//! Owns how Windows is spoken to, by safe crates alone; knows nothing of a machine or a cluster, which are handed in as closures. On
//! other systems only the list of events, and the words for the firewall and for rights, are left of it. `installer/` makes the setup program, `CHECKLIST.md` is for real hardware.

#[cfg(windows)]
mod event_log;
pub mod events;
pub mod firewall;
#[cfg(windows)]
mod folder;
#[cfg(windows)]
mod install;
pub mod one_line;
#[cfg(windows)]
mod registry;
pub mod rights;
#[cfg(windows)]
mod run;
#[cfg(windows)]
mod write_filter;

#[cfg(windows)]
pub use event_log::{EventLog, register_source, unregister_source};
#[cfg(windows)]
pub use folder::{check, close, program_data, restrict, set_firewall};
#[cfg(windows)]
pub use install::{Installation, ServiceError, Status, install, start, status, stop, uninstall};
#[cfg(windows)]
pub use registry::machine_guid;
pub use rights::Access;
#[cfg(windows)]
pub use run::{Control, Session, run};
#[cfg(windows)]
pub use write_filter::write_filters;

/// The source of this program's entries in the Event Log.
pub const EVENT_SOURCE: &str = "Tanist";

/// Where Windows finds the texts of events: a program that is part of Windows since XP, whose texts 1 to 1000 say just what they are
/// given.
pub const MESSAGE_FILE: &str = r"%SystemRoot%\System32\EventCreate.exe";
