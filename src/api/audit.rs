//! The audit on the bus, and what is written down of callers that are refused.

use super::auth::{Decision, Details, Verb, decide};
use super::convert::{self, Dict};
use super::core::{Call, Core};
use super::errors::Result;
use super::options;
use super::values::{Options, in_order, texts, unknown};
use crate::domain::audit::Anchor;
use crate::domain::audit::verify::{Report, Verdict};
use crate::domain::name::shown;
use crate::domain::{Error, ErrorKind};
use crate::engine::Noted;
use serde_json::json;
use std::result::Result as Parsed;
use tokio::time::Instant;
use zbus::OwnedFd;

/// Anchors in one call.
const ANCHORS_MAX: usize = 10_000;

impl Core {
    /// "ok" or "unconfigured".
    pub(super) fn audit(&self) -> &'static str {
        match self.engine().keeps_audit() {
            true => "ok",
            false => "unconfigured",
        }
    }

    /// Goes on if the caller may do this; if not, that is written down.
    pub(super) async fn authorise(
        &self,
        call: &Call<'_>,
        verb: Verb,
        details: Details,
    ) -> Result<()> {
        let permitted = self.permitted(call, verb, &details).await;
        if let Err(error) = &permitted {
            self.note_refused(call, verb, &details, &error.0).await;
        }
        permitted
    }

    /// Somebody was not permitted to do something. Nobody waits for its being written down.
    pub(super) async fn note_refused(
        &self,
        call: &Call<'_>,
        verb: Verb,
        details: &Details,
        error: &Error,
    ) {
        let is_no = matches!(
            error.kind,
            ErrorKind::NotPermitted | ErrorKind::InteractiveAuthorizationRequired
        );
        if !is_no || !self.engine().keeps_audit() {
            return;
        }
        let right = match decide(self.bus(), call.uid, verb) {
            Decision::Ask(action) => action,
            _ => "session",
        };
        let Some(count) = self.refusals().count((call.uid, right), Instant::now()) else {
            return;
        };
        let subject = match (details.runner.as_str(), details.project.as_str()) {
            ("", "") => format!("host/{}", self.identity().host_id),
            ("", project) => format!("project/{project}"),
            (runner, _) => format!("runner/{runner}"),
        };
        let member = call.header.member().map(ToString::to_string);
        let noted = Noted {
            project: details.project.clone(),
            subject,
            result: "refused".to_owned(),
            data: json!({
                "action": right,
                "method": member,
                "owner": shown(&details.owner),
                "host": shown(&details.host),
                "count": count,
            }),
        };
        let actor = self.actor(call).await;
        self.engine().note("act.refused", noted, actor);
    }

    pub(super) async fn verify_audit(
        &self,
        call: Call<'_>,
        host: &str,
        options: &Options,
    ) -> Result<Dict> {
        let mut given = Vec::new();
        for (key, value) in in_order(options) {
            match key {
                "anchors" => given = texts(key, value)?,
                _ => return Err(unknown(key, &["anchors"]).into()),
            }
        }
        let host = self.audited(&call, host).await?;
        let anchors = anchors(&host, &given)?;
        let report = self.engine().verify_audit(&host, anchors).await?;
        Ok(report_dict(&report))
    }

    pub(super) async fn export_audit(
        &self,
        call: Call<'_>,
        host: &str,
        options: &Options,
    ) -> Result<OwnedFd> {
        options::none(options)?;
        let host = self.audited(&call, host).await?;
        let audit = self.engine().export_audit(&host).await?;
        let noted = Noted {
            project: String::new(),
            subject: format!("audit/{host}"),
            result: "ok".to_owned(),
            data: json!({}),
        };
        let actor = self.actor(&call).await;
        self.engine().note("act.export-audit", noted, actor);
        Ok(audit.into())
    }

    /// The id of the host meant, once the caller may read audits.
    async fn audited(&self, call: &Call<'_>, host: &str) -> Result<String> {
        let details = Details {
            host: match host {
                "" => self.identity().host_name.clone(),
                host => host.to_owned(),
            },
            ..Details::default()
        };
        self.authorise(call, Verb::ReadAudit, details).await?;
        match host {
            "" => Ok(self.identity().host_id.clone()),
            host => Ok(self.engine().host_called(host).await?.0),
        }
    }
}

fn anchors(host: &str, given: &[String]) -> Parsed<Vec<Anchor>, Error> {
    if given.len() > ANCHORS_MAX {
        let message = format!(
            "{} anchors are given, and {ANCHORS_MAX} is the most.",
            given.len()
        );
        return Err(Error::new(ErrorKind::LimitsExceeded, message));
    }
    let parsed = given.iter().map(|text| {
        let (n, mac) = text.split_once(':')?;
        Some(Anchor {
            host: host.to_owned(),
            n: n.parse().ok()?,
            mac: mac.parse().ok()?,
        })
    });
    let parsed: Option<Vec<_>> = parsed.collect();
    parsed.ok_or_else(|| Error::invalid("anchors: give each as “N:MAC”."))
}

fn report_dict(report: &Report) -> Dict {
    let mut dict = Dict::new();
    convert::put(&mut dict, "verdict", report.verdict.word());
    convert::put(&mut dict, "message", report.verdict.to_string());
    convert::put(&mut dict, "host", report.host.clone());
    convert::put(&mut dict, "entries", report.entries);
    convert::put(&mut dict, "first", report.first);
    convert::put(&mut dict, "last", report.last);
    convert::put(&mut dict, "mac", report.mac.to_string());
    convert::put(&mut dict, "anchors", report.anchors);
    convert::put(&mut dict, "unsigned_keys", report.unsigned_keys.clone());
    let about = match &report.verdict {
        Verdict::Whole | Verdict::Empty => None,
        Verdict::Changed { n }
        | Verdict::CheckpointChanged { n }
        | Verdict::Rewritten { n }
        | Verdict::WrongKey { n, .. } => Some(*n),
        Verdict::Removed { from, .. } => Some(*from),
        Verdict::Cut { last, .. } | Verdict::Short { last, .. } | Verdict::Torn { last } => {
            Some(last + 1)
        }
        Verdict::HeadDiffers { head, .. } => Some(*head),
    };
    convert::maybe(&mut dict, "n", about);
    dict
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_numbers_with_macs() {
        let mac = "0f".repeat(32);
        let one = anchors("h", &[format!("7:{mac}")]).unwrap();
        assert_eq!((one[0].n, one[0].mac.to_string()), (7, mac.clone()));
        for wrong in [
            String::new(),
            mac.clone(),
            format!("-1:{mac}"),
            "7:0f".to_owned(),
        ] {
            assert!(anchors("h", &[wrong]).is_err());
        }
        assert!(anchors("h", &vec![format!("7:{mac}"); ANCHORS_MAX + 1]).is_err());
    }
}
