//! `stratavore-shim`: the parent of one runner, first into its scope and last out of it.
//!
//! One thread, no runtime, no allocation to speak of while the runner runs. It knows neither
//! daemon nor store nor D-Bus; it outlives the agent and serves the next one.
//!
//! ```text
//! settle_in ─► take_order ─► Supervisor: poll( signals, gate, listener, peers, pipes, output, memory.events )
//!                                 │ inputs ▲ actions
//!                                 ▼        │
//!                               Life (pure state machine)
//! ```
//!
//! | file | what |
//! |---|---|
//! | `gate` | the process's own surroundings; the order; the record's room on disk |
//! | `life` | every decision: gate, running, stopping, killing, finished. Pure |
//! | `supervisor` | the poll loop that feeds `life` and does what it says |
//! | `child` | from fork to exec: session, output, user, limits, PATH look-up, launch errors |
//! | `inputs` | credentials and environment files |
//! | `cgroup`, `parse`, `oom` | who is in the scope, signals to all of them, what they used |
//! | `fence` | by when the runner stops by itself |
//! | `manager` | was a stop signal the host's shutdown? |
//! | `plain`, `capabilities` | its other use: a program without privileges for the agent |
//! | `peers`, `journal`, `output`, `record` | sockets; the output to the journal or into a log file; the record on disk |
//! | `sys` | the only `unsafe`: fork, execve, signal settings |
//!
//! Rules that hold:
//! - **Nothing runs without `Go`**, and `Go` counts only on the gate (standard input). End of
//!   file, a broken message, a stop or SIGTERM before it: the record says `never_started`.
//!   After `Go`, the gate is one connection among others.
//! - **Whoever got as far as [`State`](crate::wire::ShimNotice::State) on the gate gets a
//!   record.** Its blocks are reserved before that; if even so it can't be written, the shim
//!   stays and tries each second. `Ended { written: true }` is sent when it is on disk.
//!   An order that can't be taken (malformed, no room for the record) is answered with
//!   `LaunchFailed` in place of `State`, and there is no record.
//! - **The main process decides the ending**; what it leaves in the scope is stopped: stop
//!   signal once to everybody (SIGCONT after it), SIGKILL from the stop timeout on until
//!   nobody but the shim is left. Only then is the cgroup read and the record written.
//! - **`asked` is the first reason to stop, and only if the main process was still there.** A
//!   runtime limit is measured on CLOCK_MONOTONIC from the exec, as systemd measures
//!   RuntimeMaxSec=: a suspended host does not use it up, a frozen scope does; but the shim is
//!   frozen with it, so the stop comes with the thaw.
//! - **A fence is measured on CLOCK_BOOTTIME**, which a suspended host uses up. When it is due the
//!   shim reads the file that it shares with all others, and stops its runner unless a later time
//!   stands there; if it can't read it, too. Nobody else has to be alive for that.
//! - **SIGTERM and the runner's stop signal** from root (or, in `--user` mode, from the user)
//!   mean that the scope shall stop; what else arrives (`systemctl kill -s HUP`) is for the
//!   runner. If the manager sent the runner's own stop signal, everybody has got it, and the
//!   shim does not send it a second time.
//! - **No peer can hold it up**: only root and the shim's own user are heard, a peer that does
//!   not read is dropped, a ninth pushes out the oldest.
//! - **It signals nobody outside its scope**: it refuses to launch unless it is in the cgroup
//!   that the order names, and pins each process before it signals it (`cgroup`).
//! - A file without `#!` is an error (`Exec format error`), as with systemd; nothing is
//!   silently given to `/bin/sh`.
//!
//! Its exit status means nothing but: 0 = a record is on disk, 1 = nothing was to be recorded.

mod capabilities;
mod cgroup;
mod child;
mod fence;
mod gate;
mod inputs;
mod journal;
mod life;
mod manager;
mod oom;
mod output;
mod parse;
mod peers;
mod plain;
mod record;
mod signals;
mod supervisor;
mod sys;

pub use plain::exec as exec_without_privileges;

use std::process::ExitCode;

/// The whole program.
pub fn run() -> ExitCode {
    let ready = match gate::settle_in() {
        Ok((gate, signals, oom_score)) => gate::take_order(gate, signals, oom_score),
        Err(_) => None,
    };
    let Some(ready) = ready else {
        return ExitCode::FAILURE;
    };
    match supervisor::Supervisor::new(ready) {
        Ok(supervisor) => {
            supervisor.run();
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}
