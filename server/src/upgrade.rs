//! Upgrades of the programs, machine by machine: what each member runs, and when the cluster's level is raised.
//!
//! The level says which schema and which features are on; it stands in the database. It is raised by the master, when every member
//! is reached and runs a program that knows the next one, for a calm time, unless an operator holds it. Until then each program can
//! be taken back. Nothing here is needed for safety: a machine whose program doesn't know the level begins no term. Read
//! `migrate.rs` of the store for what a raise does.

use std::time::{Duration, Instant};

use tanist_api::{Cluster, LevelRange, MemberProgram, Upgrade as Shown};
use tanist_replication::{MemberId, message::Level, status::Status};
use tanist_store::{Hold, is_next_version, known_levels};
use tanist_transport::{Agreed, Channel, FIRST_LEVEL, Features, PROTOCOL, Program, Range, Transport};

/// A raise that was asked for is awaited so long before it is asked for again.
const RAISE_PATIENCE: Duration = Duration::from_secs(10);

/// What this program says of itself to the others.
pub(crate) fn program() -> Program {
    let (min, max) = known_levels();
    let levels = Range::new(min, max);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    match is_next_version() {
        false => Program { version, protocol: PROTOCOL, features: Features::default(), levels },
        true => Program {
            version: format!("{version}-next"),
            protocol: Range::new(PROTOCOL.min, PROTOCOL.max + 1),
            features: next::NOTES,
            levels,
        },
    }
}

/// What is known of another member.
pub(crate) struct Seen {
    pub(crate) id: MemberId,
    /// Whether links to it are up: only then what it runs is known for sure.
    pub(crate) reached: bool,
    pub(crate) program: Option<Program>,
}

/// Why the level isn't higher, and how high it can be.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    /// To this level at once, if nothing else is in the way.
    next: Option<u32>,
    /// Why not to the highest that any member knows.
    blocked: Vec<String>,
}

/// What follows from what all members run.
fn look(level: u32, me: &MemberId, own: &Program, others: &[Seen]) -> Look {
    let known = |seen: &Seen| seen.program.as_ref().map_or(0, |program| program.levels.max);
    let goal = others.iter().map(known).fold(own.levels.max, u32::max);
    let mut blocked = vec![];
    let mut next = own.levels.max;
    let mut judge = |id: &MemberId, program: &Program| {
        next = next.min(program.levels.max);
        if program.levels.max < goal {
            let Program { version, levels, .. } = program;
            blocked.push(format!(
                "{id} runs {version}, which knows level {}: upgrade it or remove it",
                levels.max
            ));
        }
    };
    judge(me, own);
    let mut unknown = vec![];
    for seen in others {
        match &seen.program {
            Some(program) if seen.reached => judge(&seen.id, program),
            _ => unknown.push(format!(
                "{} isn't reached, so what it runs isn't known: start it or remove it",
                seen.id
            )),
        }
    }
    let next = (unknown.is_empty() && next > level).then_some(next);
    blocked.extend(unknown);
    if goal <= level {
        blocked.clear();
    }
    Look { next, blocked }
}

/// The state of this machine's part in upgrades.
pub(crate) struct Upgrades {
    me: MemberId,
    own: Program,
    calm: Duration,
    level: Option<Level>,
    hold: Option<Hold>,
    /// To which level nothing is in the way, and since when.
    ready: Option<(u32, Instant)>,
    asked: Option<Instant>,
    /// Why the last raise failed.
    failed: Option<String>,
    /// What is shown besides.
    blocked: Option<String>,
}

impl Upgrades {
    pub(crate) fn new(me: MemberId, calm: Duration) -> Upgrades {
        Upgrades {
            me,
            own: program(),
            calm,
            level: None,
            hold: None,
            ready: None,
            asked: None,
            failed: None,
            blocked: None,
        }
    }

    /// What this machine's own replica says.
    pub(crate) fn found(&mut self, level: u32, hold: Option<Hold>) {
        let found = Level { number: level, held: hold.is_some() };
        if self.level.is_some_and(|before| before.number < level) {
            tracing::info!(
                level,
                "the cluster's level was raised: programs that don't know it can't reign any more"
            );
            (self.failed, self.asked) = (None, None);
        }
        (self.level, self.hold) = ((level > 0).then_some(found), hold);
    }

