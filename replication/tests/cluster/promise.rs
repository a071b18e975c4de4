//! What each machine promises by what it keeps and sends (R1, R5..R8), held against its disk and the others'.
//!
//! Owns nothing; `check.rs` keeps what is known. A rule that is broken is found here at once, even when chance would
//! hide what comes of it.

use tanist_replication::{
    HardState, MemberId, Message, Position, RecordKey, Stamp, SuccessionRecord,
    quorum::{majority, voters},
};

use super::Cluster;

impl Cluster {
    /// Looks whether what a machine has just kept makes a record committed: a majority of its voters has accepted it.
    /// One of a later term is no acceptance of an earlier one.
    pub fn note_record(&mut self, node: usize) {
        let Some(hard) = &self.machines[node].hard else { return };
        let record = &hard.record;
        let known = self.check.known.entry(record.key).or_insert_with(|| record.clone());
        if known != record {
            self.check
                .failure
                .get_or_insert(format!("R9: two records {}: {known:?}, {record:?}", record.key));
        }
        self.check.accepted.insert((node, record.key.term), record.key.version);
        let accepted = |id: &MemberId, key: RecordKey| {
            let version = self.check.accepted.get(&(self.ids[id], key.term));
            version.is_some_and(|version| *version >= key.version)
        };
        let is_committed = |record: &&SuccessionRecord| {
            voters(record).filter(|id| accepted(id, record.key)).count() >= majority(voters(record).count())
        };
        let before = self.check.committed.as_ref().map(|committed| committed.key).unwrap_or_default();
        let newer = self.check.known.range(before..).rev().map(|(_, record)| record);
        if let Some(committed) = newer.take_while(|record| record.key > before).find(is_committed) {
            self.check.committed = Some(committed.clone());
        }
    }

    /// Who of the record's sync set lacks, on disk, the newest of what is acknowledged.
    fn lacks(&self, record: &SuccessionRecord, newest: Stamp) -> Option<String> {
        let lacks = |id: &&MemberId| {
            let store = &self.machines[self.ids[*id]].store;
            store.durable < newest.position.txid.0 as usize || !store.holds(newest)
        };
        record.sync_set.iter().find(lacks).map(ToString::to_string)
    }

    /// R7, R8, I2: whoever may be elected holds, on disk, everything acknowledged.
    pub fn check_heirs(&mut self) {
        let Some((newest, _)) = self.check.branch.last().copied() else { return };
        if self.check.disks_lost {
            return;
        }
        let committed = self.check.committed.as_ref().map(|record| record.key).unwrap_or_default();
        for machine in &self.machines {
            let Some(hard) = machine.hard.as_ref().filter(|hard| hard.record.key >= committed) else {
                continue;
            };
            if hard.record.key > RecordKey::BLANK
                && let Some(lacks) = self.lacks(&hard.record, newest)
            {
                let why = format!("R7: {lacks}, in record {}, lacks {}", hard.record.key, newest.position);
                self.check.fail(why);
                return;
            }
        }
    }

    /// What a machine is about to keep: terms and votes stay, and a record of its own reign names only heirs.
    pub fn check_persist(&mut self, node: usize, hard: &HardState) {
        let machine = &self.machines[node];
        let name = self.name(node).to_owned();
        if let Some(before) = &machine.hard {
            let voted =
                before.term == hard.term && before.voted_for.is_some() && before.voted_for != hard.voted_for;
            if before.term > hard.term || before.record.key > hard.record.key || voted {
                self.check.fail(format!("R1: {name} forgets what it has promised in term {}", before.term));
                return;
            }
        }
        let record = &hard.record;
        let own = record.master.as_ref() == Some(&machine.id);
        let new = machine.hard.as_ref().is_none_or(|before| before.record.key < record.key);
        let committed = self.check.committed.as_ref();
        if !own || !new || committed.is_some_and(|committed| committed.key >= record.key) {
            return;
        }
        if record.key.version == 1
            && let Some(master) = committed.and_then(|before| before.master.clone())
            && master != machine.id
            && record.sync_set.contains(&master)
        {
            let why = format!("R5: record {} keeps the old master {master} in the sync set", record.key);
            self.check.fail(why);
            return;
        }
        if let Some((newest, _)) = self.check.branch.last().copied()
            && !self.check.disks_lost
            && let Some(lacks) = self.lacks(record, newest)
        {
            let why = format!("R8: record {} takes in {lacks}, which lacks {}", record.key, newest.position);
            self.check.fail(why);
        }
    }

