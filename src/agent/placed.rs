//! Launches that come through the store from another host: only what root's `agent.toml` allows,
//! whatever the daemon makes of them.

use super::config::{Config, PATH, UserRef};
use super::hub::Agent;
use super::policy::{self, refusal};
use super::user::{self, Account};
use crate::domain::name::shown;
use crate::domain::placed::Placed;
use crate::wire::{Answer, Launch, Payload, Refusal, RefusalCode};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long the name service may take.
const LOOK_UP: Duration = Duration::from_secs(10);
/// The longest name or id that is looked at.
const WORD_MAX: usize = 256;

/// Whether launches that were asked for there are accepted at all.
pub(super) fn check_host(config: &Config, placed: &Placed) -> Result<(), Refusal> {
    let from = || format!("{} ({})", shown(&placed.name), shown(&placed.host));
    let no = |why: &str, what: &str| {
        let why = format!(
            "This host takes no launch {why}; root there can allow it with {what} in {PATH}."
        );
        Err(refusal(RefusalCode::NotPermitted, why))
    };
    if !config.accept_placed_launches {
        return no(
            "through the store",
            "accept_placed_launches = true, and from_hosts and as_users that name who may,",
        );
    }
    if config.from_hosts.is_empty() {
        return no(
            "through the store, because from_hosts is empty",
            &format!("{} in from_hosts", from()),
        );
    }
    match config
        .from_hosts
        .iter()
        .any(|host| *host == placed.host || *host == placed.name)
    {
        true => Ok(()),
        false => no(&format!("from {}", from()), "from_hosts"),
    }
}

/// Whether one may run as this account: an addition to [`policy::check_user`], never instead of it.
pub(super) fn check_user(
    config: &Config,
    placed: &Placed,
    account: &Account,
) -> Result<(), Refusal> {
    check_host(config, placed)?;
    let named = |user: &UserRef| match user {
        UserRef::Uid(uid) => *uid == account.uid,
        UserRef::Name(name) => *name == account.name,
    };
    if config.as_users.iter().any(named) {
        return policy::check_user(config, account);
    }
    Err(not_as(config, &account.name))
}

/// In the same words whether there is such a user or not: who asks from elsewhere need not know.
fn not_as(config: &Config, user: &str) -> Refusal {
    let why = match config.as_users.is_empty() {
        true => " (as_users is empty)",
        false => "",
    };
    refusal(
        RefusalCode::NotPermitted,
        format!(
            "No launch from another host runs as {} on this one{why}; root there can allow it with as_users in {PATH}.",
            shown(user)
        ),
    )
}

/// Such a launch has nothing of its caller's own: neither descriptors nor files to be read.
pub(super) fn check_payload(launch: &Launch, payload: &Payload) -> Result<(), Refusal> {
    match launch.placed.is_none() || (launch.passed.is_empty() && payload.inputs.is_empty()) {
        true => Ok(()),
        false => Err(refusal(
            RefusalCode::NotPermitted,
            "A launch from another host comes without streams, credentials and env-files.",
        )),
    }
}

