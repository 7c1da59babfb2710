//! Who waits, and whose turn it is; what everything that decides holds, whoever asks.

use super::*;
use crate::domain::State;
use crate::domain::admission::Refusal;
use crate::domain::event::EventType;
use crate::domain::hold::Hold;
use std::sync::Arc;

/// A launch that waits where it is refused.
pub(super) fn patient(n: u64, project: &str) -> NewRunner {
    NewRunner {
        queue: true,
        ..launch(n, project)
    }
}

fn ranked(n: u64, project: &str, priority: i32) -> NewRunner {
    let mut new = patient(n, project);
    new.spec.priority = priority;
    new
}

fn seated(mut new: NewRunner, session: &str) -> NewRunner {
    new.spec.session = Some(session.to_owned());
    new
}

pub(super) async fn wait(store: &impl Store, new: NewRunner) -> String {
    match store.admit(new).await.unwrap() {
        Admitted::Queued {
            runner,
            gate,
            event,
        } => {
            assert_eq!(runner.state(), State::Queued);
            assert_eq!(
                (event.draft.kind, event.draft.seq),
                (EventType::RunnerQueued, 1)
            );
            assert_eq!(event.draft.data["gate"], gate.name);
            gate.name.to_owned()
        }
        other => panic!("it does not wait: {other:?}"),
    }
}

pub(super) async fn turns(store: &impl Store) -> Vec<RunnerId> {
    let started = store.turns("h1", None).await.unwrap();
    let ids = started.into_iter().map(|admitted| match admitted {
        Admitted::New { runner, event, .. } => {
            assert_eq!(runner.state(), State::Starting);
            assert_eq!(event.draft.kind, EventType::RunnerStarting);
            runner.id
        }
        other => panic!("{other:?}"),
    });
    ids.collect()
}

pub(super) async fn denied(store: &impl Store, new: NewRunner) -> (&'static str, ErrorKind) {
    match store.admit(new).await.unwrap() {
        Admitted::Denied { gate, error, event } => {
            assert_eq!(event.draft.kind, EventType::AdmissionDenied);
            assert_eq!(event.draft.data["gate"], gate.name);
            (gate.name, error.kind)
        }
        other => panic!("not denied: {other:?}"),
    }
}

pub(crate) async fn who_waits_is_neither_live_nor_lost(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(1)).await;
    admit(&*store, launch(1, "p")).await;
    assert_eq!(
        wait(&*store, requested(patient(2, "p"), 1000, "r", "d")).await,
        "project-runners"
    );
    // The same request again finds the one that waits.
    match store
        .admit(requested(patient(3, "p"), 1000, "r", "d"))
        .await
        .unwrap()
    {
        Admitted::Repeated(runner) => {
            assert_eq!((runner.id, runner.state()), (id(2), State::Queued))
        }
        other => panic!("{other:?}"),
    }
    let row = store.project(&name("p")).await.unwrap().unwrap();
    assert_eq!((row.live, row.queued), (1, 1));
    assert_eq!(store.live("h1").await.unwrap().len(), 1);
    let by = async |states: Vec<State>| {
        let filter = RunnerFilter {
            states,
            ..RunnerFilter::default()
        };
        let found = store.runners(filter).await.unwrap();
        found.iter().map(|r| r.id).collect::<Vec<_>>()
    };
    assert_eq!(by(vec![]).await, [id(1)]);
    assert_eq!(by(vec![State::Queued]).await, [id(2)]);
    assert_eq!(by(State::ALL.to_vec()).await, [id(2), id(1)]);
    assert_eq!(store.queued("h1").await.unwrap().len(), 1);
    assert_eq!(store.queued("h2").await.unwrap().len(), 0);
    let said = refused(
        store.remove_project(name("p"), alice(), at(9)).await,
        ErrorKind::Conflict,
    );
    assert!(said.contains("1 live and 1 waiting runners"), "{said}");
    assert_eq!(turns(&*store).await, [], "nothing is free");
    apply(&*store, step(1, end(), 9_000)).await;
    assert_eq!(turns(&*store).await, [id(2)]);
    assert_eq!(turns(&*store).await, []);
    let row = store.project(&name("p")).await.unwrap().unwrap();
    assert_eq!((row.live, row.queued), (1, 0));
    assert_contiguous(&events(&*store).await);
}

