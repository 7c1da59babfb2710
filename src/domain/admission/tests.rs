//! Admission held against made-up worlds, and each gate by its name.

use super::*;
use crate::domain::ErrorKind;
use crate::domain::budget::{Budget, Counts, OnExhausted, Scope};
use crate::domain::event::Actor;
use crate::domain::hold::HoldScope;
use crate::domain::period::Period;
use proptest::prelude::*;
use std::collections::BTreeSet;

const HOSTS: [&str; 3] = ["h0", "h1", "h2"];

fn project(n: u8) -> ProjectName {
    match format!("p{n}").parse() {
        Ok(name) => name,
        Err(error) => panic!("{error}"),
    }
}

fn id(n: u64) -> RunnerId {
    RunnerId::from_uuid(uuid::Uuid::from_u128(n.into()))
}

fn ask(n: u64, of: u8) -> Ask {
    Ask {
        id: id(n),
        project: project(of),
        host: "h0".to_owned(),
        labels: BTreeMap::new(),
        session: None,
        priority: 0,
        tokens: Some(10),
        since: Timestamp(n),
    }
}

fn budget(scope: Scope, limit: u64) -> BudgetState {
    BudgetState {
        budget: Budget {
            scope,
            period: Period::None,
            limit,
            timezone: "UTC".to_owned(),
            on_exhausted: OnExhausted::Deny,
            counts: Counts::default(),
            created_at: Timestamp(1),
        },
        period_start: Timestamp(0),
        used: 0,
        reserved: 0,
        overrun: 0,
        told: 0,
    }
}

fn ledger(max: Option<u32>) -> Ledger {
    let account = Account {
        max,
        ..Account::default()
    };
    Ledger {
        projects: (0..3).map(|n| (project(n), account.clone())).collect(),
        hosts: HOSTS
            .map(|h| (h.to_owned(), Seat::default()))
            .into_iter()
            .collect(),
        ..Ledger::default()
    }
}

fn refused(ledger: &mut Ledger, ask: &Ask) -> (&'static str, ErrorKind, bool) {
    match ledger.admit(ask) {
        Ok(_) => panic!("admitted"),
        Err(refusal) => (refusal.gate.name, refusal.error.kind, refusal.waits),
    }
}

#[test]
fn each_gate_refuses_by_its_name() {
    let hold = |scope| Hold {
        scope,
        until: Some(Timestamp(1_000)),
        freeze: false,
        reason: "rate limit".to_owned(),
        actor: Actor::host(),
        set_at: Timestamp(1),
    };
    let held = Ledger {
        now: Timestamp(999),
        holds: vec![hold(HoldScope::Label("key".to_owned(), "a".to_owned()))],
        ..ledger(None)
    };
    let labelled = Ask {
        labels: [("key".to_owned(), "a".to_owned())].into(),
        ..ask(1, 0)
    };
    assert_eq!(
        refused(&mut held.clone(), &labelled),
        ("hold", ErrorKind::Held, true)
    );
    assert!(held.clone().admit(&ask(1, 0)).is_ok(), "another label");
    let over = Ledger {
        now: Timestamp(1_000),
        ..held
    };
    assert!(over.clone().admit(&labelled).is_ok(), "it has ended");

    let mut cordoned = ledger(None);
    cordoned.hosts.entry("h0".to_owned()).or_default().cordon = Some("disk".to_owned());
    assert_eq!(
        refused(&mut cordoned, &ask(1, 0)),
        ("cordon", ErrorKind::Cordoned, true)
    );

    let mut seated = ledger(None);
    let of_session = |n, of| Ask {
        session: Some("s".to_owned()),
        ..ask(n, of)
    };
    assert!(seated.admit(&of_session(1, 0)).is_ok());
    assert_eq!(
        refused(&mut seated, &of_session(2, 0)),
        ("session", ErrorKind::Conflict, true)
    );
    assert_eq!(
        refused(&mut seated, &of_session(2, 1)),
        ("session", ErrorKind::Conflict, false)
    );

    let quota = ("project-runners", ErrorKind::QuotaExceeded, true);
    assert_eq!(refused(&mut ledger(Some(0)), &ask(1, 0)), quota);
    let mut fleet = Ledger {
        fleet_max: Some(1),
        ..ledger(None)
    };
    assert!(fleet.admit(&ask(1, 0)).is_ok());
    let quota = ("fleet-runners", ErrorKind::QuotaExceeded, true);
    assert_eq!(refused(&mut fleet, &ask(2, 1)), quota);
    let mut host = ledger(None);
    host.hosts.entry("h0".to_owned()).or_default().max = Some(0);
    let quota = ("host-runners", ErrorKind::QuotaExceeded, true);
    assert_eq!(refused(&mut host, &ask(1, 0)), quota);
}

