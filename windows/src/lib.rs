//! What is particular to Windows: the service, the event log, the installer. Room laid out, nothing in it yet; the server
//! itself builds and runs without this crate. Read `README.md` of the project for what works today.
