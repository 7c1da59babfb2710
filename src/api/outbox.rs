//! The outbox on the bus: how the broker is, what waits, and trying again what is parked.

use super::convert::{self, Dict};
use super::core::{Call, Core};
use super::errors::Result;
use super::options;
use super::values::{Options, bare, in_order, scalar, text, unknown, wrong};
use crate::domain::limits::Value;
use crate::domain::{Error, ErrorKind, ProjectName, kinds};
use crate::engine::Noted;
use crate::engine::relay::{BrokerState, Relay};
use crate::ports::Rows;
use serde_json::json;
use zbus::Variant;

/// Rows of a page if nothing is said, and at most.
const PAGE: u64 = 100;
const PAGE_MAX: u64 = 1_000;

impl Core {
    /// As `Broker` has it.
    pub(super) fn broker(&self) -> &'static str {
        match self.engine().relay() {
            None => "unconfigured",
            Some(relay) => match relay.state().borrow().broker {
                BrokerState::Up => "ok",
                BrokerState::Blocked(_) | BrokerState::Down(_) => "down",
            },
        }
    }

    fn relay(&self) -> Result<&Relay> {
        let none = || {
            Error::new(
                ErrorKind::WrongState,
                "No broker is configured on this host: its events are published nowhere. Set events.amqp_urls in stratavored.toml(5).",
            )
        };
        Ok(self.engine().relay().ok_or_else(none)?)
    }

    pub(super) async fn describe_outbox(&self, options: &Options) -> Result<Dict> {
        options::none(options)?;
        let mut dict = Dict::new();
        convert::put(&mut dict, "broker", self.broker());
        let Some(relay) = self.engine().relay() else {
            return Ok(dict);
        };
        let state = relay.state().borrow().clone();
        match &state.broker {
            BrokerState::Up => {}
            BrokerState::Blocked(why) | BrokerState::Down(why) => {
                convert::put(&mut dict, "why", why.clone());
            }
        }
        let blocked = matches!(state.broker, BrokerState::Blocked(_));
        convert::put(&mut dict, "blocked", blocked);
        convert::put(&mut dict, "published", relay.published());
        convert::put(&mut dict, "refused", state.refused);
        if let Some(backlog) = state.backlog {
            convert::put(&mut dict, "pending", backlog.pending);
            convert::put(&mut dict, "parked", backlog.parked);
            convert::maybe(&mut dict, "oldest", backlog.oldest.map(|at| at.0));
        }
        Ok(dict)
    }

    pub(super) async fn list_outbox(&self, filter: &Options) -> Result<Vec<Dict>> {
        let (mut rows, mut after, mut limit) = (Rows::Pending, 0, PAGE);
        let number = |key: &str, value| match scalar(value) {
            Some(Value::Number(n)) => Ok(n),
            _ => Err(wrong(key, value, "a t")),
        };
        for (key, value) in in_order(filter) {
            match key {
                "parked" => match bare(value) {
                    Variant::Bool(true) => rows = Rows::Parked,
                    Variant::Bool(false) => rows = Rows::Pending,
                    _ => return Err(wrong(key, value, "a b").into()),
                },
                "after" => after = number(key, value)?,
                "limit" => limit = number(key, value)?,
                _ => return Err(unknown(key, &["parked", "after", "limit"]).into()),
            }
        }
        let limit = if limit == 0 {
            PAGE
        } else {
            limit.min(PAGE_MAX)
        };
        let found = self.relay()?.rows(rows, after, limit as u32).await;
        let found = found?;
        let dict = |row: &crate::ports::Outgoing| {
            let mut dict = convert::event(&row.event.parsed());
            convert::put(&mut dict, "source", row.source.clone());
            convert::put(&mut dict, "epoch", row.epoch);
            convert::maybe(&mut dict, "parked", row.parked.map(|why| why.as_str()));
            convert::maybe(&mut dict, "behind", row.behind);
            dict
        };
        Ok(found.iter().map(dict).collect())
    }

    pub(super) async fn retry_outbox(&self, call: Call<'_>, options: &Options) -> Result<u64> {
        let mut project = None;
        for (key, value) in in_order(options) {
            match key {
                "project" => project = Some(text(key, value)?.parse::<ProjectName>()?),
                _ => return Err(unknown(key, &["project"]).into()),
            }
        }
        let actor = self.manager_of(&call, &self.identity().host_name).await?;
        let count = self.relay()?.retry(project.clone()).await;
        let count = count?;
        let user = actor.user.clone();
        let noted = Noted {
            project: project.map_or_else(String::new, |project| project.to_string()),
            subject: format!("host/{}", self.identity().host_id),
            result: "ok".to_owned(),
            data: json!({ "events": count }),
        };
        self.engine().note("act.retry-outbox", noted, actor);
        tracing::info!(
            message_id = kinds::HOST_CHANGED.id,
            uid = call.uid,
            user,
            count,
            "Parked events are tried again"
        );
        Ok(count)
    }
}