#[test]
fn budgets_are_reserved_together_and_asked_for_by_number() {
    let mut ledger = Ledger {
        budgets: vec![
            budget(Scope::Fleet, 100),
            budget(Scope::Project(project(0)), 15),
        ],
        ..ledger(None)
    };
    assert_eq!(ledger.admit(&ask(1, 0)), Ok(10));
    let exceeded = ("budget", ErrorKind::BudgetExceeded, true);
    assert_eq!(refused(&mut ledger, &ask(2, 0)), exceeded);
    // A refusal charges nothing, not even where there was room.
    assert_eq!(
        (ledger.budgets[0].reserved, ledger.budgets[1].reserved),
        (10, 10)
    );
    let huge = Ask {
        tokens: Some(101),
        ..ask(3, 1)
    };
    let never = ("budget", ErrorKind::BudgetExceeded, false);
    assert_eq!(refused(&mut ledger, &huge), never, "more than the limit");
    let silent = Ask {
        tokens: None,
        ..ask(4, 1)
    };
    assert_eq!(refused(&mut ledger, &silent), never);
    let account = ledger.projects.entry(project(1)).or_default();
    account.default_tokens = Some(90);
    assert_eq!(ledger.admit(&silent), Ok(90));
    let mut unbudgeted = super::tests::ledger(None);
    assert_eq!(unbudgeted.admit(&silent), Ok(0));
}

#[test]
fn who_waits_comes_first() {
    let mut full = Ledger {
        waiting: vec![ask(1, 0)],
        ..ledger(Some(1))
    };
    assert_eq!(
        refused(&mut full, &ask(2, 0)),
        ("queue", ErrorKind::QuotaExceeded, true)
    );
    let urgent = Ask {
        priority: 1,
        ..ask(3, 0)
    };
    assert!(full.clone().admit(&urgent).is_ok(), "by its priority");
    assert!(full.clone().admit(&ask(4, 1)).is_ok(), "another project");
    let elsewhere = Ledger {
        waiting: vec![Ask {
            host: "h1".to_owned(),
            ..ask(1, 0)
        }],
        hosts: [
            ("h0".to_owned(), Seat::default()),
            (
                "h1".to_owned(),
                Seat {
                    max: Some(0),
                    ..Seat::default()
                },
            ),
        ]
        .into(),
        ..ledger(Some(1))
    };
    assert!(
        elsewhere.clone().admit(&ask(2, 0)).is_ok(),
        "who can't go now holds nobody up"
    );
}

#[test]
fn small_ones_do_not_starve_a_large_one() {
    let large = Ask {
        tokens: Some(80),
        ..ask(1, 0)
    };
    let mut ledger = Ledger {
        budgets: vec![budget(Scope::Project(project(0)), 100)],
        waiting: vec![large, ask(2, 0), ask(3, 1)],
        ..ledger(None)
    };
    ledger.budgets[0].reserved = 50;
    let turns = ledger.turns();
    let ok: BTreeSet<_> = turns
        .iter()
        .filter(|(_, t)| t.is_ok())
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(ok, [id(3)].into());
    assert_eq!(turns.len(), 3);
}

#[test]
fn projects_take_turns() {
    let waiting = (0..6)
        .map(|n| ask(n, 0))
        .chain([ask(10, 1), ask(11, 1)])
        .collect();
    let mut ledger = Ledger {
        fleet_max: Some(4),
        waiting,
        ..ledger(None)
    };
    let turns = ledger.turns();
    let ok: BTreeSet<_> = turns
        .iter()
        .filter(|(_, t)| t.is_ok())
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(ok, [id(0), id(1), id(10), id(11)].into());
}

