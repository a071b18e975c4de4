//! What waits to be sent on one link, and whether the link takes more.
//!
//! Owns the bounds. Never waits: a full queue says so. Read `link.rs` for the task that empties it.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{Channel, Limits, Packet};

/// Why a packet was not taken. Nothing of it was or will be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The link is not up.
    #[error("link is down")]
    Down,
    /// As much waits already as may wait.
    #[error("queue is full")]
    Full,
    /// No such peer was set.
    #[error("unknown peer")]
    UnknownPeer,
    /// Larger than the channel allows.
    #[error("packet of {found} bytes, expected at most {limit}")]
    TooLarge {
        /// Bytes of head and body.
        found: usize,
        /// The channel's limit in bytes.
        limit: usize,
    },
    /// Copies travel on the stream that `open_copy` gives.
    #[error("packets can't be sent on the copy channel; open a copy stream")]
    NotACopyStream,
}

/// Where a link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Takes nothing: a control link that isn't up; a bulk link that just failed.
    Down,
    /// Bulk only: the first packet makes it dial.
    Asleep,
    /// Bulk only: packets wait for the dial.
    Dialing,
    Up,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    wanted: bool,
    packets: VecDeque<Packet>,
    bytes: usize,
    problem: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Queue {
    channel: Channel,
    limits: Limits,
    state: Mutex<State>,
    /// Rings when there is a packet, or `wanted` changed.
    pub(crate) wake: Notify,
}

impl Queue {
    pub(crate) fn new(channel: Channel, limits: Limits) -> Queue {
        let lazy = channel == Channel::Bulk;
        let phase = if lazy { Phase::Asleep } else { Phase::Down };
        let state = State { phase, wanted: !lazy, packets: VecDeque::new(), bytes: 0, problem: None };
        Queue { channel, limits, state: Mutex::new(state), wake: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, packet: Packet) -> Result<(), SendError> {
        let (found, limit) = (packet.len(), self.limits.message(self.channel));
        if found > limit {
            return Err(SendError::TooLarge { found, limit });
        }
        let mut state = self.state();
        if state.phase == Phase::Down {
            return Err(SendError::Down);
        }
        let fits = state.packets.is_empty()
            || (state.packets.len() < self.limits.queue_packets
                && state.bytes + found <= self.limits.queue_bytes);
        if !fits {
            return Err(SendError::Full);
        }
        state.bytes += found;
        state.packets.push_back(packet);
        state.wanted = true;
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    pub(crate) fn pop(&self) -> Option<Packet> {
        let mut state = self.state();
        let packet = state.packets.pop_front()?;
        state.bytes -= packet.len();
        Some(packet)
    }

    /// Whether anybody wants the link: always for control.
    pub(crate) fn is_wanted(&self) -> bool {
        self.state().wanted
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state().phase == Phase::Up
    }

    /// Asks for the link (bulk).
    pub(crate) fn open(&self) {
        self.state().wanted = true;
        self.wake.notify_one();
    }

    /// Gives the link up and drops what waits (bulk).
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.wanted = false;
        clear(&mut state);
        drop(state);
        self.wake.notify_one();
    }

    pub(crate) fn on_dialing(&self) {
        if self.channel == Channel::Bulk {
            self.state().phase = Phase::Dialing;
        }
    }

    pub(crate) fn on_up(&self) {
        let mut state = self.state();
        state.phase = Phase::Up;
        state.problem = None;
    }

    /// The link is lost or could not be opened: drops what waits, and says whether something did.
    pub(crate) fn on_down(&self, problem: String) -> bool {
        let mut state = self.state();
        let waited = !state.packets.is_empty();
        clear(&mut state);
        state.phase = Phase::Down;
        state.wanted = self.channel == Channel::Control;
        state.problem = Some(problem);
        waited
    }

    /// The pause after a failure is over.
    pub(crate) fn on_rested(&self) {
        if self.channel == Channel::Bulk {
            let mut state = self.state();
            if state.phase == Phase::Down {
                state.phase = Phase::Asleep;
            }
        }
    }

    /// Why the link is down, as far as known.
    pub(crate) fn problem(&self) -> Option<String> {
        self.state().problem.clone()
    }
}

fn clear(state: &mut State) {
    state.packets.clear();
    state.bytes = 0;
}