pub(crate) async fn priority_then_age_fair_between_projects(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(1)).await;
    project(&*store, "q", capped(2)).await;
    admit(&*store, launch(1, "p")).await;
    admit(&*store, launch(2, "q")).await;
    admit(&*store, launch(3, "q")).await;
    for new in [
        ranked(11, "p", 0),
        ranked(12, "p", 5),
        ranked(13, "p", 0),
        ranked(14, "p", 5),
    ] {
        wait(&*store, new).await;
    }
    wait(&*store, patient(21, "q")).await;
    let listed: Vec<_> = store
        .queued("h1")
        .await
        .unwrap()
        .iter()
        .map(|r| r.id)
        .collect();
    assert_eq!(listed, [id(12), id(14), id(11), id(13), id(21)]);
    let mut order = Vec::new();
    apply(&*store, step(1, end(), 9_000)).await;
    for n in 0..4 {
        let next = turns(&*store).await;
        assert_eq!(next.len(), 1);
        let change = Change {
            id: next[0],
            step: end(),
            actor: alice(),
            at: at(10_000 + n),
        };
        store.apply(change).await.unwrap();
        order.extend(next);
    }
    assert_eq!(order, [id(12), id(14), id(11), id(13)]);
    apply(&*store, step(2, end(), 9_000)).await;
    // Who comes later does not go before those that wait, even where there is room.
    assert_eq!(
        denied(&*store, launch(30, "q")).await,
        ("queue", ErrorKind::QuotaExceeded)
    );
    assert_eq!(wait(&*store, patient(31, "q")).await, "queue");
    assert_eq!(turns(&*store).await, [id(21)]);

    // Projects take turns at what they share.
    store
        .set_project(name("p"), lifted(), alice(), at(1))
        .await
        .unwrap();
    store
        .set_project(name("q"), lifted(), alice(), at(1))
        .await
        .unwrap();
    assert_eq!(turns(&*store).await, [id(31)]);
    let full = |new: NewRunner| NewRunner {
        host_max: Some(3),
        ..new
    };
    for (n, project) in [(41, "q"), (42, "q"), (43, "p"), (44, "p")] {
        wait(&*store, full(patient(n, project))).await;
    }
    let started = store.turns("h1", Some(6)).await.unwrap();
    let started: Vec<_> = started
        .iter()
        .map(|a| match a {
            Admitted::New { runner, .. } => runner.id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(started, [id(43), id(44), id(41)]);
}

fn lifted() -> crate::domain::project::ProjectChange {
    crate::domain::project::ProjectChange {
        max_runners: Some(None),
        ..Default::default()
    }
}

pub(crate) async fn there_is_only_so_much_room(store: Arc<impl Store + 'static>) {
    let settings = ProjectSettings {
        max_queued: Some(2),
        ..capped(0)
    };
    project(&*store, "p", settings.clone()).await;
    assert_eq!(
        store.project(&name("p")).await.unwrap().unwrap().settings,
        settings
    );
    let asked = (0..20).map(|n| store.admit(patient(n, "p")));
    let answers = futures_util::future::join_all(asked).await;
    let waiting = answers
        .iter()
        .filter(|a| matches!(a, Ok(Admitted::Queued { .. })))
        .count();
    assert_eq!(waiting, 2);
    assert_eq!(
        denied(&*store, patient(30, "p")).await,
        ("queue-length", ErrorKind::QueueFull)
    );
    // One that is cancelled makes room, and what it never held is not given back.
    let first = store.queued("h1").await.unwrap().remove(0).id;
    store
        .apply(Change {
            id: first,
            step: end(),
            actor: alice(),
            at: at(5),
        })
        .await
        .unwrap();
    wait(&*store, patient(31, "p")).await;
    let row = store.project(&name("p")).await.unwrap().unwrap();
    assert_eq!((row.live, row.queued), (0, 2));
    let again = Change {
        id: first,
        step: Step::Run(placement()),
        actor: alice(),
        at: at(6),
    };
    refused(store.apply(again).await, ErrorKind::WrongState);
    assert_contiguous(&events(&*store).await);
}

pub(crate) async fn a_session_has_one_live_runner(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    project(&*store, "q", ProjectSettings::default()).await;
    let asked = (0..10).map(|n| store.admit(seated(launch(n, "p"), "s")));
    let answers = futures_util::future::join_all(asked).await;
    let new: Vec<_> = answers
        .iter()
        .filter_map(|a| match a {
            Ok(Admitted::New { runner, .. }) => Some(runner.id),
            _ => None,
        })
        .collect();
    assert_eq!(new.len(), 1);
    assert_eq!(
        denied(&*store, seated(launch(20, "p"), "s")).await,
        ("session", ErrorKind::Conflict)
    );
    // Another project's can't even wait for it.
    assert_eq!(
        denied(&*store, seated(patient(21, "q"), "s")).await,
        ("session", ErrorKind::Conflict)
    );
    admit(&*store, seated(launch(22, "q"), "t")).await;
    wait(&*store, seated(patient(23, "p"), "s")).await;
    // It holds up nobody else.
    admit(&*store, launch(24, "p")).await;
    assert_eq!(turns(&*store).await, []);
    store
        .apply(Change {
            id: new[0],
            step: end(),
            actor: alice(),
            at: at(5),
        })
        .await
        .unwrap();
    assert_eq!(turns(&*store).await, [id(23)]);
    // An ending that is told twice does not free it again.
    let _ = store
        .apply(Change {
            id: new[0],
            step: end(),
            actor: alice(),
            at: at(5),
        })
        .await;
    assert_eq!(
        denied(&*store, seated(launch(25, "p"), "s")).await.0,
        "session"
    );
    // When its last runner is forgotten, so is whose it was.
    apply(&*store, step(23, end(), 60_000)).await;
    assert_eq!(
        denied(&*store, seated(launch(26, "q"), "s")).await.1,
        ErrorKind::Conflict
    );
    while store.prune(at(u64::MAX / 4), 100).await.unwrap() != crate::ports::Pruned::default() {}
    admit(&*store, seated(launch(27, "q"), "s")).await;
    assert_eq!(
        denied(&*store, seated(launch(28, "q"), "t")).await.0,
        "session"
    );
}

pub(crate) async fn every_gate_with_its_numbers(store: Arc<impl Store + 'static>) {
    let settings = ProjectSettings {
        default_tokens: Some(70),
        ..capped(3)
    };
    project(&*store, "p", settings).await;
    admit(&*store, seated(launch(1, "p"), "s")).await;
    let spec = seated(launch(2, "p"), "s").spec;
    let gates = store.explain(&spec, "h1", Some(9), None).await.unwrap();
    let numbers: Vec<_> = gates
        .iter()
        .map(|g| (g.name, g.limit, g.used, g.reserved, g.requested))
        .collect();
    assert_eq!(
        numbers,
        [
            ("session", Some(1), 1, 0, 1),
            ("project-runners", Some(3), 1, 0, 1),
            ("host-runners", Some(9), 1, 0, 1),
            ("queue-length", Some(1_000), 0, 0, 1),
        ]
    );
    wait(&*store, seated(patient(2, "p"), "s")).await;
    wait(&*store, seated(patient(3, "p"), "s")).await;
    let place = |gates: &[Gate]| gates.iter().find(|g| g.name == "queue").map(|g| g.used);
    let second = store
        .explain(&spec, "h1", Some(9), Some(id(3)))
        .await
        .unwrap();
    assert_eq!(place(&second), Some(1), "{second:?}");
    let first: Vec<Refusal> = second
        .into_iter()
        .filter(|g| !g.open())
        .map(Gate::shut)
        .collect();
    assert_eq!(first[0].gate.name, "session");
    assert_eq!(events(&*store).await.len(), 4, "nothing was written");
}

pub(crate) async fn a_hold_stops_admission(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    project(&*store, "q", ProjectSettings::default()).await;
    let hold = Hold {
        scope: "project:p".parse().unwrap(),
        until: None,
        freeze: false,
        reason: "the key is rate limited".to_owned(),
        actor: alice(),
        set_at: at(0),
    };
    store.set_hold(hold.clone()).await.unwrap();
    assert_eq!(
        denied(&*store, launch(1, "p")).await,
        ("hold", ErrorKind::Held)
    );
    admit(&*store, launch(2, "q")).await;
    assert_eq!(wait(&*store, patient(3, "p")).await, "hold");
    assert_eq!(turns(&*store).await, []);
    store
        .release_hold(hold.scope, alice(), at(5))
        .await
        .unwrap();
    assert_eq!(turns(&*store).await, [id(3)]);
}

pub(crate) async fn many_that_are_held_hide_nobody(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    let labelled = |n: u64, value: &str| {
        let mut new = patient(n, "p");
        new.spec.labels = [("key".to_owned(), value.to_owned())].into();
        new
    };
    let hold = |scope: &str| Hold {
        scope: scope.parse().unwrap(),
        until: None,
        freeze: false,
        reason: String::new(),
        actor: alice(),
        set_at: at(0),
    };
    store.set_hold(hold("label:key=a")).await.unwrap();
    store.set_hold(hold("fleet")).await.unwrap();
    for n in 1..=40 {
        assert_eq!(wait(&*store, labelled(n, "a")).await, "hold");
    }
    wait(&*store, labelled(41, "b")).await;
    store
        .release_hold(hold("fleet").scope, alice(), at(5))
        .await
        .unwrap();
    assert_eq!(turns(&*store).await, [id(41)]);
    store
        .release_hold(hold("label:key=a").scope, alice(), at(6))
        .await
        .unwrap();
    let mut all = turns(&*store).await;
    all.extend(turns(&*store).await);
    assert_eq!(all, (1..=40).map(id).collect::<Vec<_>>());
}
