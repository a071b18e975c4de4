//! How much of what there is for all one client may have: connections, requests under way, watchers.
//!
//! A client is whoever holds a token, or, without tokens, an address. Counts only who has something, so what is kept is
//! bounded by what there is. Operators have a reserve beside it: `entrance.rs` and `mod.rs` say when.

use std::{collections::HashMap, sync::Arc};

use axum::extract::Request;
use parking_lot::Mutex;
use tanist_api::Access;

use super::{ApiError, AppState, authorize, rate::Origin};
use crate::auth::Holder;

/// Kept for operators beside each of the limits.
pub(crate) const RESERVE: usize = 32;
/// Of the connections in the reserve, one address gets no more than these.
pub(super) const RESERVE_EACH: usize = 8;

/// Whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Who {
    Address(Option<Origin>),
    Holder(Arc<str>),
}

impl Who {
    /// Behind `authorize`, which knows the holder.
    pub(super) fn of(request: &Request) -> Who {
        let extensions = request.extensions();
        match extensions.get::<Holder>() {
            Some(holder) => Who::Holder(Arc::clone(&holder.name)),
            None => Who::Address(extensions.get::<Origin>().copied()),
        }
    }
}

/// What all clients have of one kind.
#[derive(Debug)]
pub(super) struct Shares {
    had: Mutex<HashMap<Who, usize>>,
    each: usize,
}

/// One, until dropped.
#[derive(Debug)]
pub(super) struct Share {
    all: Arc<Shares>,
    who: Who,
}

impl Shares {
    /// So many for each.
    pub(super) fn new(each: usize) -> Arc<Shares> {
        Arc::new(Shares { had: Mutex::default(), each })
    }

    /// One more for this client, if it may have it.
    pub(super) fn take(self: &Arc<Shares>, who: Who) -> Option<Share> {
        let mut had = self.had.lock();
        let count = had.entry(who.clone()).or_insert(0);
        if *count >= self.each {
            return None;
        }
        *count += 1;
        Some(Share { all: Arc::clone(self), who })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut had = self.all.had.lock();
        if let Some(count) = had.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                had.remove(&self.who);
            }
        }
    }
}

/// The connection is one of the reserve's: it is for operators alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reserved;

/// Whether an operator sends it: by his token's role, or the proof of the cluster key. Where there are no tokens, what is asked tells
/// him: how the cluster stands, or a change of it.
pub(super) fn is_operator(state: &AppState, request: &Request) -> bool {
    if let Some(holder) = request.extensions().get::<Holder>() {
        return holder.role >= Access::Operate;
    }
    let path = request.uri().path();
    let operates = authorize::needed(request.method(), path).is_some_and(|needed| needed >= Access::Operate);
    state.0.tokens.is_none() && (operates || path == "/v1/cluster")
}

/// 503: this client has as much as it may have.
pub(super) fn full(who: &Who, what: &str, limit: &str) -> ApiError {
    let who = match who {
        Who::Address(_) => "this address".to_owned(),
        Who::Holder(name) => format!("the token {name:?}"),
    };
    ApiError::overloaded(format!("{who} has too many {what} ({limit})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_share_and_gives_it_back() {
        let shares = Shares::new(2);
        let who = |name: &str| Who::Holder(name.into());
        let first = shares.take(who("a")).unwrap();
        let second = shares.take(who("a")).unwrap();
        assert!(shares.take(who("a")).is_none());
        let other = shares.take(who("b")).unwrap();
        drop(first);
        let third = shares.take(who("a")).unwrap();
        drop((second, third, other));
        assert!(shares.had.lock().is_empty(), "nothing is kept of who has nothing");
    }
}