    /// What a master has said.
    pub(crate) fn heard(&mut self, level: Option<Level>) {
        if let Some(level) = level {
            self.level = Some(level);
        }
    }

    /// The last raise failed; it is tried again.
    pub(crate) fn failed(&mut self, why: String) {
        self.failed = Some(why);
    }

    /// What a heartbeat tells, to whom it may be told.
    pub(crate) fn told(&self, agreed: Agreed) -> Option<Level> {
        self.level.filter(|_| agreed.protocol >= 2)
    }

    /// At which level a cluster is founded: all can serve it.
    pub(crate) fn founding_level(&self, others: &[Seen]) -> u32 {
        let of = |seen: &Seen| seen.program.as_ref().map_or(FIRST_LEVEL, |program| program.levels.max);
        others.iter().map(of).fold(self.own.levels.max, u32::min)
    }

    /// Looks at the members; the level to be raised to now. `serves`: this machine is the master.
    pub(crate) fn look(&mut self, others: &[Seen], serves: bool, now: Instant) -> Option<u32> {
        let (Some(level), true) = (self.level, serves) else {
            (self.ready, self.blocked) = (None, None);
            return None;
        };
        let Look { next, mut blocked } = look(level.number, &self.me, &self.own, others);
        let mut raise = None;
        match (next, &self.hold) {
            (None, _) => self.ready = None,
            (Some(next), Some(hold)) => {
                self.ready = None;
                let by = hold.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
                blocked.insert(
                    0,
                    format!(
                        "level {next} is held back{by} since {}: `tanist upgrade go` lets it come",
                        hold.since
                    ),
                );
            }
            (Some(next), None) => {
                let since = match self.ready {
                    Some((to, since)) if to == next => since,
                    _ => {
                        self.ready = Some((next, now));
                        now
                    }
                };
                let left = self.calm.saturating_sub(now.duration_since(since));
                if !left.is_zero() {
                    blocked.insert(
                        0,
                        format!(
                            "level {next} comes in {} s if all machines stay as they are",
                            left.as_secs() + 1
                        ),
                    );
                } else if self.asked.is_none_or(|asked| now.duration_since(asked) > RAISE_PATIENCE) {
                    self.asked = Some(now);
                    raise = Some(next);
                }
            }
        }
        if let Some(why) = &self.failed {
            blocked.insert(0, format!("the last try failed: {why}"));
        }
        self.blocked = (!blocked.is_empty()).then(|| blocked.join("; "));
        raise
    }

    /// Adds to a view what is known of upgrades.
    pub(crate) fn show(
        &self,
        cluster: &mut Cluster,
        others: &[Seen],
        problem: impl Fn(&MemberId) -> Option<String>,
    ) {
        let shown = |program: &Program| MemberProgram {
            version: program.version.clone(),
            protocol: range(program.protocol),
            levels: range(program.levels),
        };
        for member in &mut cluster.members {
            if member.id == self.me.as_str() {
                member.program = Some(shown(&self.own));
            } else if let Some(seen) = others.iter().find(|seen| seen.id.as_str() == member.id) {
                member.program = seen.program.as_ref().map(shown);
                member.problem = if seen.reached { None } else { problem(&seen.id) };
            }
        }
        cluster.upgrade = self.level.map(|level| Shown {
            level: level.number,
            held: level.held,
            held_by: self.hold.as_ref().and_then(|hold| hold.by.clone()),
            held_at: self.hold.as_ref().map(|hold| hold.since.clone()),
            blocked: self.blocked.clone(),
        });
    }
}

fn range(range: Range) -> LevelRange {
    LevelRange { min: range.min, max: range.max }
}

/// What is known of the other members of the record.
pub(crate) fn seen(status: &Status, transport: &Transport) -> Vec<Seen> {
    let others = status.record.members.iter().filter(|member| member.id != status.id);
    let of = |id: &MemberId| Seen {
        id: id.clone(),
        reached: transport.is_connected(id, Channel::Control),
        program: transport.program(id),
    };
    others.map(|member| of(&member.id)).collect()
}

