//! Every page that a reader takes from the disk is compared with what was written, before its answer is believed.
//!
//! Owns the judgement for the snapshot that a thread reads. The page's sum is that of `sums.rs`; a page that was read before
//! this machine knew its sum is believed and remembered. Read `sqlite_file.rs` for how pages come here.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use crate::{
    sqlite_file,
    sums::{Moment, PageSum, PageSums, Seen, sum},
};

/// The sums of what was committed a moment ago are on their way; so long is waited for them.
const SUMS_TIME: Duration = Duration::from_millis(20);

thread_local! {
    static CHECK: RefCell<Option<Check>> = const { RefCell::new(None) };
}

struct Check {
    sums: Arc<PageSums>,
    /// What the snapshot is; `None` until it was read, which itself takes pages.
    moment: Option<Moment>,
    /// Read before the position was known.
    early: Vec<(u32, PageSum)>,
    wrong: Option<u32>,
}

impl Check {
    fn see(&mut self, page: u32, image: &[u8]) -> bool {
        let found = sum(page, image);
        match self.moment {
            None => {
                self.early.push((page, found));
                true
            }
            Some(moment) => self.judge(moment, page, found),
        }
    }

    fn judge(&mut self, moment: Moment, page: u32, found: PageSum) -> bool {
        let until = Instant::now() + SUMS_TIME;
        let wrong = loop {
            match self.sums.see_sum(moment, page, found) {
                Some(seen) => break seen == Seen::Wrong,
                None if Instant::now() >= until => break false,
                None => std::thread::sleep(Duration::from_micros(100)),
            }
        };
        if wrong {
            self.wrong = Some(page);
        }
        !wrong
    }
}

/// Has the pages that this connection reads compared, whenever a [`Snapshot`] is open on its thread.
pub(crate) fn watch(connection: &Connection) -> Result<(), rusqlite::Error> {
    sqlite_file::watch_pages(connection, |page, image| {
        CHECK.with(|check| {
            // Not while it is being set or asked, which reads nothing.
            let Ok(mut check) = check.try_borrow_mut() else { return true };
            check.as_mut().is_none_or(|check| check.see(page, image))
        })
    })
}

/// A snapshot that this thread reads; its pages are compared until it is dropped.
pub(crate) struct Snapshot(());

impl Snapshot {
    /// Begins, before anything of the snapshot is read.
    pub(crate) fn begin(sums: Arc<PageSums>) -> Snapshot {
        let check = Check { sums, moment: None, early: vec![], wrong: None };
        CHECK.set(Some(check));
        Snapshot(())
    }

    /// What the snapshot is is known now.
    pub(crate) fn at(&self, moment: Moment) {
        CHECK.with_borrow_mut(|check| {
            let Some(check) = check else { return };
            check.moment = Some(moment);
            for (page, found) in std::mem::take(&mut check.early) {
                check.judge(moment, page, found);
            }
        });
    }

    /// A page that isn't what was written, if there was one: what was read from the snapshot isn't to be believed.
    pub(crate) fn wrong(&self) -> Option<u32> {
        CHECK.with_borrow(|check| check.as_ref()?.wrong)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        CHECK.set(None);
    }
}
