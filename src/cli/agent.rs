//! The host's agent, where it is away: what is said of that.

use super::client::{Client, number, text};
use super::{bus, json, render};
use crate::api::proxy::Dict;
use serde_json::{Value, json};

/// What can't be done without it.
const UNABLE: &str = "nothing can be launched, frozen, thawed, signalled or given limits";

/// It is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Away {
    /// In microseconds since 1970; `None` = it was not there since the daemon began.
    since: Option<u64>,
}

impl Away {
    /// As the daemon tells it: `None` = the agent is there, or an earlier daemon does not tell.
    pub(super) async fn of(client: &Client) -> Option<Self> {
        Self::told(&client.manager().agent().await.unwrap_or_default())
    }

    /// The same of what was told.
    pub(super) fn told(agent: &Dict) -> Option<Self> {
        let since = number(agent, "since");
        (text(agent, "state") == "away").then_some(Self { since })
    }

    /// `stratavore-agent is away since Mon 2026-…`
    pub(super) fn said(self) -> String {
        match self.since {
            Some(since) => format!("stratavore-agent is away since {}", render::time(since)),
            None => {
                "stratavore-agent is away, and was not there since stratavored began".to_owned()
            }
        }
    }

    /// A value of `status`.
    pub(super) fn status(self) -> String {
        let since = self.said().replacen("stratavore-agent is ", "", 1);
        format!(
            "{since}: {UNABLE}; a stop is carried out when it is back. See: {}",
            see()
        )
    }

    /// Of a runner that shall stop.
    pub(super) fn stopping(self) -> String {
        format!(
            "{}; whether its processes have heard of it is not known, and they are told anew when the agent is back. See: {}",
            self.said(),
            see()
        )
    }

    /// Of runners that somebody has just asked to stop, and whether that is waited for.
    pub(super) fn stop(self, waits: bool) -> String {
        format!(
            "The stop is recorded, and carried out when the agent is back: {}. {}See: {}",
            self.said(),
            match waits {
                true => "Waiting for that; Ctrl-C ends the waiting alone. ",
                false => "",
            },
            see()
        )
    }
}

fn see() -> String {
    format!("{} status stratavore-agent", bus::systemctl())
}

/// In JSON; `null` if the daemon does not tell.
pub(super) fn as_json(agent: &Dict) -> Value {
    match text(agent, "state") {
        "" => Value::Null,
        state => json!({ "state": state, "since": json::time(number(agent, "since")) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_away_and_since_when() {
        let told = |state: &'static str, since: Option<u64>| {
            let mut agent = Dict::new();
            let state = zbus::Variant::from(state).try_into_owned();
            agent.extend(state.ok().map(|state| ("state".to_owned(), state)));
            agent.extend(since.map(|since| ("since".to_owned(), since.into())));
            agent
        };
        assert_eq!(Away::told(&Dict::new()), None);
        assert_eq!(Away::told(&told("ok", None)), None);
        let away = Away::told(&told("away", Some(1_700_000_000_000_000)));
        let said = away.map(Away::status).unwrap_or_default();
        assert!(
            said.starts_with("away since ") && said.contains("2023-11-1"),
            "{said}"
        );
        let never = Away::told(&told("away", None));
        let said = never.map(Away::status).unwrap_or_default();
        assert!(said.starts_with("away, and was not there"), "{said}");
        let json = as_json(&told("away", Some(1_700_000_000_000_000)));
        assert_eq!(json["since"], "2023-11-14T22:13:20.000000Z");
        assert_eq!(as_json(&Dict::new()), Value::Null);
    }
}
