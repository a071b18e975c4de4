//! How far the rejoins are that this machine takes part in, for displays.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tanist_api::RejoinProgress;
use tanist_replication::MemberId;

/// Rejoins by the member that is brought in line: this machine's own, and those that it serves as master.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<BTreeMap<MemberId, RejoinProgress>>);

impl Board {
    pub(crate) fn set(&self, member: &MemberId, progress: RejoinProgress) {
        self.0.lock().insert(member.clone(), progress);
    }

    /// The rejoin doesn't go on before something else happens.
    pub(crate) fn waits(&self, member: &MemberId, why: String) {
        self.0.lock().entry(member.clone()).or_default().waits_for = Some(why);
    }

    pub(crate) fn remove(&self, member: &MemberId) {
        self.0.lock().remove(member);
    }

    pub(crate) fn get(&self, member: &MemberId) -> Option<RejoinProgress> {
        self.0.lock().get(member).cloned()
    }
}
