//! Counting, and nothing else: majorities of voters (R3) and what a majority has reached.

use crate::{member::MemberId, succession::SuccessionRecord};

/// How many of `members` voters are a majority.
#[must_use]
pub fn majority(members: usize) -> usize {
    members / 2 + 1
}

/// Who counts: all members but those that have been silent for long.
pub fn voters(record: &SuccessionRecord) -> impl Iterator<Item = &MemberId> {
    record.members.iter().filter(|member| !member.absent).map(|member| &member.id)
}

/// Whether a majority of the record's voters satisfies `holds`.
#[must_use]
pub fn has_majority(record: &SuccessionRecord, holds: impl Fn(&MemberId) -> bool) -> bool {
    let count = voters(record).filter(|id| holds(id)).count();
    count >= majority(voters(record).count())
}

/// Whether every member of the record, counted or not, satisfies `holds`.
#[must_use]
pub fn has_all(record: &SuccessionRecord, holds: impl Fn(&MemberId) -> bool) -> bool {
    record.members.iter().all(|member| holds(&member.id))
}

/// The greatest value that a majority of the record's voters has reached, or `None` if no majority has any.
#[must_use]
pub fn reached<T: Ord>(record: &SuccessionRecord, value: impl Fn(&MemberId) -> Option<T>) -> Option<T> {
    let mut values: Vec<Option<T>> = voters(record).map(value).collect();
    values.sort_by(|a, b| b.cmp(a));
    let majority = majority(values.len());
    values.into_iter().nth(majority - 1).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Member, Rank};

    fn record(n: usize) -> SuccessionRecord {
        let member = |i: usize| Member {
            id: format!("m{i}").parse().unwrap(),
            rank: Rank(1),
            peer_addresses: vec![],
            urls: vec![],
            absent: false,
        };
        SuccessionRecord::blank((0..n).map(member).collect())
    }

    #[test]
    fn reached_is_what_the_slowest_of_the_fastest_majority_has() {
        let values = [Some(5), None, Some(9), Some(1), Some(7)];
        let value = |id: &MemberId| values[id.as_str()[1..].parse::<usize>().unwrap()];
        assert_eq!(reached(&record(5), value), Some(5));
        assert_eq!(reached(&record(3), value), Some(5));
        assert_eq!(reached(&record(2), value), None, "two members: both are needed");
        assert_eq!(reached(&record(1), value), Some(5));
    }

    #[test]
    fn absent_members_do_not_count() {
        let mut four = record(4);
        four.members[3].absent = true;
        let of = |ids: &'static [&'static str]| move |id: &MemberId| ids.contains(&id.as_str());
        assert!(has_majority(&four, of(&["m0", "m1"])));
        assert!(!has_majority(&four, of(&["m0", "m3"])));
        assert!(!has_all(&four, of(&["m0", "m1", "m2"])));
    }

    #[test]
    fn majority_of_even_groups_is_more_than_half() {
        assert_eq!([1, 2, 3, 4, 9].map(majority), [1, 2, 2, 3, 5]);
    }
}