/// What the made-up next version says that this one doesn't: a message of its own to those that know it, and one more field of
/// heartbeats to all. Only tests of upgrades turn it on.
pub(crate) mod next {
    use bytes::Bytes;
    use tanist_store::is_next_version;
    use tanist_transport::{Agreed, Features};

    /// It is told notes.
    pub(crate) const NOTES: Features = Features(1 << 63);
    /// The kind of the message.
    const NOTE: u32 = 1000;
    /// The head of a heartbeat: an array of its kind and of an array with one array of fields, of which there are fewer than 24.
    const HEARTBEAT: [u8; 3] = [0x82, 0x04, 0x81];
    const FIELDS: usize = HEARTBEAT.len();
    /// Fields of a heartbeat that has all that this program knows.
    const KNOWN: usize = 11;

    /// The message, for a peer that knows it.
    pub(crate) fn note(agreed: Agreed) -> Option<Bytes> {
        let told = is_next_version() && agreed.features.has(NOTES);
        told.then(|| minicbor::to_vec((NOTE, ["a note of the next version"])).unwrap_or_default().into())
    }

    /// Whether a message of this kind is a note, to a program that knows it.
    pub(crate) fn hears(kind: u32) -> bool {
        is_next_version() && kind == NOTE
    }

    /// A heartbeat with one more field.
    pub(crate) fn lengthen(head: Bytes) -> Bytes {
        if is_next_version() { longer(&head).unwrap_or(head) } else { head }
    }