impl Agent {
    /// The account that a launch from another host would run as, if root allows it.
    pub(super) async fn place(
        self: &Arc<Self>,
        placed: Placed,
        user: String,
    ) -> Result<Answer, Refusal> {
        let config = self.config();
        check_host(&config, &placed)?;
        if user.is_empty() || user.len() > WORD_MAX || user.contains('\0') {
            return Err(refusal(RefusalCode::Failed, "That is no name of a user."));
        }
        let named = config.as_users.contains(&UserRef::Name(user.clone()));
        let numbers = config.as_users.iter().any(|u| matches!(u, UserRef::Uid(_)));
        if !named && !numbers {
            // Names that nobody allowed are not looked up: local launches wait for the same name service.
            return Err(not_as(&config, &user));
        }
        let slow = || {
            let secs = LOOK_UP.as_secs();
            let why = format!(
                "The name service did not answer for {} within {secs} s.",
                shown(&user)
            );
            refusal(RefusalCode::LaunchFailed, why)
        };
        let deadline = tokio::time::Instant::now() + LOOK_UP;
        let permit = tokio::time::timeout_at(deadline, self.look_ups.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| slow())?.map_err(super::launch::failed)?;
        let (accounts, name) = (self.accounts.clone(), user.clone());
        let work = tokio::task::spawn_blocking(move || {
            // Held by a look-up that hangs, too.
            let _permit = permit;
            let (uid, _) = user::by_name(&name).ok_or_else(|| match named {
                true => {
                    let why = format!("There is no user {} on this host.", shown(&name));
                    refusal(RefusalCode::LaunchFailed, why)
                }
                false => not_as(&config, &name),
            })?;
            let account = accounts.find(uid)?;
            check_user(&config, &placed, &account)?;
            Ok(Answer::Account {
                uid,
                name: account.name,
            })
        });
        match tokio::time::timeout_at(deadline, work).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => Err(super::launch::failed(error)),
            Err(_) => Err(slow()),
        }
    }
}

