//! The steps of a runner's life, its events, and the end of the store's own day.

use super::*;
use crate::domain::State;
use crate::domain::event::EventType;
use std::sync::Arc;

fn steps() -> [Step; 6] {
    [
        Step::Run(placement()),
        Step::Freeze(None),
        Step::Thaw,
        Step::Stop,
        Step::Limit(
            Limits {
                memory_max: Some(1 << 30),
                ..Limits::default()
            },
            Vec::new(),
        ),
        end(),
    ]
}

/// The steps that lead to each state.
fn way_to(state: State) -> Vec<Step> {
    match state {
        State::Queued | State::Starting => vec![],
        State::Running => vec![Step::Run(placement())],
        State::Frozen => vec![Step::Run(placement()), Step::Freeze(None)],
        State::Stopping => vec![Step::Run(placement()), Step::Stop],
        State::Ended => vec![end()],
    }
}

pub(crate) async fn every_step_from_every_state(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    let mut n = 0;
    // Who waits has cases of its own.
    for state in &State::ALL[1..] {
        let state = *state;
        for step_taken in steps() {
            n += 1;
            let mut expected = admit(&*store, launch(n, "p")).await;
            for way in way_to(state) {
                expected = apply(&*store, step(n, way, n * 1_000 + 1)).await.runner;
            }
            let before = expected.clone();
            let when = n * 1_000 + 2;
            let verdict = expected.apply(&step_taken, at(when));
            match (
                verdict,
                store.apply(step(n, step_taken.clone(), when)).await,
            ) {
                (Ok(old), Ok(applied)) => {
                    let kind = EventType::of_step(&step_taken);
                    expected.seq += u64::from(kind.is_some());
                    assert_eq!((applied.old, &applied.runner), (old, &expected));
                    assert_eq!(applied.event.as_ref().map(|e| e.draft.kind), kind);
                    assert_eq!(store.runner(id(n)).await.unwrap().unwrap(), expected);
                }
                (Err(said), Err(StoreError::Refused(error))) => {
                    assert_eq!(said, error);
                    assert_eq!(store.runner(id(n)).await.unwrap().unwrap(), before);
                }
                other => panic!("{state:?} {step_taken:?}: {other:?}"),
            }
        }
    }
    let live_now = store.live("h1").await.unwrap().len();
    assert_eq!(live(&*store, "p").await as usize, live_now);
    assert_contiguous(&events(&*store).await);
}

pub(crate) async fn a_life_is_told_in_events(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    admit(&*store, launch(1, "p")).await;
    let life = [
        Step::Run(placement()),
        Step::Freeze(None),
        Step::Thaw,
        Step::Stop,
        end(),
    ];
    let mut written = Vec::new();
    for (n, taken) in life.into_iter().enumerate() {
        written.extend(apply(&*store, step(1, taken, 2_000 + n as u64)).await.event);
    }
    let filter = EventFilter {
        runner: Some(id(1)),
        ..EventFilter::default()
    };
    let told = store.events(filter).await.unwrap();
    assert_eq!(told[1..], written);
    let kinds: Vec<&str> = told.iter().map(|e| e.draft.kind.short()).collect();
    assert_eq!(
        kinds,
        [
            "runner.starting",
            "runner.running",
            "runner.frozen",
            "runner.thawed",
            "runner.stopping",
            "runner.ended"
        ]
    );
    assert_eq!(
        told.iter().map(|e| e.draft.seq).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
    assert_eq!(told[5].draft.data["exit"]["signal"], "SIGKILL");
    let ended = store.runner(id(1)).await.unwrap().unwrap();
    assert_eq!(
        (ended.state(), ended.seq, ended.ended_at),
        (State::Ended, 6, at(2_004))
    );
    assert_eq!(
        (ended.exit, ended.placement),
        (Some(exit()), Some(placement()))
    );
}

pub(crate) async fn events_are_contiguous_under_load(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    let lives = (0..60u64).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            admit(&*store, launch(n, "p")).await;
            apply(&*store, step(n, Step::Run(placement()), 100_000)).await;
            let (a, b) = tokio::join!(
                store.apply(step(n, Step::Freeze(None), 100_001)),
                store.apply(step(n, Step::Stop, 100_001))
            );
            assert!(a.is_ok() || b.is_ok());
            apply(&*store, step(n, end(), 100_002)).await;
        })
    });
    for life in lives.collect::<Vec<_>>() {
        life.await.unwrap();
    }
    let all = events(&*store).await;
    assert_contiguous(&all);
    for n in 0..60 {
        let runner = store.runner(id(n)).await.unwrap().unwrap();
        let subject = format!("runner/{}", id(n));
        assert_eq!(
            all.iter().filter(|e| e.draft.subject == subject).count() as u64,
            runner.seq
        );
    }
    assert_eq!(live(&*store, "p").await, 0);
}

