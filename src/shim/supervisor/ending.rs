//! From the first stop signal to the record on disk.

use super::super::life::{Input, Why};
use super::{AGAIN, LOOK_MOST, Supervisor, clock};
use crate::crash;
use crate::domain::exit::Asked;
use crate::wire::ShimNotice;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;

impl Supervisor {
    /// What stopped it; for a signal, as far as it is known by now.
    pub(super) fn asked(&self) -> Option<Asked> {
        Some(match self.life.why()? {
            Why::Known(asked) => asked,
            Why::Signal if self.going_down => Asked::Shutdown,
            Why::Signal => Asked::Manager,
        })
    }

    pub(super) fn helper(&self) -> Option<i32> {
        self.question.as_ref().map(|q| q.pid)
    }

    pub(super) fn signal_all(&mut self, signals: &[Signal]) {
        self.killed |= self.main_alive && signals.contains(&Signal::KILL);
        let mut done = BTreeSet::new();
        if let Some(cgroup) = &self.cgroup {
            cgroup.signal(signals, self.helper(), &mut done);
        }
        // A login session may have moved the main process elsewhere: it stays ours, and its
        // number is its own until we reap it.
        if let Some(main) = self
            .main
            .filter(|pid| self.main_alive && !done.contains(pid))
            && let Some(pid) = Pid::from_raw(main)
        {
            for signal in signals {
                let _ = kill_process(pid, *signal);
            }
        }
    }

    /// Is anybody left? If so and the time is up, SIGKILL.
    pub(super) fn look(&mut self, now: u64) {
        let helper = self.helper();
        let left = self.cgroup.as_ref().map(|c| c.members(helper));
        match left {
            None => self.take(Input::Empty),
            Some(Ok(left)) if left.is_empty() => self.take(Input::Empty),
            Some(_) if self.life.killing() => self.signal_all(&[Signal::KILL]),
            Some(_) => {}
        }
        self.look_at = Some(now.saturating_add(self.look_gap));
        self.look_gap = (self.look_gap * 2).min(LOOK_MOST);
    }

    /// Writes the record; `false`: not yet.
    pub(super) fn end(&mut self, now: u64) -> bool {
        let written = match self.retry_at {
            None => {
                self.complete();
                crash::point("shim.before-record");
                self.place.write(&self.record)
            }
            Some(at) if now < at => return false,
            Some(_) => self.place.write_again(&self.record),
        };
        let first_failure = written.is_err() && self.retry_at.is_none();
        if written.is_ok() || first_failure {
            let ended = self.ended(written.is_ok());
            self.peers.tell(&ended);
        }
        self.retry_at = written.is_err().then(|| now.saturating_add(AGAIN));
        written.is_ok()
    }

    fn complete(&mut self) {
        self.record.never_started = !self.life.launched();
        self.record.asked = self.asked();
        self.record.ended_at = clock::realtime();
        if let Some(cgroup) = &self.cgroup {
            self.record.usage = cgroup.usage(self.helper_ooms);
        }
    }

    pub(super) fn ended(&self, written: bool) -> ShimNotice {
        ShimNotice::Ended {
            record: Box::new(self.record.clone()),
            written,
        }
    }
}