fn any_ask() -> impl Strategy<Value = Ask> {
    (
        0u64..1_000,
        0u8..3,
        0usize..3,
        -2i32..3,
        prop_oneof![3 => (1u64..40).prop_map(Some), 1 => Just(None)],
        proptest::option::of("[ab]"),
    )
        .prop_map(|(n, of, host, priority, tokens, session)| Ask {
            host: HOSTS[host].to_owned(),
            priority,
            tokens,
            session,
            ..ask(n, of)
        })
}

proptest! {
    #[test]
    fn nothing_is_ever_admitted_past_anything(
        caps in (proptest::option::of(0u32..6), proptest::option::of(0u32..6), proptest::option::of(0u32..10)),
        limits in (0u64..200, 0u64..200, 0u64..60),
        waiting in proptest::collection::vec(any_ask(), 0..20),
        asks in proptest::collection::vec(any_ask(), 0..40),
    ) {
        let mut ledger = ledger(caps.0);
        for seat in ledger.hosts.values_mut() { seat.max = caps.1; }
        ledger.fleet_max = caps.2;
        ledger.budgets = vec![budget(Scope::Fleet, limits.0), budget(Scope::Project(project(0)), limits.1), budget(Scope::Session("a".to_owned()), limits.2)];
        ledger.waiting = waiting.into_iter().map(|a| (a.id, a)).collect::<BTreeMap<_, _>>().into_values().collect();
        let mut admitted: Vec<Ask> = Vec::new();
        for ask in asks {
            if ledger.admit(&ask).is_ok() { admitted.push(ask); }
        }
        let waited = ledger.waiting.clone();
        let turns = ledger.turns();
        prop_assert_eq!(turns.len(), waited.len(), "everybody is decided about once");
        admitted.extend(waited.into_iter().filter(|a| turns.iter().any(|(id, t)| *id == a.id && t.is_ok())));
        let count = |f: &dyn Fn(&&Ask) -> bool| admitted.iter().filter(f).count();
        for n in 0..3 {
            prop_assert!(caps.0.is_none_or(|m| count(&|a| a.project == project(n)) <= m as usize));
            prop_assert!(caps.1.is_none_or(|m| count(&|a| a.host == HOSTS[usize::from(n)]) <= m as usize));
        }
        prop_assert!(caps.2.is_none_or(|m| admitted.len() <= m as usize));
        for session in ["a", "b"] {
            prop_assert!(count(&|a| a.session.as_deref() == Some(session)) <= 1);
        }
        for state in &ledger.budgets {
            let promised: u64 = admitted.iter().filter(|a| a.is_paid_by(state)).filter_map(|a| a.tokens).sum();
            prop_assert_eq!(state.reserved, promised);
            prop_assert!(promised <= state.budget.limit);
        }
    }

    #[test]
    fn explaining_and_deciding_are_the_same(
        cap in proptest::option::of(0u32..3), limit in 0u64..100,
        waiting in proptest::collection::vec(any_ask(), 0..6), before in proptest::collection::vec(any_ask(), 0..4), one in any_ask(),
    ) {
        let mut ledger = ledger(cap);
        ledger.budgets = vec![budget(Scope::Fleet, limit)];
        for ask in before { let _ = ledger.admit(&ask); }
        ledger.waiting = waiting.into_iter().filter(|a| a.id != one.id).map(|a| (a.id, a)).collect::<BTreeMap<_, _>>().into_values().collect();
        let shut = ledger.gates(&one).into_iter().find(|g| !g.open());
        let before = ledger.clone();
        match (ledger.admit(&one), shut) {
            (Ok(_), None) => {}
            (Err(refusal), Some(gate)) => {
                prop_assert_eq!(*refusal.gate, gate);
                prop_assert_eq!(before, ledger, "a refusal charges nothing");
                prop_assert!(refusal.error.message.len() > 20);
            }
            (verdict, gate) => prop_assert!(false, "{verdict:?} {gate:?}"),
        }
    }
}
