//! polkit: asked about everybody but root and owners. Decisions about reading are remembered
//! for a while; every other question is put anew.

use super::auth::Details;
use super::callers::sender;
use crate::domain::{Error, ErrorKind};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use zbus::message::{Flags, Header};
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

/// An answer that needs nobody's password comes in milliseconds; on a busy host polkit was once seen silent for more
/// than ten seconds. As long as D-Bus waits for any reply by default.
const QUICK_MAX: Duration = Duration::from_secs(25);
/// Somebody may have to find the password first.
const INTERACTIVE_MAX: Duration = Duration::from_secs(600);
/// How long a decision about reading holds at most: group memberships change without a signal.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How many of them are remembered.
const CACHE_MAX: usize = 4_096;
/// Questions without an answer yet. dbus-daemon allows a connection 128 (`max_replies_per_connection`), password
/// prompts and [the look-ups](super::callers) included; more wait for their turn: polkit is one thread anyway.
const QUICK_AT_ONCE: usize = 16;
/// Passwords asked for at a time. They may take minutes, so more are refused.
const INTERACTIVE_AT_ONCE: usize = 24;

/// In polkit's answer, where somebody closed the prompt.
const DISMISSED: &str = "polkit.dismissed";

/// (sender, action, details).
type Question = (String, &'static str, Details);

/// The authority and what it said about reading.
#[derive(Debug)]
pub(super) struct Polkit {
    authority: AuthorityProxy<'static>,
    decided: Mutex<HashMap<Question, (bool, Instant)>>,
    quick: Semaphore,
    interactive: Semaphore,
}

impl Polkit {
    pub(super) async fn new(lookups: &zbus::Connection) -> zbus::Result<Self> {
        let authority = AuthorityProxy::builder(lookups)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        Ok(Self {
            authority,
            decided: Mutex::default(),
            quick: Semaphore::new(QUICK_AT_ONCE),
            interactive: Semaphore::new(INTERACTIVE_AT_ONCE),
        })
    }

    /// Whether the caller may read this. Nobody is asked for a password for that.
    pub(super) async fn may_read(
        &self,
        header: &Header<'_>,
        action: &'static str,
        details: Details,
    ) -> Result<bool, Error> {
        let question = (sender(header)?.to_owned(), action, details);
        if let Some((yes, at)) = self.lock().get(&question)
            && at.elapsed() < REMEMBERED
        {
            return Ok(*yes);
        }
        let yes = match self.ask(header, action, &question.2, false).await {
            Ok(()) => true,
            Err(error) if error.kind == ErrorKind::HostUnavailable => return Err(error),
            Err(_) => false,
        };
        let mut decided = self.lock();
        if decided.len() >= CACHE_MAX {
            decided.clear();
        }
        decided.insert(question, (yes, Instant::now()));
        Ok(yes)
    }

    /// Whether the caller may do this; the person there is asked if the caller lets us.
    pub(super) async fn check(
        &self,
        header: &Header<'_>,
        action: &'static str,
        details: &Details,
    ) -> Result<(), Error> {
        let flags = header.primary().flags();
        let interactive = flags.contains(Flags::ALLOW_INTERACTIVE_AUTH);
        self.ask(header, action, details, interactive)
            .await
            .map_err(|error| match error.kind {
                ErrorKind::HostUnavailable => Error::new(ErrorKind::NotPermitted, error.message),
                _ => error,
            })
    }

    async fn ask(
        &self,
        header: &Header<'_>,
        action: &'static str,
        details: &Details,
        interactive: bool,
    ) -> Result<(), Error> {
        let refuse = |message: String| Err(Error::new(ErrorKind::NotPermitted, message));
        let Ok(subject) = Subject::new_for_message_header(header) else {
            return refuse("The message names no sender.".to_owned());
        };
        let deed = deed(
            action,
            header.member().map(|member| member.as_str()),
            details,
        );
        let all = [
            ("project", details.project.as_str()),
            ("owner", details.owner.as_str()),
            ("runner", details.runner.as_str()),
            ("host", details.host.as_str()),
        ];
        let details: HashMap<&str, &str> = all
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .collect();
        let (flags, within) = match interactive {
            true => (
                CheckAuthorizationFlags::ALLOW_USER_INTERACTION,
                INTERACTIVE_MAX,
            ),
            false => (CheckAuthorizationFlags::empty(), QUICK_MAX),
        };
        let _turn = match interactive {
            false => self.quick.acquire().await,
            true => match self.interactive.try_acquire() {
                Ok(turn) => Ok(turn),
                Err(_) => {
                    return refuse(format!(
                        "{INTERACTIVE_AT_ONCE} passwords are being asked for on this host, which is the most; answer one or try again later."
                    ));
                }
            },
        };
        let asked = self
            .authority
            .check_authorization(&subject, action, &details, flags, "");
        match tokio::time::timeout(within, asked).await {
            Ok(Ok(answer)) if answer.is_authorized => Ok(()),
            Ok(Ok(answer)) if answer.is_challenge && !interactive => Err(Error::new(
                ErrorKind::InteractiveAuthorizationRequired,
                format!(
                    "Interactive authentication is required to {deed} (polkit action {action})."
                ),
            )),
            Ok(Ok(answer)) if answer.details.contains_key(DISMISSED) => refuse(format!(
                "No password was given, so you are not permitted to {deed} (polkit action {action})."
            )),
            Ok(Ok(_)) => refuse(format!(
                "You are not permitted to {deed} (polkit action {action})."
            )),
            Ok(Err(error)) => Err(unavailable(action, &error)),
            Err(_) => Err(unavailable(action, &"it does not answer")),
        }
    }

    /// Rules or actions have changed: nothing that was decided still holds.
    pub(super) fn changed(&self) {
        self.lock().clear();
    }

    /// A connection is gone. Its name is never given out again.
    pub(super) fn gone(&self, unique_name: &str) {
        self.lock().retain(|(sender, ..), _| sender != unique_name);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Question, (bool, Instant)>> {
        self.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(action: &str, why: &dyn std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::HostUnavailable,
        format!(
            "polkit can't be asked about {action} ({why}); without it only root, and owners for their own runners, are permitted."
        ),
    )
}

/// What is asked about, with the words of a sentence: `stop runner 0193… of alice`.
fn deed(action: &str, member: Option<&str>, details: &Details) -> String {
    let Details {
        project,
        owner,
        runner,
        host,
    } = details;
    let or = |text: &str, else_: &str| match text {
        "" => else_.to_owned(),
        text => text.to_owned(),
    };
    let of = |what: &str, text: &str| match text {
        "" => String::new(),
        text => format!(" {what} {text}"),
    };
    let member = member.unwrap_or_default();
    let whom = match runner.as_str() {
        "" => "runners".to_owned(),
        id => format!("runner {id}"),
    };
    match action.rsplit('.').next().unwrap_or_default() {
        "view" => format!(
            "see what runners{} run{}",
            of("of", owner),
            of("in project", project)
        ),
        "launch" => format!("launch runners{}", of("in project", project)),
        "launch-as-other" => format!(
            "launch runners as {}{}",
            or(owner, "another user"),
            of("in project", project)
        ),
        "control-own" | "control-any" => {
            let verb = match member {
                "Stop" => "stop",
                "Kill" => "send signals to",
                "Freeze" => "freeze",
                "Thaw" => "thaw",
                "SetLimits" => "change limits of",
                _ => "control",
            };
            format!("{verb} {whom}{}", of("of", owner))
        }
        "manage-projects" => {
            let verb = match member {
                "CreateProject" => "create",
                "RemoveProject" => "remove",
                _ => "change",
            };
            format!(
                "{verb} {}",
                or(&of("project", project), " projects").trim_start()
            )
        }
        "manage-budgets" => format!("change holds and budgets{}", of("of project", project)),
        "manage-host" => format!("manage {}", or(&of("host", host), " hosts").trim_start()),
        "read-audit" => format!("read the audit{}", of("of host", host)),
        "report-usage" => format!("report what {whom}{} used", of("of", owner)),
        _ => "do this".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::auth::ACTIONS;

    #[test]
    fn the_deed_and_whom_it_is_about() {
        let details = Details {
            project: "web".to_owned(),
            owner: "alice".to_owned(),
            runner: "0193".to_owned(),
            host: "h1".to_owned(),
        };
        let said = |action: &str, member| {
            let action = format!("org.stratavore1.{action}");
            deed(&action, Some(member), &details)
        };
        for (action, member, words) in [
            ("control-any", "Stop", "stop runner 0193 of alice"),
            (
                "control-any",
                "Kill",
                "send signals to runner 0193 of alice",
            ),
            (
                "control-any",
                "SetLimits",
                "change limits of runner 0193 of alice",
            ),
            (
                "view",
                "Describe",
                "see what runners of alice run in project web",
            ),
            ("launch", "Launch", "launch runners in project web"),
            (
                "launch-as-other",
                "Launch",
                "launch runners as alice in project web",
            ),
            ("manage-projects", "RemoveProject", "remove project web"),
            ("manage-host", "CordonHost", "manage host h1"),
            ("read-audit", "VerifyAudit", "read the audit of host h1"),
            (
                "report-usage",
                "ReportUsage",
                "report what runner 0193 of alice used",
            ),
        ] {
            assert_eq!(said(action, member), words);
        }
        // Each has words, whatever is known.
        for action in ACTIONS {
            let said = deed(action, None, &Details::default());
            assert!(
                said != "do this" && !said.contains("  "),
                "{action}: {said}"
            );
        }
    }
}