    /// A transaction is handed to the store only behind its predecessor, and not from an older master (R6).
    pub fn check_apply(&mut self, node: usize, previous: Stamp) {
        let machine = &self.machines[node];
        let term = machine.hard.as_ref().map(|hard| hard.term);
        let (name, expected) = (self.name(node), machine.expected);
        if machine.hearing < term {
            let why = format!("R6: {name} takes a transaction of a term that has passed");
            self.check.fail(why);
        } else if previous != expected {
            let (follows, last) = (previous.position, expected.position);
            self.check.fail(format!("I3: {name} would store what follows {follows} behind {last}"));
        }
    }

    /// A promise leaves only when it is on disk.
    pub fn check_send(&mut self, node: usize, to: &MemberId, message: &Message) {
        if let Err(why) = self.promises(node, to, message) {
            self.check.fail(why);
        }
    }

    fn promises(&mut self, node: usize, to: &MemberId, message: &Message) -> Result<(), String> {
        let hard = self.machines[node].hard.as_ref();
        let me = &self.machines[node].id;
        if let Message::VoteReply(reply) | Message::PreVoteReply(reply) = message {
            self.knows(me, reply.acknowledged)?;
        }
        match message {
            Message::VoteReply(reply) if reply.granted => {
                if hard.is_none_or(|h| h.term != reply.term || h.voted_for.as_ref() != Some(to)) {
                    return Err(format!("R1: {me}'s vote in term {} isn't on its disk", reply.term));
                }
                let given = self.check.votes.entry((node, reply.term)).or_insert_with(|| to.clone());
                if given != to {
                    return Err(format!("R1: {me} votes twice in term {}", reply.term));
                }
            }
            Message::Vote(request) => {
                if hard.is_none_or(|h| h.term != request.term || h.voted_for.as_ref() != Some(me)) {
                    return Err(format!("R1: {me} stands in term {} without its own vote", request.term));
                }
                let given = self.check.votes.entry((node, request.term)).or_insert_with(|| me.clone());
                if given != me {
                    return Err(format!("R1: {me} votes twice in term {}", request.term));
                }
            }
            Message::HeartbeatReply(reply) => {
                let kept = hard.map(|hard| hard.record.key).unwrap_or_default();
                if reply.accepted > kept {
                    return Err(format!("R6: {me} says it accepted {}, on disk is {kept}", reply.accepted));
                }
                let kept = hard.map(|hard| hard.promised).unwrap_or_default();
                if reply.promised > Some(kept) {
                    return Err(format!("R11: {me} promises {:?}, on disk is {kept:?}", reply.promised));
                }
                if let Some(stamp) = reply.stamp {
                    return self.reports(node, stamp);
                }
            }
            Message::Heartbeat(heartbeat) => {
                let kept = hard.map(|hard| hard.record.key).unwrap_or_default();
                if heartbeat.record.key > kept {
                    return Err(format!("R6: {me} proposes {}, on disk is {kept}", heartbeat.record.key));
                }
                let master = *self.check.masters.entry(heartbeat.term).or_insert(node);
                if master != node {
                    return Err(format!("I1: two masters in term {}", heartbeat.term));
                }
            }
            Message::Stored(report) => return self.reports(node, report.stamp),
            _ => {}
        }
        Ok(())
    }

    /// R4: what a voter says is acknowledged is, or a candidate that holds everything couldn't win.
    fn knows(&self, me: &MemberId, position: Position) -> Result<(), String> {
        let index = position.txid.0.checked_sub(1).map(|index| index as usize);
        let acknowledged = index.is_none_or(|index| {
            self.check.branch.get(index).is_some_and(|(stamp, _)| stamp.position == position)
        });
        if acknowledged {
            return Ok(());
        }
        Err(format!("R4: {me} says that {position} was acknowledged, which it wasn't"))
    }

    /// A replica reports only what is on its disk, and must have it again after its next start (I4).
    fn reports(&mut self, node: usize, stamp: Stamp) -> Result<(), String> {
        if stamp.is_off_branch() {
            return Ok(()); // it says that it counts for nothing
        }
        let world_lies = self.setup.mistake.is_some();
        let machine = &mut self.machines[node];
        let durable = machine.store.durable_stamp().position.txid >= stamp.position.txid;
        let holds = stamp == Stamp::default() || machine.store.holds(stamp);
        let honest = world_lies || machine.witness || (durable && holds);
        if !honest {
            return Err(format!("R7: {} reports {}, which isn't on its disk", machine.id, stamp.position));
        }
        if stamp.position > machine.reported.position {
            machine.reported = stamp;
        }
        Ok(())
    }
}
