//! Which data directory is behind a member's name: copies of one, and ones that were set back in time, are told apart.
//!
//! A data directory has an identity of its own, made at its first start, and a new word for each start. Members remember the newest
//! word of each other. A copy has the words of its original up to where they part; whoever comes to a member first goes on under the
//! name there, and the other is refused, for its words lack the one that is remembered. A directory with another identity replaces the one before,
//! which is refused from then on. Owns the judgement, and no file: the owner keeps what changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use minicbor::{Decode, Encode};
use tanist_replication::MemberId;

/// Words of earlier starts that are said: enough for who was away during as many. Beyond that nobody can tell.
pub const MOST_STARTS: usize = 64;
/// Directories that had the name before, as far as they are remembered.
const MOST_REPLACED: usize = 16;

/// What a data directory says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Life {
    /// Random, made at its first start.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub directory: [u8; 16],
    /// How many starts it has had.
    #[n(1)]
    pub number: u64,
    /// A random word for the present start, and those of the starts before it, newest first: at most [`MOST_STARTS`].
    #[n(2)]
    pub starts: Vec<u64>,
}

/// What is remembered of a member.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct KnownLife {
    #[cbor(n(0), with = "minicbor::bytes")]
    directory: [u8; 16],
    #[n(1)]
    number: u64,
    #[n(2)]
    start: u64,
    /// Directories that had its name before, newest first.
    #[n(3)]
    replaced: Vec<Vec<u8>>,
}

/// Why a data directory isn't let in under its member's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// A copy, or set back in time, or replaced by another.
    Copy,
    /// Its data is another cluster's.
    OtherFounding,
}

/// What this member says of itself, and remembers of the others. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Lives(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    own: Option<Life>,
    /// The random id of the founding of the cluster that its data belongs to, once that is known.
    founding: OnceLock<[u8; 16]>,
    known: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lives: BTreeMap<MemberId, KnownLife>,
    changed: BTreeSet<MemberId>,
}

impl Lives {
    /// Of a data directory that says `own`, and has remembered these.
    #[must_use]
    pub fn new(own: Life, founding: Option<[u8; 16]>, known: BTreeMap<MemberId, KnownLife>) -> Lives {
        let state = State { lives: known, changed: BTreeSet::new() };
        let lives = Inner { own: Some(own), founding: OnceLock::new(), known: Mutex::new(state) };
        if let Some(founding) = founding {
            let _ = lives.founding.set(founding);
        }
        Lives(Arc::new(lives))
    }

    /// The founding of the cluster that this machine's data belongs to.
    #[must_use]
    pub fn founding(&self) -> Option<[u8; 16]> {
        self.0.founding.get().copied()
    }

    /// The cluster is known from now on. `false` when it was known before.
    pub fn learn_founding(&self, founding: [u8; 16]) -> bool {
        self.0.founding.set(founding).is_ok()
    }

    /// What is to be remembered anew since this was last called: before anything counts that those members say.
    #[must_use]
    pub fn take_changes(&self) -> Vec<(MemberId, KnownLife)> {
        let mut state = self.state();
        let changed = std::mem::take(&mut state.changed);
        changed.into_iter().filter_map(|id| state.lives.get(&id).cloned().map(|life| (id, life))).collect()
    }

    /// Those who are no members any more are forgotten: whoever gets the name next is new.
    pub fn retain(&self, is_member: impl Fn(&MemberId) -> bool) -> Vec<MemberId> {
        let mut state = self.state();
        let gone: Vec<_> = state.lives.keys().filter(|id| !is_member(id)).cloned().collect();
        for id in &gone {
            state.lives.remove(id);
            state.changed.remove(id);
        }
        gone
    }

