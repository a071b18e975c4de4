//! How far the rejoins are that this machine takes part in, and whose database differs, for displays.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tanist_api::RejoinProgress;
use tanist_replication::{MemberId, Position};

/// Rejoins by the member that is brought in line: this machine's own, and those that it serves as master.
#[derive(Debug, Default)]
pub(crate) struct Board {
    rejoins: Mutex<BTreeMap<MemberId, RejoinProgress>>,
    /// As master: backups whose database was another than ours at this position.
    differing: Mutex<BTreeMap<MemberId, Position>>,
    /// What the operator should know besides what the protocol says.
    notice: Mutex<Option<String>>,
}

impl Board {
    pub(crate) fn set(&self, member: &MemberId, progress: RejoinProgress) {
        self.rejoins.lock().insert(member.clone(), progress);
    }

    /// The rejoin doesn't go on before something else happens.
    pub(crate) fn waits(&self, member: &MemberId, why: String) {
        self.rejoins.lock().entry(member.clone()).or_default().waits_for = Some(why);
    }

    pub(crate) fn set_notice(&self, notice: Option<String>) {
        *self.notice.lock() = notice;
    }

    pub(crate) fn notice(&self) -> Option<String> {
        self.notice.lock().clone()
    }

    pub(crate) fn remove(&self, member: &MemberId) {
        self.rejoins.lock().remove(member);
    }

    pub(crate) fn get(&self, member: &MemberId) -> Option<RejoinProgress> {
        self.rejoins.lock().get(member).cloned()
    }

    /// The member's database differs at this position, or is as it should be; whether that is news.
    pub(crate) fn differs(&self, member: &MemberId, at: Option<Position>) -> bool {
        let mut differing = self.differing.lock();
        match at {
            Some(position) => differing.insert(member.clone(), position).is_none(),
            None => differing.remove(member).is_some(),
        }
    }

    /// Nobody is compared any more.
    pub(crate) fn forget_differences(&self) {
        self.differing.lock().clear();
    }

    /// Where the member's database was seen to differ.
    pub(crate) fn difference(&self, member: &MemberId) -> Option<Position> {
        self.differing.lock().get(member).copied()
    }
}