pub(crate) async fn limits_change_without_event(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    admit(&*store, launch(1, "p")).await;
    let limits = Limits {
        memory_max: Some(u64::MAX),
        ..Limits::default()
    };
    let warned = |of: &str| Step::Limit(limits.clone(), vec![of.to_owned()]);
    let applied = apply(&*store, step(1, warned("memory-max"), 3)).await;
    assert_eq!((applied.event, applied.runner.seq), (None, 1));
    let row = store.runner(id(1)).await.unwrap().unwrap();
    // Of what has no scope yet its launch tells.
    assert_eq!((row.spec.limits, row.placement), (limits.clone(), None));
    apply(&*store, step(1, Step::Run(placement()), 4)).await;
    let applied = apply(&*store, step(1, warned("memory-max"), 5)).await;
    assert_eq!((applied.event, applied.runner.seq), (None, 2));
    let warnings = vec!["memory-max".to_owned()];
    let placed = Some(Placement {
        warnings,
        ..placement()
    });
    assert_eq!(
        store.runner(id(1)).await.unwrap().unwrap().placement,
        placed
    );
}

pub(crate) async fn unknown_runner(store: Arc<impl Store + 'static>) {
    let said = refused(
        store.apply(step(1, Step::Stop, 1)).await,
        ErrorKind::NoSuchRunner,
    );
    assert!(said.contains(&id(1).to_string()), "{said}");
    assert_eq!(store.runner(id(1)).await.unwrap(), None);
}

pub(crate) async fn racing_endings(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    admit(&*store, launch(1, "p")).await;
    let ends =
        futures_util::future::join_all((0..40).map(|n| store.apply(step(1, end(), 2_000 + n))))
            .await;
    assert_eq!(ends.iter().filter(|e| e.is_ok()).count(), 1);
    for ended in ends.into_iter().filter(Result::is_err) {
        refused(ended, ErrorKind::WrongState);
    }
    assert_eq!(live(&*store, "p").await, 0);
}

pub(crate) async fn dropped_callers(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    for n in 0..100u64 {
        let caller = tokio::spawn({
            let store = store.clone();
            async move { store.admit(launch(n, "p")).await }
        });
        if n % 3 == 0 {
            tokio::task::yield_now().await;
        }
        caller.abort();
    }
    store.check().await.unwrap();
    // Whatever was begun was finished: rows, counts and events agree.
    let there = store.live("h1").await.unwrap().len();
    assert_eq!(live(&*store, "p").await as usize, there);
    let all = events(&*store).await;
    assert_contiguous(&all);
    assert_eq!(all.len(), there + 1);
    admit(&*store, launch(1_000, "p")).await;
}

pub(crate) async fn pruning(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    for n in 0..300 {
        let mut new = requested(launch(n, "p"), 1000, &format!("r{n}"), "d");
        new.spec.labels.insert("k".to_owned(), "v".to_owned());
        admit(&*store, new).await;
        if n % 3 != 0 {
            apply(&*store, step(n, end(), n * 1_000 + 1)).await;
        }
    }
    let before = at(150_000);
    // 100 of the first 150 have ended; with their events and those of the live ones: 251.
    let some = store.prune(before, 60).await.unwrap();
    assert_eq!((some.runners, some.events), (60, 60));
    let (mut runners, mut events_gone) = (60, 60);
    loop {
        let more = store.prune(before, 60).await.unwrap();
        if more == crate::ports::Pruned::default() {
            break;
        }
        runners += more.runners;
        events_gone += more.events;
    }
    assert_eq!((runners, events_gone), (100, 251));
    // The live ones and the younger ones are all there.
    assert_eq!(live(&*store, "p").await, 100);
    assert_eq!(store.live("h1").await.unwrap().len(), 100);
    assert!(store.runner(id(0)).await.unwrap().is_some());
    assert!(store.runner(id(1)).await.unwrap().is_none());
    assert!(store.runner(id(151)).await.unwrap().is_some());
    // A request id goes with its runner, and stays with it.
    let again = |n: u64, r: u64| requested(launch(n, "p"), 1000, &format!("r{r}"), "d");
    assert!(matches!(
        store.admit(again(1_001, 1)).await,
        Ok(Admitted::New { .. })
    ));
    assert!(matches!(
        store.admit(again(1_002, 0)).await,
        Ok(Admitted::Repeated(_))
    ));
    assert!(matches!(
        store.admit(again(1_003, 151)).await,
        Ok(Admitted::Repeated(_))
    ));
    // Live runners count on where they were.
    let ended = apply(&*store, step(0, end(), 2_000_000)).await;
    assert_eq!(ended.event.map(|e| e.draft.seq), Some(2));
}

pub(crate) async fn check_and_close(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    let before = events(&*store).await;
    store.check().await.unwrap();
    assert_eq!(events(&*store).await, before);
    // What was handed in before the close is done.
    let (admitted, ()) = tokio::join!(store.admit(launch(1, "p")), store.close());
    assert!(matches!(admitted, Ok(Admitted::New { .. })));
    unavailable(store.check().await);
    unavailable(store.admit(launch(2, "p")).await);
    unavailable(store.runner(id(1)).await);
    store.close().await;
}
