//! In what order the hooks run: a pure state machine, without processes and clocks.
//!
//! Owns the rule: one at a time, every reign that was told of is ended before the next is told of, and reigns that came
//! and went meanwhile are left out. Read `mod.rs` for who runs them.

use std::time::{Duration, Instant};

use tanist_replication::Term;

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Tell that this reign serves.
    Promote(Term),
    /// Tell that this reign is over.
    Demote(Term),
    /// Nothing, before something changes or this moment comes.
    Wait(Option<Instant>),
}

/// How far the reign that was told of is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// `on_promote` may have begun.
    Begun,
    /// It is done.
    Done,
    /// It failed, and is tried again then.
    Failed(Instant),
}

/// Which reign there is, and which one the hooks were told of.
#[derive(Debug, Default)]
pub(super) struct Order {
    reign: Option<Term>,
    told: Option<(Term, Told)>,
}

impl Order {
    /// `unfinished`: the reign that an earlier process told of and didn't end.
    pub(super) fn new(unfinished: Option<Term>) -> Order {
        Order { reign: None, told: unfinished.map(|term| (term, Told::Begun)) }
    }

    /// This reign serves now, or none.
    pub(super) fn set_reign(&mut self, reign: Option<Term>) {
        self.reign = reign;
    }

    /// What to do at `now`; what it says is done before it is asked again.
    pub(super) fn next(&self, now: Instant) -> Step {
        match (self.told, self.reign) {
            (Some((told, _)), reign) if reign != Some(told) => Step::Demote(told),
            (Some((told, Told::Begun)), _) => Step::Promote(told),
            (Some((told, Told::Failed(again))), _) if now >= again => Step::Promote(told),
            (Some((_, Told::Failed(again))), _) => Step::Wait(Some(again)),
            (None, Some(reign)) => Step::Promote(reign),
            (Some((_, Told::Done)), _) | (None, None) => Step::Wait(None),
        }
    }

    /// `on_promote` is about to run.
    pub(super) fn begin(&mut self, term: Term) {
        self.told = Some((term, Told::Begun));
    }

    /// `on_promote` has ended; when it failed, it is tried again then.
    pub(super) fn promoted(&mut self, again: Option<Instant>) {
        if let Some((_, told)) = &mut self.told {
            *told = again.map_or(Told::Done, Told::Failed);
        }
    }

    /// `on_demote` has ended, well or not: there is nothing better to be done than to go on.
    pub(super) fn demoted(&mut self) {
        self.told = None;
    }
}

/// How long a program that ended is left alone: longer each time, anew after a good while.
#[derive(Debug, Default)]
pub(super) struct BackOff {
    failures: u32,
}

impl BackOff {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(30);
    /// A program that has run for so long has not failed at its start.
    const GOOD: Duration = Duration::from_secs(60);

    /// It has run for so long and ended.
    pub(super) fn ended(&mut self, ran: Duration) -> Duration {
        if ran >= BackOff::GOOD {
            self.failures = 0;
        }
        let wait = BackOff::FIRST.saturating_mul(1 << self.failures.min(5)).min(BackOff::LONGEST);
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn term(term: u64) -> Term {
        Term(term)
    }

    #[test]
    fn reigns_that_follow_fast_are_told_in_order_and_the_short_one_is_left_out() {
        let now = Instant::now();
        let mut order = Order::new(None);
        assert_eq!(order.next(now), Step::Wait(None));
        order.set_reign(Some(term(3)));
        assert_eq!(order.next(now), Step::Promote(term(3)));
        order.begin(term(3));
        order.promoted(None);
        assert_eq!(order.next(now), Step::Wait(None));
        // 5 came and went before anybody looked.
        order.set_reign(Some(term(7)));
        assert_eq!(order.next(now), Step::Demote(term(3)));
        order.demoted();
        assert_eq!(order.next(now), Step::Promote(term(7)));
        order.begin(term(7));
        order.set_reign(None);
        assert_eq!(order.next(now), Step::Demote(term(7)), "a promote that was cut short is ended, too");
        order.demoted();
        assert_eq!(order.next(now), Step::Wait(None));
    }

    #[test]
    fn reign_that_an_earlier_process_left_is_ended_first() {
        let now = Instant::now();
        let mut order = Order::new(Some(term(4)));
        order.set_reign(Some(term(6)));
        assert_eq!(order.next(now), Step::Demote(term(4)));
        order.demoted();
        assert_eq!(order.next(now), Step::Promote(term(6)));
    }

    #[test]
    fn failed_promote_is_tried_again_as_long_as_its_reign_lasts() {
        let now = Instant::now();
        let later = now + Duration::from_secs(9);
        let mut order = Order::new(None);
        order.set_reign(Some(term(1)));
        order.begin(term(1));
        order.promoted(Some(later));
        assert_eq!(order.next(now), Step::Wait(Some(later)));
        assert_eq!(order.next(later), Step::Promote(term(1)));
        order.set_reign(None);
        assert_eq!(order.next(later), Step::Demote(term(1)));
    }

    #[test]
    fn back_off_grows_to_its_limit_and_begins_anew_after_a_good_while() {
        let mut back_off = BackOff::default();
        let waits: Vec<_> = (0..7).map(|_| back_off.ended(Duration::ZERO).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(back_off.ended(BackOff::GOOD).as_secs(), 1);
    }

    proptest! {
        /// Whatever comes and goes: promote and demote take turns, for the same reign each, and reigns only go up.
        #[test]
        fn demote_never_follows_the_promote_of_a_later_reign(moves in prop::collection::vec(0_u8..4, 1..200)) {
            let now = Instant::now();
            let mut order = Order::new(None);
            let (mut reign, mut newest) = (None, 0);
            let mut open: Option<Term> = None;
            let mut last = Term::ZERO;
            for chosen in moves {
                match chosen {
                    0 => {
                        newest += 1;
                        reign = Some(term(newest));
                    }
                    1 => reign = None,
                    _ => match order.next(now) {
                        Step::Promote(term) => {
                            prop_assert!(open.is_none_or(|open| open == term) && term >= last);
                            prop_assert_eq!(Some(term), reign);
                            (open, last) = (Some(term), term);
                            order.begin(term);
                            order.promoted((chosen == 2).then_some(now));
                        }
                        Step::Demote(term) => {
                            prop_assert_eq!(open, Some(term));
                            open = None;
                            order.demoted();
                        }
                        Step::Wait(_) => prop_assert_eq!(open, reign),
                    },
                }
                order.set_reign(reign);
            }
        }
    }
}
