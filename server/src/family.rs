//! A program that was started, and what it starts in turn.
//!
//! Owns the difference between the systems: a process group on Unix, a job on Windows. Who is started, how long it may run
//! and what its end means is for the callers to say.

use std::{io, process::ExitStatus};

#[cfg(unix)]
use tokio::process::Child;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};

/// What dies when [`Family::kill`] is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The program alone.
    Program,
    /// All that it has started, too, unless that has left the process group (Unix only).
    All,
    /// As `All`, and on Windows it also dies, by the system's doing, with the process that started it.
    Bound,
}

/// Killed when it is dropped, unless it was [released](Self::release).
#[derive(Debug)]
pub(crate) struct Family {
    #[cfg(unix)]
    child: Child,
    #[cfg(windows)]
    child: Box<dyn process_wrap::tokio::ChildWrapper>,
    /// The process group.
    #[cfg(unix)]
    group: Option<rustix::process::Pid>,
    released: bool,
}

impl Family {
    /// Starts it.
    ///
    /// # Errors
    /// The system's. On Windows 7 and 8 also when this process is in a job that its children can't leave.
    #[cfg(unix)]
    pub(crate) fn spawn(mut command: Command, scope: Scope) -> io::Result<Family> {
        if scope != Scope::Program {
            command.process_group(0);
        }
        let child = command.kill_on_drop(true).spawn()?;
        let id = child.id().filter(|_| scope != Scope::Program);
        let group = id.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        Ok(Family { child, group, released: false })
    }

    /// Starts it, before its first instruction in its job.
    #[cfg(windows)]
    pub(crate) fn spawn(command: Command, scope: Scope) -> io::Result<Family> {
        use process_wrap::tokio::{CommandWrap, JobObject, KillOnDrop};
        let mut command = CommandWrap::from(command);
        command.command_mut().kill_on_drop(true);
        if scope == Scope::Bound {
            // To the job: its processes end when the last handle on it does, which is ours.
            command.wrap(KillOnDrop);
        }
        if scope != Scope::Program {
            command.wrap(JobObject).wrap(OwnGroup { breakaway: false });
        }
        let child = match command.spawn() {
            // Before Windows 8 a process can't be in two jobs: out of ours first, if that may be.
            Err(error) if scope != Scope::Program && access_denied(&error) => {
                command.wrap(OwnGroup { breakaway: true });
                command.spawn()?
            }
            child => child?,
        };
        Ok(Family { child, released: false })
    }

    /// The program's streams, as far as they are pipes and weren't taken before.
    pub(crate) fn take_streams(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        #[cfg(unix)]
        return (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take());
        #[cfg(windows)]
        (self.child.stdin().take(), self.child.stdout().take(), self.child.stderr().take())
    }

    /// How the program itself has ended. What it has started may still run.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        #[cfg(unix)]
        return self.child.wait().await;
        // The job's own wait would be for all of it.
        #[cfg(windows)]
        self.child.inner_mut().wait().await
    }

    /// Lets everybody live on who still does.
    pub(crate) fn release(&mut self) {
        self.released = true;
    }

    /// Asks all of them to end, by SIGTERM. There is no such request on Windows that every program understands.
    #[cfg(unix)]
    pub(crate) fn terminate(&self) {
        if let Some(group) = self.group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
        }
    }

    /// Ends by force what still runs.
    pub(crate) fn kill(&mut self) {
        #[cfg(unix)]
        if let Some(group) = self.group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.start_kill();
    }

    /// Returns when all of those who were killed are gone; on Windows the program itself, the others being ended with it by the
    /// same call.
    pub(crate) async fn gone(&mut self) {
        let _ = self.wait().await;
        #[cfg(unix)]
        while self.group.is_some_and(|group| rustix::process::test_kill_process_group(group).is_ok()) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        // The number may be another one's soon.
        self.released = true;
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        if !self.released {
            self.kill();
        }
    }
}

#[cfg(windows)]
fn access_denied(error: &io::Error) -> bool {
    // As the system's own number, or as the HRESULT made of it.
    error.raw_os_error().is_some_and(|code| matches!(code.cast_unsigned(), 5 | 0x8007_0005))
}

/// A console group of its own, so that a Ctrl-C for this process isn't one for the program; and out of this process's job.
#[cfg(windows)]
#[derive(Debug)]
struct OwnGroup {
    breakaway: bool,
}

#[cfg(windows)]
impl process_wrap::tokio::CommandWrapper for OwnGroup {
    fn extend(&mut self, other: OwnGroup) {
        self.breakaway |= other.breakaway;
    }

    /// Comes after the job's own wrapper and says all the flags anew.
    fn pre_spawn(&mut self, command: &mut Command, _: &process_wrap::tokio::CommandWrap) -> io::Result<()> {
        const CREATE_SUSPENDED: u32 = 0x4;
        const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;
        const CREATE_BREAKAWAY_FROM_JOB: u32 = 0x0100_0000;
        let breakaway = if self.breakaway { CREATE_BREAKAWAY_FROM_JOB } else { 0 };
        command.creation_flags(CREATE_SUSPENDED | CREATE_NEW_PROCESS_GROUP | breakaway);
        Ok(())
    }
}
