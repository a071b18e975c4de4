//! The store thread's part of a rejoin: asks, stages, and puts everything in place at once.

use std::time::{Instant, SystemTime};

use tanist_api::RejoinProgress;
use tanist_replication::MemberId;
use tanist_store::{Database, Rejoin, ReportContext};

use super::{
    AHEAD, Board, LOG_EVERY, RejoinError,
    fetch::{FromMaster, Link, ToMaster},
};

/// Brings `database` in line with the master at the other end of `link`.
///
/// # Errors
/// Nothing was changed, and what has come is kept for the next try.
pub(crate) fn take(
    database: &mut Database,
    link: &Link,
    member: &MemberId,
    board: &Board,
    now: SystemTime,
) -> Result<(), RejoinError> {
    let result = run(database, link, member, board, now);
    let last_word = match &result {
        Ok(()) => ToMaster::Done,
        Err(error) => ToMaster::GivenUp(error.to_string()),
    };
    // Whether it is heard or not makes no difference.
    let _ = link.say(last_word);
    result
}

fn run(
    database: &mut Database,
    link: &Link,
    member: &MemberId,
    board: &Board,
    now: SystemTime,
) -> Result<(), RejoinError> {
    let started = Instant::now();
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| RejoinError::Unexpected(format!("no random key: {error}")))?;
    let (stamp, page_size) = (database.stamp(), database.page_size());
    board.set(member, RejoinProgress::default());
    let staging = database.open_staging()?;
    link.say(ToMaster::Ask(stamp, key, database.must_compare_all()))?;
    let FromMaster::Target(target, changed) = link.next()? else {
        return Err(RejoinError::Unexpected("expected the master's snapshot first".to_owned()));
    };
    let (position, of_pages, only_changed) = (target.stamp.position, target.pages, changed.is_some());
    let mut rejoin = database.begin_rejoin(staging, key, target)?;
    if let Some(changed) = changed {
        rejoin = rejoin.only(changed)?;
    }
    let pages = rejoin.counts().pages;
    let master = &link.master;
    tracing::info!(
        %master, from = %stamp.position, %position, pages, only_changed,
        staged_before = rejoin.counts().staged_before,
        diverged_after = rejoin.diverged_after().map(|common| common.to_string()),
        "rejoin: comparing with the master"
    );
    let mut logged = started;
    let whole = loop {
        board.set(member, RejoinProgress { only_changed, ..progress(&rejoin, link) });
        link.is_wanted()?;
        while rejoin.unanswered() < AHEAD
            && let Some(question) = rejoin.question()?
        {
            link.say(ToMaster::Question(question))?;
        }
        match link.next()? {
            FromMaster::Answer(answer) => rejoin.answer(answer)?,
            FromMaster::End(whole) => break whole,
            other => return Err(RejoinError::Unexpected(format!("expected an answer, got {other:?}"))),
        }
        if logged.elapsed() > LOG_EVERY {
            logged = Instant::now();
            let RejoinProgress { compared, moved, bytes, .. } = progress(&rejoin, link);
            tracing::info!(compared, of_pages = pages, received_pages = moved, bytes, "rejoin: in progress");
        }
    };
    let RejoinProgress { moved, bytes, .. } = progress(&rejoin, link);
    board.set(member, RejoinProgress { only_changed, placing: true, ..progress(&rejoin, link) });
    let context = ReportContext { member: member.as_str(), now };
    link.is_wanted()?;
    let rejoined = rejoin.finish(whole, &context)?;
    // Of a full copy's bytes, compression left aside.
    let percent = 100.0 * bytes as f64 / (f64::from(of_pages) * f64::from(page_size));
    if let Some(report) = &rejoined.report {
        tracing::warn!(report, "rejoin: what only this replica held is saved in a divergence report");
    }
    tracing::info!(
        %position, pages, only_changed, received_pages = moved, bytes,
        percent_of_copy = format!("{percent:.2}"),
        seconds = started.elapsed().as_secs_f32(),
        "rejoin: in line with the master"
    );
    board.remove(member);
    Ok(())
}

fn progress(rejoin: &Rejoin<'_>, link: &Link) -> RejoinProgress {
    let counts = rejoin.counts();
    RejoinProgress {
        pages: counts.pages,
        compared: counts.compared,
        moved: counts.received,
        bytes: link.bytes(),
        ..RejoinProgress::default()
    }
}
