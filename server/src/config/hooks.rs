//! `[hooks]` and `[service]`: the user's own programs that go with the reign.

use std::time::Duration;

use tanist_replication::Timing;

use super::{
    raw::{RawHooks, RawService},
    resolved::{ConfigError, Fields},
};

/// Programs that are told when this machine's reign begins to serve and when it ends. Empty: none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// Run when it begins.
    pub on_promote: Vec<String>,
    /// Run when it has ended.
    pub on_demote: Vec<String>,
    /// Each is killed after so long.
    pub timeout: Duration,
    /// A failing `on_promote` makes this machine hand the throne over.
    pub required: bool,
    /// Where nobody else can reign, the failed `on_promote` is tried again so often.
    pub retry: Duration,
    /// So long after its reign, a machine whose `on_promote` failed isn't fit to reign.
    pub recovery: Duration,
}

/// A program that runs only while this machine is the serving master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
    /// It is asked to end so long before it is killed, when the lease isn't renewed.
    pub stop_time: Duration,
    /// It is killed so long before the lease ends.
    pub kill_time: Duration,
    /// So often the lease is looked at.
    pub every: Duration,
    /// It isn't started before the gate has been open for so long, or for longer if others have promised longer leases: then every
    /// earlier lease has ended.
    pub start_delay: Duration,
}

fn program(fields: &Fields<'_>, field: &str, program: Vec<String>) -> Result<Vec<String>, ConfigError> {
    if program.first().is_some_and(String::is_empty) {
        let expected = "a program and its arguments, such as [\"/usr/local/bin/tell\", \"-q\"]";
        return Err(fields.error(field, "\"\"", expected));
    }
    Ok(program)
}

impl Hooks {
    pub(super) fn of(fields: &Fields<'_>, raw: RawHooks) -> Result<Hooks, ConfigError> {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        if raw.required && raw.on_promote.is_empty() {
            return Err(fields.error("hooks.required", "true", "false where there is no hooks.on_promote"));
        }
        let day = s(86_400);
        Ok(Hooks {
            on_promote: program(fields, "hooks.on_promote", raw.on_promote)?,
            on_demote: program(fields, "hooks.on_demote", raw.on_demote)?,
            timeout: fields.duration("hooks.timeout", raw.timeout.as_ref(), s(10), (ms(10), s(600)))?,
            required: raw.required,
            retry: fields.duration("hooks.retry", raw.retry.as_ref(), s(10), (ms(100), day))?,
            recovery: fields.duration("hooks.recovery", raw.recovery.as_ref(), s(60), (ms(0), day))?,
        })
    }
}

impl Service {
    pub(super) fn of(
        fields: &Fields<'_>,
        raw: RawService,
        timing: &Timing,
    ) -> Result<Option<Service>, ConfigError> {
        let lease = timing.lease;
        let kill_time = lease / 20;
        // What is left of the lease before the next heartbeat renews it; a child must not be stopped for less.
        let renewed = timing.drift_margin + kill_time + timing.heartbeat * 3 / 2;
        let longest = lease.saturating_sub(renewed);
        let given = raw.stop_time.as_ref();
        let default = (lease / 4).min(longest);
        let stop_time = fields.duration("service.stop_time", given, default, (Duration::ZERO, longest))?;
        let command = program(fields, "service.command", raw.command)?;
        Ok((!command.is_empty()).then(|| Service {
            command,
            stop_time,
            kill_time,
            every: timing.heartbeat.min(lease / 20),
            start_delay: lease,
        }))
    }
}