/// What root's bounds come to for launches of other hosts: lines as of [`policy::told`].
pub(super) fn told(config: &Config, file: &Path, known: impl Fn(&str) -> bool) -> Vec<String> {
    let file = file.display();
    if !config.accept_placed_launches {
        return Vec::new();
    }
    let mut out = Vec::new();
    let users = policy::listed(&config.as_users);
    match (config.from_hosts.is_empty(), config.as_users.is_empty()) {
        (false, false) => out.push(format!(
            "Launches that come through the store from {} may run as {users}.",
            config.from_hosts.join(", ")
        )),
        (from, _) => out.push(format!(
            "warning: {file} has accept_placed_launches = true, but {} is empty: no launch of another host is accepted.",
            if from { "from_hosts" } else { "as_users" }
        )),
    }
    for user in &config.as_users {
        match user {
            UserRef::Name(name) if name == "root" && !config.allow_root => out.push(format!(
                "warning: as_users of {file} names root, which only allow_root = true lets run."
            )),
            UserRef::Name(name) if !known(name) => {
                out.push(format!(
                    "warning: as_users of {file} names {name}, whom this host does not know."
                ));
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::config::parse;
    use super::*;
    use proptest::prelude::*;

    fn account(uid: u32, name: &str) -> Account {
        Account {
            uid,
            gid: uid,
            name: name.to_owned(),
            home: "/".to_owned(),
            shell: String::new(),
            groups: Vec::new(),
        }
    }

    fn from(host: &str, name: &str) -> Placed {
        Placed {
            host: host.to_owned(),
            name: name.to_owned(),
            uid: Some(1000),
            user: Some("alice".to_owned()),
        }
    }

    fn refused(text: &str, placed: &Placed, account: &Account) -> Option<String> {
        let config = parse(text).unwrap();
        check_user(&config, placed, account)
            .err()
            .map(|r| r.message)
    }

    #[test]
    fn the_default_takes_none_and_says_what_to_write() {
        let said =
            |text: &str| refused(text, &from("id1", "web1"), &account(1000, "alice")).unwrap();
        assert!(said("").contains("accept_placed_launches = true"));
        assert!(
            said("from_hosts = [\"web1\"]\nas_users = [\"alice\"]")
                .contains("accept_placed_launches = true")
        );
        assert!(
            said("accept_placed_launches = true\nas_users = [\"alice\"]")
                .contains("from_hosts is empty")
        );
        assert!(
            said("accept_placed_launches = true\nfrom_hosts = [\"web1\"]")
                .contains("as_users is empty")
        );
        assert!(
            said("accept_placed_launches = true\nfrom_hosts = [\"web2\"]\nas_users = [\"alice\"]")
                .contains("from web1 (id1)")
        );
    }

    #[test]
    fn users_are_bounded_as_ever() {
        let text = "accept_placed_launches = true\nfrom_hosts = [\"id1\"]\nas_users = [\"alice\", \"root\", 7]\n";
        let placed = from("id1", "web1");
        assert_eq!(refused(text, &placed, &account(1000, "alice")), None);
        assert!(
            refused(text, &placed, &account(1001, "bob"))
                .unwrap()
                .contains("as_users")
        );
        assert!(
            refused(text, &placed, &account(0, "root"))
                .unwrap()
                .contains("allow_root")
        );
        assert!(
            refused(text, &placed, &account(7, "lp"))
                .unwrap()
                .contains("allowed_users")
        );
        let root = format!("{text}allow_root = true\n");
        assert_eq!(refused(&root, &placed, &account(0, "root")), None);
    }

    #[test]
    fn it_brings_nothing_of_its_callers_own() {
        let launch = |placed: bool, passed: &str| {
            let from = r#""placed": {"host": "id1", "name": "web1"},"#;
            let json = format!(
                r#"{{"id": "00000000-0000-0000-0000-000000000000", "project": "p", "project_limits": {{}}, "uid": 1000,
                "name": null, "limits": {{}}, "unenforced": "refuse", {} "passed": [{passed}]}}"#,
                if placed { from } else { "" }
            );
            serde_json::from_str::<Launch>(&json).unwrap()
        };
        let payload = |inputs: &str| {
            let json = format!(r#"{{"command": ["true"], "inputs": {inputs}}}"#);
            serde_json::from_str::<Payload>(&json).unwrap()
        };
        let file = r#"{"environment_files": [{"path": "/env"}]}"#;
        assert!(check_payload(&launch(true, ""), &payload("{}")).is_ok());
        assert!(check_payload(&launch(true, "\"stdin\""), &payload("{}")).is_err());
        assert!(check_payload(&launch(true, ""), &payload(file)).is_err());
        assert!(check_payload(&launch(false, "\"stdin\""), &payload(file)).is_ok());
    }

    #[test]
    fn what_is_accepted_is_told() {
        let lines = |text: &str| {
            told(&parse(text).unwrap(), Path::new("b.toml"), |name| {
                name == "alice"
            })
        };
        assert!(lines("from_hosts = [\"a\"]").is_empty());
        assert!(
            lines("accept_placed_launches = true\nfrom_hosts = [\"a\"]")[0]
                .starts_with("warning: b.toml")
        );
        let all = "accept_placed_launches = true\nfrom_hosts = [\"a\"]\nas_users = [\"alice\", \"root\", \"bob\"]";
        let lines = lines(all);
        assert_eq!(
            lines[0],
            "Launches that come through the store from a may run as alice, root, bob."
        );
        assert!(lines[1].contains("root") && lines[2].contains("bob") && lines.len() == 3);
    }

    proptest! {
        /// Nothing placed gets further than what is placed by a named host as a named user, and no further than a
        /// launch of this host.
        #[test]
        fn named_hosts_times_named_users(
            accept: bool, root: bool,
            hosts in proptest::collection::vec("[ab]", 0..3), users in proptest::collection::vec(0u32..3, 0..3),
            host in "[ab]", name in "[abc]", uid in 0u32..3
        ) {
            let config = Config {
                accept_placed_launches: accept,
                allow_root: root,
                from_hosts: hosts.clone(),
                as_users: users.iter().map(|uid| UserRef::Uid(*uid)).collect(),
                allowed_users: vec![UserRef::Uid(1)],
                ..Config::default()
            };
            let account = account(uid, "x");
            let allowed = check_user(&config, &from(&host, &name), &account).is_ok();
            let local = policy::check_user(&config, &account).is_ok();
            let named = accept && (hosts.contains(&host) || hosts.contains(&name)) && users.contains(&uid);
            prop_assert_eq!(allowed, named && local);
        }
    }
}
