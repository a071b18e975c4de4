//! `GET /v1/cluster`: how this machine sees the cluster. Any machine answers, always.

use axum::{Json, extract::State};
use tanist_api::Cluster;

use super::AppState;
use crate::clock;

/// The view, with `writable` only while this machine's own lease lasts, if it is the master.
pub(super) async fn get(State(state): State<AppState>) -> Json<Cluster> {
    let gate = &state.0.gate;
    let mut cluster = gate.view().cluster.clone();
    // The view is renewed ten times a second; the position is always current.
    cluster.position = gate.stored().borrow().to_string();
    cluster.clock_ms = clock::wall_ms();
    cluster.copies = state.0.scheduled.as_ref().map(|board| board.lock().clone());
    if let Some(notice) = gate.stalls().notice(clock::now_ns())
        && !cluster.notice.as_ref().is_some_and(|known| known.contains(&notice))
    {
        let known = cluster.notice.take().map_or_else(String::new, |known| format!("; {known}"));
        cluster.notice = Some(notice + &known);
    }
    if cluster.master.as_ref() == Some(&cluster.member) && gate.is_open(clock::now_ns()).is_none() {
        cluster.writable = false;
    }
    Json(cluster)
}
