//! Who gets in.

use super::*;
use crate::domain::event::EventType;
use std::sync::Arc;

pub(crate) async fn caps_hold(store: Arc<impl Store + 'static>) {
    let limits = Limits {
        memory_max: Some(5 << 20),
        ..Limits::default()
    };
    project(
        &*store,
        "p",
        ProjectSettings {
            limits: limits.clone(),
            ..capped(2)
        },
    )
    .await;
    project(&*store, "none", capped(0)).await;
    let Ok(Admitted::New {
        runner,
        project_limits,
        event,
    }) = store.admit(launch(1, "p")).await
    else {
        panic!("the first is admitted");
    };
    assert_eq!(project_limits, limits);
    assert_eq!(
        (
            event.draft.kind,
            event.draft.seq,
            event.draft.subject.clone()
        ),
        (EventType::RunnerStarting, 1, format!("runner/{}", id(1)))
    );
    assert_eq!(store.runner(id(1)).await.unwrap(), Some(runner));
    admit(&*store, launch(2, "p")).await;
    for (n, project, limit, used) in [(3, "p", 2, 2), (4, "none", 0, 0)] {
        let Ok(Admitted::Denied { gate, error, event }) = store.admit(launch(n, project)).await
        else {
            panic!("{project} is full");
        };
        assert_eq!(
            (gate.name, gate.limit, gate.used, gate.requested),
            ("project-runners", Some(limit), used, 1)
        );
        assert_eq!(error.kind, ErrorKind::QuotaExceeded);
        assert_eq!(
            (event.draft.kind, event.draft.subject.as_str()),
            (EventType::AdmissionDenied, &*format!("admission/{project}"))
        );
        assert_eq!(event.draft.data["gate"], "project-runners");
        assert_eq!(store.runner(id(n)).await.unwrap(), None);
    }
    apply(&*store, step(1, end(), 9_000)).await;
    admit(&*store, launch(5, "p")).await;
    assert_eq!(live(&*store, "p").await, 2);
}

pub(crate) async fn host_cap_holds(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    project(&*store, "q", capped(1)).await;
    let on = |n, project: &str, host: &str| NewRunner {
        host: host.to_owned(),
        host_max: Some(2),
        ..launch(n, project)
    };
    admit(&*store, on(1, "p", "h1")).await;
    admit(&*store, on(2, "q", "h1")).await;
    admit(&*store, on(3, "p", "h2")).await;
    match store.admit(on(4, "p", "h1")).await {
        Ok(Admitted::Denied { gate, .. }) => assert_eq!(
            (gate.name, gate.subject.as_str(), gate.used),
            ("host-runners", "h1", 2)
        ),
        other => panic!("{other:?}"),
    }
    admit(&*store, on(5, "p", "h2")).await;
}

pub(crate) async fn many_callers_many_slots(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(100)).await;
    let callers: Vec<_> = (0..32)
        .map(|caller| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut admitted = 0;
                for n in 0..8 {
                    let new = launch(caller * 8 + n, "p");
                    admitted +=
                        u32::from(matches!(store.admit(new).await, Ok(Admitted::New { .. })));
                }
                admitted
            })
        })
        .collect();
    let mut admitted = 0;
    for caller in callers {
        admitted += caller.await.unwrap();
    }
    assert_eq!(admitted, 100);
    assert_eq!(live(&*store, "p").await, 100);
    assert_eq!(store.live("h1").await.unwrap().len(), 100);
}

pub(crate) async fn a_burst_on_a_small_cap(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(5)).await;
    let answers =
        futures_util::future::join_all((0..100).map(|n| store.admit(launch(n, "p")))).await;
    let (mut new, mut denied) = (0, 0);
    for answer in answers {
        match answer.unwrap() {
            Admitted::New { .. } => new += 1,
            Admitted::Denied { .. } => denied += 1,
            Admitted::Repeated(_) | Admitted::Queued { .. } => panic!("nothing was repeated"),
        }
    }
    assert_eq!((new, denied), (5, 95));
    assert_contiguous(&events(&*store).await);
}

pub(crate) async fn numbers_of_the_gates(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(3)).await;
    let numbers = async || {
        let gates = gates(&*store, "p", Some(9)).await.unwrap();
        gates
            .iter()
            .map(|g| (g.name, g.limit, g.used))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        numbers().await,
        [
            ("project-runners", Some(3), 0),
            ("host-runners", Some(9), 0)
        ]
    );
    admit(&*store, launch(1, "p")).await;
    assert_eq!(
        numbers().await,
        [
            ("project-runners", Some(3), 1),
            ("host-runners", Some(9), 1)
        ]
    );
    apply(&*store, step(1, end(), 2)).await;
    assert_eq!(
        numbers().await,
        [
            ("project-runners", Some(3), 0),
            ("host-runners", Some(9), 0)
        ]
    );
}