    pub(crate) fn own(&self) -> Option<Life> {
        self.0.own.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No change under this lock has two steps that can fail between.
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what says this of itself may go by this name here; changes nothing.
    pub(crate) fn judge(
        &self,
        member: &MemberId,
        life: Option<&Life>,
        founding: Option<&[u8; 16]>,
    ) -> Result<(), Stranger> {
        if let (Some(ours), Some(theirs)) = (self.0.founding.get(), founding)
            && ours != theirs
        {
            return Err(Stranger::OtherFounding);
        }
        let state = self.state();
        match (state.lives.get(member), life) {
            (Some(known), Some(life)) if !known.goes_on_as(life) => Err(Stranger::Copy),
            _ => Ok(()),
        }
    }

    /// It goes by this name here from now on.
    pub(crate) fn learn(&self, member: &MemberId, life: &Life) {
        let Some(start) = life.starts.first().copied() else { return };
        let mut state = self.state();
        let mut replaced = vec![];
        if let Some(known) = state.lives.get(member) {
            if (known.directory, known.number, known.start) == (life.directory, life.number, start) {
                return;
            }
            replaced.clone_from(&known.replaced);
            if known.directory != life.directory {
                tracing::warn!(peer = %member, "another data directory goes by its name from now on: the one before is not let in any more");
                replaced.insert(0, known.directory.to_vec());
                replaced.truncate(MOST_REPLACED);
            }
        }
        let known = KnownLife { directory: life.directory, number: life.number, start, replaced };
        state.lives.insert(member.clone(), known);
        state.changed.insert(member.clone());
    }
}

impl KnownLife {
    /// Whether `life` may be what this has become.
    fn goes_on_as(&self, life: &Life) -> bool {
        if life.directory != self.directory {
            return !self.replaced.iter().any(|replaced| replaced[..] == life.directory);
        }
        // It has had fewer starts than are known of: it was set back.
        let Some(ago) = life.number.checked_sub(self.number) else { return false };
        match usize::try_from(ago).ok().and_then(|ago| life.starts.get(ago)) {
            Some(start) => *start == self.start,
            // So many starts ago that it doesn't say.
            None => life.starts.len() >= MOST_STARTS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> MemberId {
        "pc-2".parse().unwrap()
    }

    /// A data directory that can be copied.
    #[derive(Clone)]
    struct Directory(Life);

    impl Directory {
        fn new(directory: u8) -> Directory {
            Directory(Life { directory: [directory; 16], number: 0, starts: vec![] })
        }

        fn start(&mut self, word: u64) -> &Life {
            self.0.number += 1;
            self.0.starts.insert(0, word);
            self.0.starts.truncate(MOST_STARTS);
            &self.0
        }
    }

    fn comes(lives: &Lives, life: &Life) -> bool {
        let good = lives.judge(&id(), Some(life), None).is_ok();
        if good {
            lives.learn(&id(), life);
        }
        good
    }

    #[test]
    fn whoever_comes_first_goes_on_and_the_other_copy_is_refused() {
        for original_first in [true, false] {
            let lives = Lives::default();
            let mut original = Directory::new(1);
            assert!(comes(&lives, original.start(10)));
            let mut copy = original.clone();
            let (first, second) =
                if original_first { (&mut original, &mut copy) } else { (&mut copy, &mut original) };
            assert!(comes(&lives, first.start(11)));
            assert!(comes(&lives, &first.0), "it connects again");
            assert!(!comes(&lives, second.start(12)));
            assert!(!comes(&lives, second.start(13)), "nor later");
            assert!(comes(&lives, first.start(14)));
            // An operator's word makes of the other a directory of its own, which replaces the first.
            let mut adopted = Directory::new(2);
            assert!(comes(&lives, adopted.start(15)));
            assert!(!comes(&lives, first.start(16)));
            assert!(comes(&lives, adopted.start(17)));
        }
    }

    #[test]
    fn directory_that_was_set_back_is_refused_and_starts_nobody_saw_are_no_matter() {
        let lives = Lives::default();
        let mut machine = Directory::new(1);
        assert!(comes(&lives, machine.start(1)));
        let old = machine.clone();
        for word in 2..20 {
            machine.start(word);
        }
        assert!(comes(&lives, &machine.0));
        let mut set_back = old;
        assert!(!comes(&lives, set_back.start(50)));
        // Nobody can tell whether the remembered one is among so many.
        for word in 100..100 + 2 * MOST_STARTS as u64 {
            machine.start(word);
        }
        assert!(comes(&lives, &machine.0));
    }

    #[test]
    fn what_is_learnt_is_told_once_and_those_who_left_are_forgotten() {
        let lives = Lives::default();
        let mut machine = Directory::new(1);
        comes(&lives, machine.start(1));
        let known = lives.take_changes();
        assert_eq!(known.len(), 1);
        comes(&lives, &machine.0);
        assert_eq!(lives.take_changes(), []);
        // The next process of this member.
        let own = Directory::new(9).start(1).clone();
        let lives = Lives::new(own, None, known.into_iter().collect());
        let mut copy = Directory::new(1);
        assert!(!comes(&lives, copy.start(7)), "as many starts, with another word");
        assert_eq!(lives.retain(|_| false), [id()]);
        assert!(comes(&lives, copy.start(8)));
    }

    #[test]
    fn data_of_another_founding_is_refused_whoever_brings_it() {
        let lives = Lives::default();
        assert!(lives.judge(&id(), None, Some(&[1; 16])).is_ok(), "nothing is known yet");
        assert!(lives.learn_founding([1; 16]));
        assert!(!lives.learn_founding([2; 16]));
        assert_eq!(lives.judge(&id(), None, Some(&[2; 16])), Err(Stranger::OtherFounding));
        assert!(lives.judge(&id(), None, Some(&[1; 16])).is_ok());
        assert!(lives.judge(&id(), None, None).is_ok(), "a machine without data");
    }
}
