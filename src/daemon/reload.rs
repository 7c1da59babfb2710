//! Reading the configuration again while running: `systemctl reload`, SIGHUP.

use crate::adapters::agent_client::AgentClient;
use crate::config::{Config, compare};
use crate::domain::event::Actor;
use crate::domain::kinds;
use crate::engine::{Engine, Noted, Terms};
use crate::places::Places;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// What is in force, and where what is to be is written.
#[derive(Debug)]
pub(super) struct Reloader {
    pub(super) places: Places,
    /// `--config`.
    pub(super) file: Option<PathBuf>,
    /// What the daemon was started with.
    pub(super) started: Config,
    /// What was read last.
    pub(super) current: Config,
    pub(super) engine: Engine,
    pub(super) host: Arc<AgentClient>,
    /// The id of this host.
    pub(super) host_id: String,
}

impl Reloader {
    /// Reads all files again. A mistake in one of them leaves everything as it is. Returns what
    /// is to be seen in the status from now on, if anything.
    pub(super) fn reload(&mut self) -> Option<String> {
        let new = match Config::load(&self.places, self.file.as_deref()) {
            Ok(new) => new,
            Err(error) => {
                tracing::error!(
                    message_id = kinds::CONFIGURATION_ERROR.id,
                    "The configuration is wrong and was not taken over: {error}"
                );
                self.note("failed", json!({}));
                return Some(format!("the configuration was not taken over: {error}"));
            }
        };
        let change = compare(&self.started, &self.current, &new);
        self.engine.set_terms(Terms {
            host_max: new.host_max_runners,
            limits: new.limits.clone(),
            retention: new.retention,
        });
        self.host.set_unenforced(new.unenforced);
        self.current = new;
        self.note(
            "ok",
            json!({ "taken": change.taken, "restart": change.restart }),
        );
        tracing::info!(
            message_id = kinds::CONFIGURATION_READ.id,
            "Configuration read again; {}",
            change.sentence()
        );
        change.restart_note()
    }

    /// A signal does not tell who has asked systemd for it. Names of keys alone: a mistake is told by the journal.
    fn note(&self, result: &str, data: Value) {
        let noted = Noted {
            project: String::new(),
            subject: format!("host/{}", self.host_id),
            result: result.to_owned(),
            data,
        };
        self.engine.note("act.reload", noted, Actor::host());
    }
}