pub(crate) async fn request_ids(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(2)).await;
    admit(&*store, requested(launch(1, "p"), 1000, "r", "d1")).await;
    apply(&*store, step(1, Step::Run(placement()), 2_000)).await;
    match store
        .admit(requested(launch(2, "p"), 1000, "r", "d1"))
        .await
    {
        Ok(Admitted::Repeated(runner)) => assert_eq!(
            (runner.id, runner.state()),
            (id(1), crate::domain::State::Running)
        ),
        other => panic!("{other:?}"),
    }
    let said = refused(
        store
            .admit(requested(launch(3, "p"), 1000, "r", "d2"))
            .await,
        ErrorKind::Conflict,
    );
    assert!(
        said.contains("Request id r") && said.contains(&id(1).to_string()),
        "{said}"
    );
    // Another user's ids are others.
    admit(&*store, requested(launch(4, "p"), 1001, "r", "d2")).await;
    // It holds after the end, with the project full and with the project gone.
    apply(&*store, step(1, end(), 5_000)).await;
    apply(&*store, step(4, end(), 5_000)).await;
    store
        .remove_project(name("p"), alice(), at(6_000))
        .await
        .unwrap();
    let again = store
        .admit(requested(launch(5, "p"), 1000, "r", "d1"))
        .await;
    assert!(matches!(again, Ok(Admitted::Repeated(r)) if r.id == id(1) && r.exit == Some(exit())));
}

pub(crate) async fn request_id_race(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    let race = (0..50).map(|n| {
        store.admit(requested(
            launch(n, "p"),
            1000,
            "r",
            if n % 5 == 4 { "other" } else { "same" },
        ))
    });
    let answers = futures_util::future::join_all(race).await;
    let new: Vec<_> = answers
        .iter()
        .filter_map(|a| {
            if let Ok(Admitted::New { runner, .. }) = a {
                Some(runner.id)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(new.len(), 1);
    let repeated = answers
        .iter()
        .filter(|a| matches!(a, Ok(Admitted::Repeated(r)) if r.id == new[0]))
        .count();
    let conflicts = answers
        .iter()
        .filter(|a| matches!(a, Err(StoreError::Refused(e)) if e.kind == ErrorKind::Conflict))
        .count();
    assert!(
        (repeated, conflicts) == (39, 10) || (repeated, conflicts) == (9, 40),
        "{repeated} {conflicts}"
    );
    assert_eq!(live(&*store, "p").await, 1);
}

pub(crate) async fn a_denial_keeps_no_request_id(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(1)).await;
    admit(&*store, launch(1, "p")).await;
    let again = |n| requested(launch(n, "p"), 1000, "r", "d");
    assert!(matches!(
        store.admit(again(2)).await,
        Ok(Admitted::Denied { .. })
    ));
    apply(&*store, step(1, end(), 2_000)).await;
    admit(&*store, again(2)).await;
}

pub(crate) async fn an_id_is_used_once(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    admit(&*store, launch(1, "p")).await;
    let answers = futures_util::future::join_all(
        [
            launch(1, "p"),
            launch(2, "p"),
            launch(1, "p"),
            launch(3, "p"),
        ]
        .map(|n| store.admit(n)),
    )
    .await;
    let [first, second, third, fourth] = <[_; 4]>::try_from(answers).unwrap();
    refused(first, ErrorKind::Conflict);
    refused(third, ErrorKind::Conflict);
    // One refusal spoils nobody else's launch.
    assert!(matches!(
        (second, fourth),
        (Ok(Admitted::New { .. }), Ok(Admitted::New { .. }))
    ));
    assert_eq!(live(&*store, "p").await, 3);
    assert_contiguous(&events(&*store).await);
}

pub(crate) async fn denials_are_bounded(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(0)).await;
    project(&*store, "q", capped(0)).await;
    let deny = async |project: &str, usec: u64| match store
        .admit(NewRunner {
            at: at(usec),
            ..launch(usec, project)
        })
        .await
    {
        Ok(Admitted::Denied { event, .. }) => event,
        other => panic!("{other:?}"),
    };
    let first = deny("p", 0).await;
    for n in 1..500 {
        assert_eq!(deny("p", n * 1_000).await, first);
    }
    assert_ne!(deny("q", 500_000).await, first);
    let second = deny("p", 1_000_000).await;
    assert_eq!(
        (
            first.draft.data["count"].as_u64(),
            second.draft.data["count"].as_u64()
        ),
        (Some(1), Some(500))
    );
    // A clock that is set back is a new second too.
    assert_eq!(deny("p", 999_999).await.draft.seq, 3);
    // Somebody else's are told of their own.
    let mut bobs = launch(2_000_000, "p");
    bobs.at = at(1_000_000);
    bobs.actor.uid = Some(1001);
    let Ok(Admitted::Denied { event, .. }) = store.admit(bobs).await else {
        panic!("it is full")
    };
    assert_eq!((event.draft.actor.uid, event.draft.seq), (Some(1001), 4));
    // The same number is somebody else on another host.
    let mut theirs = launch(2_000_001, "p");
    theirs.at = at(1_000_000);
    theirs.actor.host = Some("h2".to_owned());
    let Ok(Admitted::Denied { event, .. }) = store.admit(theirs).await else {
        panic!("it is full")
    };
    let host = event.draft.actor.host.as_deref();
    assert_eq!((host, event.draft.seq), (Some("h2"), 5));
    let all = events(&*store).await;
    assert_eq!(
        all.iter()
            .filter(|e| e.draft.kind == EventType::AdmissionDenied)
            .count(),
        6
    );
    assert_contiguous(&all);
}