    pub(super) fn longer(head: &Bytes) -> Option<Bytes> {
        if !head.starts_with(&HEARTBEAT) {
            return None;
        }
        let mut longer = head.to_vec();
        let known = usize::from(longer[FIELDS] - 0x80);
        // Fields that are left out at the end, since they hold nothing, come first.
        let missing = KNOWN.saturating_sub(known);
        longer[FIELDS] += missing as u8 + 1;
        longer.extend(std::iter::repeat_n(0xf6, missing));
        longer.extend([0x18, 0x2a]);
        Some(longer.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(version: &str, max: u32) -> Program {
        Program { version: version.to_owned(), levels: Range::new(FIRST_LEVEL, max), ..Program::silent() }
    }

    fn seen(id: &str, reached: bool, program: Option<Program>) -> Seen {
        Seen { id: id.parse().unwrap(), reached, program }
    }

    fn upgrades(level: u32) -> Upgrades {
        let mut upgrades = Upgrades::new("pc-1".parse().unwrap(), Duration::from_secs(60));
        upgrades.own = program("2.0", 8);
        upgrades.found(level, None);
        upgrades
    }

    fn blocked(upgrades: &Upgrades) -> &str {
        upgrades.blocked.as_deref().unwrap_or_default()
    }

    #[test]
    fn heartbeat_of_the_next_version_is_read_by_this_one() {
        use tanist_replication::{Message, Position, SuccessionRecord, Term, Time, message::Heartbeat, wire};
        let record = SuccessionRecord::blank(vec![]);
        for level in [None, Some(Level { number: 7, held: false })] {
            let heartbeat = Heartbeat {
                term: Term(1),
                sent: Time(2),
                committed: record.key,
                record: record.clone(),
                acknowledged: Position::ZERO,
                tip: Position::ZERO,
                echo: None,
                serving: true,
                unhealthy: Default::default(),
                times: None,
                level,
            };
            let message = Message::Heartbeat(heartbeat);
            let (head, body) = wire::encode(message.clone());
            let longer = next::longer(&head).unwrap();
            assert!(longer.len() > head.len());
            assert_eq!(wire::decode(&longer, body).unwrap(), message);
        }
        let (head, _) = wire::encode(Message::Resync { term: Term(1) });
        assert_eq!(next::longer(&head), None);
    }

    #[test]
    fn level_is_raised_once_all_have_known_it_for_the_calm_time() {
        let mut upgrades = upgrades(7);
        let start = Instant::now();
        let all = [seen("pc-2", true, Some(program("2.0", 8))), seen("pc-3", true, Some(program("2.1", 8)))];
        assert_eq!(upgrades.look(&all, true, start), None);
        assert!(blocked(&upgrades).contains("level 8 comes in"), "{}", blocked(&upgrades));
        // One was away for a moment: it may have come back with another program.
        let away =
            [seen("pc-2", true, Some(program("2.0", 8))), seen("pc-3", false, Some(program("2.1", 8)))];
        assert_eq!(upgrades.look(&away, true, start + Duration::from_secs(59)), None);
        assert!(blocked(&upgrades).contains("pc-3 isn't reached"), "{}", blocked(&upgrades));
        assert_eq!(upgrades.look(&all, true, start + Duration::from_secs(60)), None);
        assert_eq!(upgrades.look(&all, true, start + Duration::from_secs(119)), None);
        assert_eq!(upgrades.look(&all, true, start + Duration::from_secs(120)), Some(8));
        assert_eq!(upgrades.look(&all, true, start + Duration::from_secs(121)), None, "it was asked for");
        assert_eq!(upgrades.look(&all, true, start + Duration::from_secs(131)), Some(8), "it wasn't done");
        upgrades.found(8, None);
        assert_eq!(upgrades.look(&all, true, start + Duration::from_secs(200)), None);
        assert_eq!(blocked(&upgrades), "");
    }

    #[test]
    fn whoever_does_not_know_it_or_is_not_heard_of_blocks_by_name() {
        let mut upgrades = upgrades(7);
        let start = Instant::now();
        let late = start + Duration::from_secs(3600);
        for (other, expected) in [
            (
                seen("pc-3", true, Some(program("1.0", 7))),
                "pc-3 runs 1.0, which knows level 7: upgrade it or remove it",
            ),
            (seen("pc-3", false, Some(program("2.0", 8))), "pc-3 isn't reached"),
            (seen("pc-3", true, None), "pc-3 isn't reached"),
        ] {
            let others = [seen("pc-2", true, Some(program("2.0", 8))), other];
            assert_eq!(upgrades.look(&others, true, start), None);
            assert_eq!(upgrades.look(&others, true, late), None);
            assert!(blocked(&upgrades).contains(expected), "{}", blocked(&upgrades));
        }
        // An older master among newer ones: it can't raise it, and says that it is itself in the way.
        upgrades.own = program("1.0", 7);
        let newer = [seen("pc-2", true, Some(program("2.0", 8)))];
        assert_eq!(upgrades.look(&newer, true, late), None);
        assert!(blocked(&upgrades).contains("pc-1 runs 1.0"), "{}", blocked(&upgrades));
    }

    #[test]
    fn held_level_stays_and_a_backup_raises_nothing() {
        let mut upgrades = upgrades(7);
        let (start, late) = (Instant::now(), Instant::now() + Duration::from_secs(3600));
        let all = [seen("pc-2", true, Some(program("2.0", 8)))];
        assert_eq!(upgrades.look(&all, false, start), None);
        assert_eq!(upgrades.look(&all, false, late), None);
        let hold = Hold { by: Some("anna".to_owned()), since: "2026-12-01".to_owned() };
        upgrades.found(7, Some(hold));
        assert_eq!(upgrades.look(&all, true, start), None);
        assert_eq!(upgrades.look(&all, true, late), None);
        assert!(blocked(&upgrades).contains("held back by anna since 2026-12-01"), "{}", blocked(&upgrades));
        upgrades.found(7, None);
        assert_eq!(upgrades.look(&all, true, late), None, "the calm time begins when it is let go");
        assert_eq!(upgrades.look(&all, true, late + Duration::from_secs(60)), Some(8));
    }

    #[test]
    fn intermediate_level_comes_while_one_machine_lags_two_behind() {
        let mut upgrades = upgrades(6);
        let start = Instant::now();
        let others = [seen("pc-2", true, Some(program("1.0", 7)))];
        assert_eq!(upgrades.look(&others, true, start), None);
        assert_eq!(upgrades.look(&others, true, start + Duration::from_secs(61)), Some(7));
        assert_eq!(upgrades.founding_level(&others), 7);
        assert_eq!(upgrades.founding_level(&[seen("pc-2", true, None)]), FIRST_LEVEL);
    }
}
