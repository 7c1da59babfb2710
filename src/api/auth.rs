//! Who may do what: one pure decision, and polkit where it says "ask".

use super::Bus;
use crate::domain::{Error, ErrorKind};

/// What a caller wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// See command, labels and working directory of a runner of this user.
    View {
        /// The runner's user.
        owner: u32,
    },
    /// Launch a runner as this user.
    Launch {
        /// The user it shall run as.
        owner: u32,
    },
    /// Stop, signal, freeze, thaw or limit a runner of this user.
    Control {
        /// The runner's user.
        owner: u32,
    },
    /// Create, change or remove projects.
    ManageProjects,
    /// Set and remove holds and budgets.
    ManageBudgets,
    /// Say what a runner of this user has used, from outside of it.
    Report {
        /// The runner's user.
        owner: u32,
    },
    /// Reconcile this host; cordon, drain and forget hosts; set the fleet's cap.
    ManageHost,
    /// Read the audit and look whether it is whole.
    ReadAudit,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead.
    Allow,
    /// polkit decides about this action.
    Ask(&'static str),
    /// Not here, whoever asks.
    Refuse,
}

/// The actions of the shipped polkit policy, `org.stratavore1.<verb>`.
pub const ACTIONS: [&str; 10] = [
    "org.stratavore1.view",
    "org.stratavore1.launch",
    "org.stratavore1.launch-as-other",
    "org.stratavore1.control-own",
    "org.stratavore1.control-any",
    "org.stratavore1.manage-projects",
    "org.stratavore1.manage-budgets",
    "org.stratavore1.manage-host",
    "org.stratavore1.read-audit",
    "org.stratavore1.report-usage",
];

/// Root and owners are decided here; about everybody else polkit is asked. On a session bus
/// there is no polkit: its one user may do everything as itself and nothing as another.
pub fn decide(bus: Bus, caller: u32, verb: Verb) -> Decision {
    if let Bus::Session { uid } = bus {
        let as_itself = !matches!(verb, Verb::Launch { owner } if owner != uid);
        return match caller == uid && as_itself {
            true => Decision::Allow,
            false => Decision::Refuse,
        };
    }
    match verb {
        _ if caller == 0 => Decision::Allow,
        Verb::View { owner } | Verb::Control { owner } if owner == caller => Decision::Allow,
        Verb::View { .. } => Decision::Ask("org.stratavore1.view"),
        Verb::Control { .. } => Decision::Ask("org.stratavore1.control-any"),
        Verb::Launch { owner } if owner == caller => Decision::Ask("org.stratavore1.launch"),
        Verb::Launch { .. } => Decision::Ask("org.stratavore1.launch-as-other"),
        Verb::ManageProjects => Decision::Ask("org.stratavore1.manage-projects"),
        Verb::ManageBudgets => Decision::Ask("org.stratavore1.manage-budgets"),
        // Owners are asked about, too: what they report is what their budgets are charged.
        Verb::Report { .. } => Decision::Ask("org.stratavore1.report-usage"),
        Verb::ManageHost => Decision::Ask("org.stratavore1.manage-host"),
        Verb::ReadAudit => Decision::Ask("org.stratavore1.read-audit"),
    }
}

/// The answer to somebody who is no user of this session.
pub(super) fn refused(verb: Verb) -> Error {
    let message = match verb {
        Verb::Launch { .. } => {
            "On a session bus runners are always of its own user; for another one use the system's stratavored."
        }
        _ => "Only the user of this session may do this.",
    };
    Error::new(ErrorKind::NotPermitted, message)
}

/// What an administrator's polkit rules get to see of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Details {
    /// The project concerned.
    pub project: String,
    /// The user of the runner, by name.
    pub owner: String,
    /// The runner; empty for reading, which is decided per project and owner.
    pub runner: String,
    /// The host.
    pub host: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SYSTEM: Bus = Bus::System;

    #[test]
    fn owners_and_root_need_no_polkit() {
        for verb in [
            Verb::View { owner: 1000 },
            Verb::Control { owner: 1000 },
            Verb::Launch { owner: 1000 },
            Verb::ManageProjects,
            Verb::ManageBudgets,
            Verb::ManageHost,
            Verb::ReadAudit,
        ] {
            assert_eq!(decide(SYSTEM, 0, verb), Decision::Allow);
        }
        assert_eq!(
            decide(SYSTEM, 1000, Verb::View { owner: 1000 }),
            Decision::Allow
        );
        assert_eq!(
            decide(SYSTEM, 1000, Verb::Control { owner: 1000 }),
            Decision::Allow
        );
    }

    #[test]
    fn everybody_else_is_asked_about() {
        let ask = |verb| match decide(SYSTEM, 1001, verb) {
            Decision::Ask(action) => action,
            other => panic!("{other:?}"),
        };
        assert_eq!(ask(Verb::View { owner: 1000 }), "org.stratavore1.view");
        assert_eq!(
            ask(Verb::Control { owner: 1000 }),
            "org.stratavore1.control-any"
        );
        assert_eq!(ask(Verb::Launch { owner: 1001 }), "org.stratavore1.launch");
        assert_eq!(
            ask(Verb::Launch { owner: 1000 }),
            "org.stratavore1.launch-as-other"
        );
        assert_eq!(
            ask(Verb::Launch { owner: 0 }),
            "org.stratavore1.launch-as-other"
        );
        assert_eq!(ask(Verb::ManageProjects), "org.stratavore1.manage-projects");
        assert_eq!(ask(Verb::ManageBudgets), "org.stratavore1.manage-budgets");
        for owner in [1000, 1001] {
            let action = "org.stratavore1.report-usage";
            assert_eq!(ask(Verb::Report { owner }), action);
        }
        assert_eq!(ask(Verb::ManageHost), "org.stratavore1.manage-host");
        assert_eq!(ask(Verb::ReadAudit), "org.stratavore1.read-audit");
    }

    fn any_verb() -> impl Strategy<Value = Verb> {
        let uid = 0u32..4;
        prop_oneof![
            uid.clone().prop_map(|owner| Verb::View { owner }),
            uid.clone().prop_map(|owner| Verb::Launch { owner }),
            uid.clone().prop_map(|owner| Verb::Control { owner }),
            uid.prop_map(|owner| Verb::Report { owner }),
            Just(Verb::ManageProjects),
            Just(Verb::ManageBudgets),
            Just(Verb::ManageHost),
            Just(Verb::ReadAudit),
        ]
    }

    proptest! {
        #[test]
        fn nobody_is_allowed_without_being_root_or_owner(caller in 1u32..4, verb in any_verb()) {
            match decide(SYSTEM, caller, verb) {
                Decision::Allow => {
                    let own = matches!(
                        verb,
                        Verb::View { owner } | Verb::Control { owner } if owner == caller
                    );
                    prop_assert!(own, "{verb:?}");
                }
                Decision::Ask(action) => prop_assert!(ACTIONS.contains(&action)),
                Decision::Refuse => prop_assert!(false, "polkit has the last word on the system bus"),
            }
        }

        #[test]
        fn a_session_is_for_its_own_user(uid in 0u32..4, caller in 0u32..4, verb in any_verb()) {
            let allowed = decide(Bus::Session { uid }, caller, verb) == Decision::Allow;
            let other = matches!(verb, Verb::Launch { owner } if owner != uid);
            prop_assert_eq!(allowed, caller == uid && !other);
        }
    }
}
