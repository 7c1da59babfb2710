//! Projects.

use super::*;
use crate::domain::event::EventType;
use crate::domain::project::ProjectChange;
use std::sync::Arc;

pub(crate) async fn create_show_list(store: Arc<impl Store + 'static>) {
    let settings = ProjectSettings {
        description: "Bäckerei; DROP TABLE projects".to_owned(),
        max_runners: Some(3),
        limits: Limits {
            memory_max: Some(1 << 30),
            cpu_quota: Some(u64::MAX),
            ..Limits::default()
        },
        ..ProjectSettings::default()
    };
    let (made, event) = store
        .create_project(name("b"), settings.clone(), alice(), at(5))
        .await
        .unwrap();
    assert_eq!(
        (made.settings.clone(), made.live, made.created_at),
        (settings, 0, at(5))
    );
    assert_eq!(event.draft.kind, EventType::ProjectCreated);
    assert_eq!(
        (
            event.draft.subject.as_str(),
            event.draft.seq,
            event.draft.at
        ),
        ("project/b", 1, at(5))
    );
    assert_eq!(event.draft.actor, alice());
    assert_eq!(store.project(&name("b")).await.unwrap().unwrap(), made);
    assert_eq!(store.project(&name("c")).await.unwrap(), None);
    project(&*store, "a.x-1_y", ProjectSettings::default()).await;
    let names: Vec<String> = store
        .projects()
        .await
        .unwrap()
        .iter()
        .map(|p| p.name.to_string())
        .collect();
    assert_eq!(names, ["a.x-1_y", "b"]);
    assert_eq!(events(&*store).await[0], event);
}

pub(crate) async fn create_twice(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(1)).await;
    let said = refused(
        store
            .create_project(name("p"), capped(2), alice(), at(1))
            .await,
        ErrorKind::AlreadyExists,
    );
    assert!(said.contains("p exists already"), "{said}");
    assert_eq!(
        store.project(&name("p")).await.unwrap().unwrap().settings,
        capped(1)
    );
    assert_eq!(events(&*store).await.len(), 1);
}

pub(crate) async fn change(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(1)).await;
    let change = ProjectChange {
        description: Some("d".to_owned()),
        max_runners: Some(None),
        limits: Limits {
            tasks_max: Some(7),
            ..Limits::default()
        },
        ..ProjectChange::default()
    };
    let (changed, event) = store
        .set_project(name("p"), change, alice(), at(9))
        .await
        .unwrap();
    assert_eq!(
        (
            changed.settings.description.as_str(),
            changed.settings.max_runners
        ),
        ("d", None)
    );
    assert_eq!(
        (event.draft.kind, event.draft.seq),
        (EventType::ProjectChanged, 2)
    );
    let (same, _) = store
        .set_project(name("p"), ProjectChange::default(), alice(), at(10))
        .await
        .unwrap();
    assert_eq!(same, changed);
    assert_eq!(store.project(&name("p")).await.unwrap(), Some(changed));
}

pub(crate) async fn unknown_names(store: Arc<impl Store + 'static>) {
    project(&*store, "batch", ProjectSettings::default()).await;
    let set = store
        .set_project(name("bacth"), ProjectChange::default(), alice(), at(1))
        .await;
    let gates = gates(&*store, "bacth", None).await;
    let removed = store.remove_project(name("bacth"), alice(), at(1)).await;
    let admitted = store.admit(launch(1, "bacth")).await;
    // How it is made helps those who want to launch something in it.
    for (said, create) in [
        (refused(set, ErrorKind::NoSuchProject), false),
        (refused(gates, ErrorKind::NoSuchProject), true),
        (refused(removed, ErrorKind::NoSuchProject), false),
        (refused(admitted, ErrorKind::NoSuchProject), true),
    ] {
        assert!(said.contains("Did you mean batch?"), "{said}");
        assert_eq!(said.contains("project create bacth"), create, "{said}");
    }
    assert_eq!(events(&*store).await.len(), 1);
}

pub(crate) async fn remove(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(2)).await;
    admit(&*store, launch(1, "p")).await;
    let said = refused(
        store.remove_project(name("p"), alice(), at(2)).await,
        ErrorKind::Conflict,
    );
    assert!(said.contains("1 live runner."), "{said}");
    apply(&*store, step(1, end(), 5_000)).await;
    let told = store
        .remove_project(name("p"), alice(), at(6_000))
        .await
        .unwrap();
    let [event] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(
        (event.draft.kind, event.draft.seq),
        (EventType::ProjectRemoved, 2)
    );
    assert_eq!(store.project(&name("p")).await.unwrap(), None);
    // History stays.
    assert!(store.runner(id(1)).await.unwrap().is_some());
    refused(store.admit(launch(2, "p")).await, ErrorKind::NoSuchProject);
}

pub(crate) async fn counts_go_on_after_removal(store: Arc<impl Store + 'static>) {
    for round in 0..3 {
        let (_, made) = store
            .create_project(name("p"), capped(1), alice(), at(round))
            .await
            .unwrap();
        assert_eq!(made.draft.seq, round * 2 + 1);
        store
            .remove_project(name("p"), alice(), at(round))
            .await
            .unwrap();
    }
    assert_contiguous(&events(&*store).await);
}

pub(crate) async fn lowering_the_cap(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(3)).await;
    for n in 1..=3 {
        admit(&*store, launch(n, "p")).await;
    }
    let change = ProjectChange {
        max_runners: Some(Some(1)),
        ..ProjectChange::default()
    };
    let (lowered, _) = store
        .set_project(name("p"), change, alice(), at(4))
        .await
        .unwrap();
    assert_eq!((lowered.live, lowered.settings.max_runners), (3, Some(1)));
    assert!(matches!(
        store.admit(launch(4, "p")).await,
        Ok(Admitted::Denied { .. })
    ));
    // The runners that are there go through their lives.
    for n in 1..=3 {
        apply(&*store, step(n, Step::Run(placement()), 10_000)).await;
        apply(&*store, step(n, end(), 20_000)).await;
    }
    admit(&*store, launch(5, "p")).await;
    assert_eq!(live(&*store, "p").await, 1);
}
