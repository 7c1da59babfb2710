//! The notification rules on the bus: how they fare, and a try.

use super::auth::{Details, Verb};
use super::convert::{self, Dict};
use super::core::{Call, Core};
use super::errors::Result;
use super::options;
use super::values::Options;
use crate::domain::notify::Pattern;
use crate::engine::{Fares, Noted, Subscriber};
use serde_json::json;
use std::time::Instant;

impl Core {
    /// "ok", "failing" or "unconfigured".
    pub(super) fn notifications(&self) -> &'static str {
        let engine = self.engine();
        match (
            engine.notifications().is_empty(),
            engine.notifications_failing().is_empty(),
        ) {
            (true, _) => "unconfigured",
            (false, true) => "ok",
            (false, false) => "failing",
        }
    }

    pub(super) async fn list_notifications(&self, call: Call<'_>) -> Result<Vec<Dict>> {
        self.may_notify(&call).await?;
        let rules = self.engine().notifications();
        Ok(rules
            .iter()
            .map(|(rule, fares)| dict(rule, fares))
            .collect())
    }

    pub(super) async fn test_notification(
        &self,
        call: Call<'_>,
        rule: &str,
        options: &Options,
    ) -> Result<Dict> {
        options::none(options)?;
        self.may_notify(&call).await?;
        let begun = Instant::now();
        let tested = self.engine().test_notification(rule).await?;
        let noted = Noted {
            project: String::new(),
            subject: format!("notification/{rule}"),
            result: tested.clone().err().unwrap_or_else(|| "ok".to_owned()),
            data: json!({}),
        };
        let actor = self.actor(&call).await;
        self.engine().note("act.test-notification", noted, actor);
        let mut dict = Dict::new();
        convert::put(&mut dict, "sent", tested.is_ok());
        convert::maybe(&mut dict, "message", tested.err());
        let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        convert::put(&mut dict, "took", took);
        Ok(dict)
    }

    async fn may_notify(&self, call: &Call<'_>) -> Result<()> {
        let details = Details {
            host: self.identity().host_name.clone(),
            ..Details::default()
        };
        self.authorise(call, Verb::ManageHost, details).await
    }
}

fn dict(of: &Subscriber, fares: &Fares) -> Dict {
    let mut dict = Dict::new();
    let rule = &of.rule;
    let patterns =
        |all: &[Pattern]| -> Vec<String> { all.iter().map(|p| p.as_str().to_owned()).collect() };
    convert::put(&mut dict, "name", of.name.clone());
    // Never more than scheme and host.
    convert::maybe(
        &mut dict,
        "to",
        of.to.as_ref().ok().map(ToString::to_string),
    );
    convert::put(&mut dict, "format", of.format.as_str());
    convert::put(&mut dict, "signed", of.secret.is_some());
    convert::put(&mut dict, "types", patterns(&rule.types));
    convert::put(&mut dict, "projects", patterns(&rule.projects));
    let causes: Vec<String> = rule.causes.iter().map(|c| c.as_str().to_owned()).collect();
    convert::put(&mut dict, "causes", causes);
    convert::put(&mut dict, "percent", rule.percent);
    convert::put(&mut dict, "repeat", rule.repeat);
    convert::put(&mut dict, "per_hour", rule.per_hour);
    convert::put(
        &mut dict,
        "state",
        if fares.failing { "failing" } else { "ok" },
    );
    convert::put(&mut dict, "sent", fares.sent);
    convert::put(&mut dict, "failed", fares.failed);
    convert::put(&mut dict, "dropped", fares.dropped);
    convert::put(&mut dict, "waiting", fares.waiting);
    convert::maybe(&mut dict, "last_sent", fares.last_sent.map(|at| at.0));
    if let Some((at, why)) = &fares.last_failure {
        convert::put(&mut dict, "last_failure", at.0);
        convert::put(&mut dict, "last_failure_message", why.clone());
    }
    dict
}
