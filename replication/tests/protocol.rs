//! The protocol, tested as a cluster: named scripts for its edge cases and random schedules from seeds.

mod cluster;
mod schedules;
mod scripts;
