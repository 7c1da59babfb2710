//! Orders from the gate and from whoever connects.

use super::super::life::{Input, Times};
use super::super::output::Output;
use super::super::peers::{GATE, Heard};
use super::super::sys;
use super::{AGAIN, Supervisor};
use crate::domain::signal;
use crate::wire::{self, ShimNotice, ShimRequest, ShimState};
use std::os::fd::OwnedFd;

impl Supervisor {
    pub(super) fn accept(&mut self, now: u64) {
        let mut greeting = vec![ShimNotice::State(self.state())];
        if self.retry_at.is_some() {
            greeting.push(self.ended(false));
        }
        if self.peers.accept(&greeting).is_err() {
            self.accept_at = now.saturating_add(AGAIN);
        }
    }

    pub(super) fn hear_peer(&mut self, id: u64) {
        match self.peers.hear(id) {
            Heard::Nothing => {}
            Heard::Gone => {
                if id == GATE && self.life.gated() {
                    self.take(Input::GateClosed);
                }
            }
            Heard::Request(request, fds) => {
                // Descriptors that nobody asked for are closed.
                let file = match request {
                    ShimRequest::Fence => fds.into_iter().next(),
                    _ => {
                        drop(fds);
                        None
                    }
                };
                if !self.obey(id, request, file) {
                    self.peers.drop_peer(id);
                    if id == GATE && self.life.gated() {
                        self.take(Input::GateClosed);
                    }
                }
            }
        }
    }

    /// `false`: this is not for this place or time.
    fn obey(&mut self, id: u64, request: ShimRequest, file: Option<OwnedFd>) -> bool {
        match request {
            ShimRequest::Order => return false,
            ShimRequest::Go => {
                if id != GATE || !self.life.gated() {
                    return false;
                }
                self.take(Input::Go);
            }
            ShimRequest::Stop { asked } => self.take(Input::Stop(asked)),
            ShimRequest::Kill { signal } => match signal::check(signal) {
                Ok(number) => {
                    self.signal_all(&sys::signal_from(number).into_iter().collect::<Vec<_>>());
                }
                Err(_) => return false,
            },
            ShimRequest::Limits {
                runtime_max,
                stop_timeout,
                kill_signal,
                oom_policy,
            } => {
                self.order.oom_policy = oom_policy;
                if signal::check(kill_signal).is_err() {
                    return false;
                }
                self.order.kill_signal = kill_signal;
                self.take(Input::Limits(Times {
                    runtime_max,
                    stop_timeout,
                }));
            }
            ShimRequest::Query => {
                let state = ShimNotice::State(self.state());
                self.peers.send(id, &state);
            }
            ShimRequest::Fence => {
                let Some(file) = file else {
                    return false;
                };
                if self.fence.arm(file).is_err() {
                    return false;
                }
                let state = ShimNotice::State(self.state());
                self.peers.send(id, &state);
            }
        }
        true
    }

    /// Writes some of what the runner says; tells once when the disk does not take it.
    pub(super) fn take_output(&mut self) {
        if let Some(output) = &mut self.output {
            output.take();
            if output.begins_to_lose() {
                let state = ShimNotice::State(self.state());
                self.peers.tell(&state);
            }
        }
    }

    pub(super) fn state(&self) -> ShimState {
        ShimState {
            v: wire::VERSION,
            id: self.order.id.clone(),
            gated: self.life.gated(),
            pid: self.main.map(|pid| pid as u32),
            asked: self.asked(),
            output_lost: self.output.as_ref().map_or(0, Output::lost),
            fence: Some(self.fence.deadline()),
        }
    }
}
