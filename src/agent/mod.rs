//! `stratavore-agent`: the host's one hand on systemd. It knows a few verbs and nothing of
//! stores, quotas or networks; whatever it has to remember is in scopes, shims and records, so
//! that it may be killed at any moment and the next one goes on.
//!
//! | file | what |
//! |---|---|
//! | `config` `policy` `user` | root's bounds, who may run, as whom, in which environment |
//! | `properties` `readback` | limits as systemd's properties; whether the kernel holds them |
//! | `systemd` `cgroup` `exits` `credentials` `shim` | the edges: bus, cgroup tree, records, shims |
//! | `hub` | what is known: runners and connections |
//! | `launch` `undo` `control` `slices` `inventory` `adopt` | the orders |
//! | `fence` | by when runners stop by themselves |
//! | `foreign` | descriptors of callers, closed elsewhere |
//! | `logs` `logfiles` | the output of runners, by journalctl or from their log files |
//! | `socket` `serve` | the socket |

mod adopt;
mod cgroup;
mod config;
mod control;
mod credentials;
mod exits;
mod fence;
mod foreign;
mod gate;
mod hub;
mod inventory;
mod launch;
mod log;
mod logfiles;
mod logs;
mod placed;
mod policy;
mod properties;
mod readback;
mod runner;
mod serve;
mod shim;
mod slices;
mod socket;
mod start;
mod systemd;
mod undo;
mod user;

pub use start::{Args, main};
