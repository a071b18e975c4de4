//! How events and messages are told in a trace that a person reads.

use tanist_replication::{Event, Message};

/// Heartbeats come so often that they would hide the rest.
pub fn is_routine(message: &Message) -> bool {
    matches!(message, Message::Heartbeat(_) | Message::HeartbeatReply(_))
}

pub fn event(event: &Event) -> String {
    match event {
        Event::Tick | Event::Message { .. } | Event::Captured(_) => String::new(),
        Event::Stored(stamp) => format!("stored {}", stamp.position),
        Event::ReignStarted { term, base, .. } => format!("reign {term} started on {}", base.position),
        Event::ReignFailed { term, stamp, .. } => format!("reign {term} failed, at {}", stamp.position),
        Event::ApplyFailed(s) => format!("apply failed, at {}", s.position),
        Event::ReignEnded(s) => format!("reign ended at {}", s.position),
        Event::CopyFinished(s) => format!("copy finished at {}", s.position),
        Event::CopyFailed(s) => format!("copy failed at {}", s.position),
        Event::CaptureBroken(s) => format!("capture broken at {}", s.position),
        Event::LinkUp(peer) => format!("link to {peer} is up"),
        Event::LinkDown(peer) => format!("link to {peer} is down"),
        Event::BulkDown(peer) => format!("bulk link to {peer} is lost"),
        Event::Refused(peer) => format!("{peer} refuses connections"),
        Event::ProcessEnded(peer) => format!("{peer}'s process is said to have ended"),
        other => format!("{other:?}"),
    }
}

pub fn message(message: &Message) -> String {
    match message {
        Message::Append { term, transaction, .. } => {
            format!("append {} (term {term})", transaction.stamp.position)
        }
        Message::Stored(report) => format!("stored {} (term {})", report.stamp.position, report.term),
        Message::Refused(report) => format!("refused, at {} (term {})", report.stamp.position, report.term),
        Message::PreVote(request) => format!("would you vote for me in term {}?", request.term),
        Message::Vote(request) => format!("vote for me in term {}", request.term),
        Message::VoteReply(r) => {
            format!("vote {} for {}, record {}, at {}", r.granted, r.term, r.record.key, r.position)
        }
        Message::PreVoteReply(r) => {
            format!("pre-vote {} for {}, record {}, at {}", r.granted, r.term, r.record.key, r.position)
        }
        Message::Distrust(report) => {
            format!("you differ at {} (term {})", report.stamp.position, report.term)
        }
        Message::Resync { term } => format!("copy everything (term {term})"),
        Message::Goodbye { term, heir, .. } => {
            format!("goodbye (term {term}), heir {}", heir.as_ref().map_or("nobody", |heir| heir.as_str()))
        }
        Message::Heartbeat(h) => {
            format!("heartbeat (term {}), record {}, acknowledged {}", h.term, h.record.key, h.acknowledged)
        }
        Message::HeartbeatReply(r) => format!("lease (term {}), accepted {}", r.term, r.accepted),
    }
}

/// What a panic said.
pub fn panic(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}
