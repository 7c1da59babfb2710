//! Launches that are asked for on another host and come through the store.

use super::budget::check_tokens;
use super::error::Error;
use super::event::Actor;
use super::limits::{KEYS, Limits, Value};
use super::spec::{self, RunnerSpec, Setenv};
use super::{name, signal};
use serde::{Deserialize, Serialize};

/// The most bytes of a placed launch, its environment included: it is a row of the store.
pub const BYTES_MAX: usize = 256 << 10;

/// The longest name of a user, or id of a host.
pub const WORD_MAX: usize = 256;

/// Where a launch was asked for, if that was another host. It stays with the runner, so that nobody
/// ever takes it for a launch of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The id of the host where it was asked for.
    pub host: String,
    /// That host's name when it was asked for.
    pub name: String,
    /// Who asked there, by the number there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// And by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl Placed {
    /// Whether `actor` is who asked for it, and for nobody but themself: a runner as `user`.
    pub fn is_own(&self, actor: &Actor, user: &str) -> bool {
        actor.uid.is_some()
            && actor.uid == self.uid
            && actor.host.as_deref() == Some(&self.host)
            && self.user.as_deref() == Some(user)
            && actor.user == self.user
    }
}

/// What another host is asked to launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placing {
    /// What to run. Its uid means nothing: the user is known by name there.
    pub spec: RunnerSpec,
    /// Where it is refused and waiting can help, it waits there.
    #[serde(default)]
    pub queue: bool,
    /// The request id of whoever asks, and the digest of what was asked for, as on their own host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<(String, String)>,
}

impl Placing {
    /// Checks what came through the store as if a user had given it.
    pub fn check(&self, setenv: &[Setenv]) -> Result<(), Error> {
        let spec = &self.spec;
        self.check_size(setenv)?;
        if spec.user.is_empty() || spec.user.len() > WORD_MAX {
            return Err(Error::invalid("That is no name of a user."));
        }
        spec::check_command(&spec.command)?;
        spec::check_labels(&spec.labels)?;
        spec::check_priority(spec.priority)?;
        check_limits(&spec.limits)?;
        let entries: Vec<String> = setenv
            .iter()
            .map(|e| format!("{}={}", e.name, e.value))
            .collect();
        spec::parse_setenv(&entries)?;
        if let Some(text) = &spec.name {
            name::check_runner_name(text)?;
        }
        if let Some(path) = &spec.working_directory {
            spec::check_path("The working directory", path)?;
        }
        if let Some(bytes) = spec.log_file_max {
            spec::check_log_file_max(bytes)?;
        }
        if let Some(tokens) = spec.tokens {
            check_tokens(tokens)?;
        }
        if let Some(text) = &spec.session {
            name::check_session_name(text)?;
        }
        match &self.request {
            Some((id, digest)) => {
                spec::check_request_id(id)?;
                spec::check_request_id(digest)
            }
            None => Ok(()),
        }
    }

    /// Checks that it is small enough for the store.
    pub fn check_size(&self, setenv: &[Setenv]) -> Result<(), Error> {
        let environment: usize = setenv
            .iter()
            .map(|e| e.name.len() + e.value.len() + 2)
            .sum();
        let bytes = serde_json::to_vec(self).map_or(usize::MAX, |json| json.len());
        let bytes = bytes.saturating_add(environment);
        match bytes <= BYTES_MAX {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "The command with its labels and environment has {bytes} bytes; through the store at most {BYTES_MAX} go. Hand long input over in a file, or launch by ssh (stratavorectl run --on HOST)."
            ))),
        }
    }
}

/// Every value is bounded again.
fn check_limits(limits: &Limits) -> Result<(), Error> {
    let mut checked = Limits::default();
    for (key, _) in KEYS {
        if let Some(value) = limits.number(key) {
            checked.set(key, Value::Number(value))?;
        }
    }
    limits
        .kill_signal
        .map_or(Ok(()), |number| signal::check(number).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn placing() -> Placing {
        Placing {
            spec: RunnerSpec {
                project: "p".parse().unwrap(),
                command: vec!["true".to_owned()],
                name: None,
                uid: u32::MAX,
                user: "alice".to_owned(),
                working_directory: None,
                labels: Default::default(),
                limits: Limits::default(),
                log_file_max: None,
                priority: 0,
                tokens: None,
                session: None,
                placed: None,
            },
            queue: false,
            request: None,
        }
    }

    fn var(name: &str, value: &str) -> Setenv {
        Setenv {
            name: name.to_owned(),
            value: value.to_owned(),
        }
    }

    #[test]
    fn what_no_caller_could_give_is_refused() {
        assert_eq!(placing().check(&[var("A", "b")]), Ok(()));
        let refused = |change: &dyn Fn(&mut Placing)| {
            let mut placing = placing();
            change(&mut placing);
            placing.check(&[]).is_err()
        };
        assert!(refused(&|p| p.spec.command.clear()));
        assert!(refused(&|p| p.spec.user.clear()));
        assert!(refused(&|p| p.spec.user = "u".repeat(300)));
        assert!(refused(
            &|p| p.spec.working_directory = Some("tmp".to_owned())
        ));
        assert!(refused(&|p| p.spec.priority = 1_000));
        assert!(refused(&|p| p.spec.name = Some("a\nb".to_owned())));
        assert!(refused(&|p| p.spec.limits.cpu_weight = Some(1 << 40)));
        assert!(refused(&|p| p.spec.log_file_max = Some(1)));
        assert!(refused(
            &|p| p.request = Some(("a b".to_owned(), String::new()))
        ));
        assert!(refused(
            &|p| p.request = Some(("a".to_owned(), "d".repeat(1_000)))
        ));
        assert!(placing().check(&[var("A=B", "c\0")]).is_err());
    }

    #[test]
    fn a_placed_launch_is_small() {
        let large = [var("A", &"x".repeat(BYTES_MAX))];
        let refused = placing().check(&large).unwrap_err();
        assert!(refused.message.contains("262144") && !refused.message.contains("xxx"));
    }

    proptest! {
        #[test]
        fn only_the_asker_owns_what_was_placed(
            uid in 0u32..3, user in "[ab]", host in "[hi]", asker in 0u32..3, name in "[ab]", from in "[hi]", runs_as in "[ab]"
        ) {
            let placed = Placed { host: host.clone(), name: host.clone(), uid: Some(uid), user: Some(user.clone()) };
            let actor = Actor { uid: Some(asker), user: Some(name.clone()), host: Some(from.clone()), unit: None };
            let same = uid == asker && user == name && host == from && runs_as == user;
            prop_assert_eq!(placed.is_own(&actor, &runs_as), same);
            let nobody = Actor { uid: None, ..actor };
            let unknown = Placed { uid: None, ..placed };
            prop_assert!(!unknown.is_own(&nobody, &runs_as));
        }
    }
}
