//! From the first stop signal to the record on disk.

use super::super::cgroup::{self, stop_signals};
use super::super::fence::Due;
use super::super::life::{Input, Why};
use super::super::output::Output;
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
            // Earlier releases know no more of it than that it did not end by itself.
            Why::Fence => Asked::Stop,
            Why::Signal if self.going_down => Asked::Shutdown,
            Why::Signal => Asked::Manager,
        })
    }

    /// Its host has been away from the store for too long.
    pub(super) fn take_fence(&mut self, due: Due) {
        match due {
            Due::Stop { away } => {
                self.away = away;
                self.take(Input::Fence);
            }
            Due::Gone => self.take(Input::Gone),
        }
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
        {
            signal_children(&[main], signals);
        }
    }

    /// Is anybody left, in the scope or a child of ours outside? If so and the time is up,
    /// SIGKILL.
    pub(super) fn look(&mut self, now: u64) {
        let helper = self.helper();
        let cgroup = self.cgroup.as_ref();
        let inside = cgroup.map_or(Ok(Vec::new()), |c| c.members(helper));
        let known = inside.is_ok();
        let inside: BTreeSet<i32> = inside.unwrap_or_default().into_iter().collect();
        // Whoever was moved out of the scope is our child as soon as its parent is gone.
        let mut strays = cgroup::children();
        strays.retain(|pid| Some(*pid) != helper && !inside.contains(pid));
        if known && inside.is_empty() && strays.is_empty() && !self.main_alive {
            self.take(Input::Empty);
        } else if self.life.killing() {
            self.signal_all(&[Signal::KILL]);
            signal_children(&strays, &[Signal::KILL]);
        } else if known {
            strays.retain(|pid| self.told.insert(*pid));
            signal_children(&strays, &stop_signals(self.order.kill_signal));
        }
        self.look_at = Some(now.saturating_add(self.look_gap));
        self.look_gap = (self.look_gap * 2).min(LOOK_MOST);
    }

    /// Writes the record; `false`: not yet.
    pub(super) fn end(&mut self, now: u64) -> bool {
        // It was never launched: whoever reads its output shall see the end of it.
        self.plan = None;
        // Whatever comes of the record, its secrets go now.
        self.vault = None;
        let written = match self.retry_at {
            None => {
                if let Some(output) = &mut self.output {
                    output.take_rest();
                }
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
        let fenced = self.life.why() == Some(Why::Fence);
        self.record.fenced = fenced.then_some(self.away);
        self.record.ended_at = clock::realtime();
        self.record.output_lost = self.output.as_ref().map_or(0, Output::lost);
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

/// A child's number is its own until we reap it.
fn signal_children(children: &[i32], signals: &[Signal]) {
    for pid in children.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        for signal in signals {
            let _ = kill_process(pid, *signal);
        }
    }
}
