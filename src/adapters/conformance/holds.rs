//! Holds.

use super::queue::denied;
use super::*;
use crate::domain::event::EventType;
use crate::domain::hold::{HOLDS_MAX, Hold, HoldScope};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The store's clock, or near it.
fn soon(more: Duration) -> Timestamp {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + more;
    Timestamp(u64::try_from(at.as_micros()).unwrap())
}

fn scope(text: &str) -> HoldScope {
    text.parse().unwrap()
}

pub(super) fn hold(scope_text: &str) -> Hold {
    Hold {
        scope: scope(scope_text),
        until: None,
        freeze: true,
        reason: "rate limit; DROP TABLE holds".to_owned(),
        actor: alice(),
        set_at: at(7),
    }
}

async fn counter(store: &impl Store) -> u64 {
    store.pulse("h1").await.unwrap().policy
}

pub(crate) async fn set_list_release(store: Arc<impl Store + 'static>) {
    assert_eq!(store.holds().await.unwrap(), []);
    let before = counter(&*store).await;
    let mut wanted = hold("label:cred=a b=c");
    wanted.until = Some(soon(Duration::from_secs(3_600)));
    let (set, event) = store.set_hold(wanted.clone()).await.unwrap();
    assert_eq!(set, wanted);
    assert_eq!(event.draft.kind, EventType::HoldSet);
    assert_eq!(event.draft.subject, "hold/label:cred=a b=c");
    assert_eq!((event.draft.seq, event.draft.at), (1, at(7)));
    assert_eq!(event.draft.data["freeze"], true);
    assert_eq!(event.draft.data["until"], wanted.until.unwrap().0);
    let set = counter(&*store).await;
    assert!(set > before);
    assert_eq!(store.holds().await.unwrap(), [wanted.clone()]);
    assert_eq!(store.policy("h1").await.unwrap().holds, [wanted]);
    let event = store
        .release_hold(scope("label:cred=a b=c"), alice(), at(9))
        .await
        .unwrap();
    assert_eq!(event.draft.kind, EventType::HoldReleased);
    assert_eq!((event.draft.seq, event.draft.actor), (2, alice()));
    assert!(counter(&*store).await > set);
    assert_eq!(store.holds().await.unwrap(), []);
    let again = store
        .release_hold(scope("label:cred=a b=c"), alice(), at(9))
        .await;
    let said = refused(again, ErrorKind::NoSuchHold);
    assert!(said.contains("hold list"), "{said}");
    assert_contiguous(&events(&*store).await);
}

pub(crate) async fn one_for_each_scope(store: Arc<impl Store + 'static>) {
    for name in ["p", "q"] {
        project(&*store, name, ProjectSettings::default()).await;
    }
    for text in ["project:p", "fleet", "project:q"] {
        store.set_hold(hold(text)).await.unwrap();
    }
    let mut other = hold("fleet");
    other.freeze = false;
    other.reason.clear();
    store.set_hold(other.clone()).await.unwrap();
    let holds = store.holds().await.unwrap();
    let scopes: Vec<String> = holds.iter().map(|h| h.scope.to_string()).collect();
    assert_eq!(scopes, ["fleet", "project:p", "project:q"]);
    assert_eq!(holds[0], other);
    let of_p = EventFilter {
        project: Some(name("p")),
        kind: Some(EventType::HoldSet),
        ..EventFilter::default()
    };
    assert_eq!(store.events(of_p).await.unwrap().len(), 1);
}

/// With its project a hold goes, and it alone; the next project of that name is not held by it.
pub(crate) async fn it_goes_with_its_project(store: Arc<impl Store + 'static>) {
    for name in ["p", "q"] {
        project(&*store, name, ProjectSettings::default()).await;
    }
    for text in ["project:p", "fleet", "project:q", "label:p=p"] {
        store.set_hold(hold(text)).await.unwrap();
    }
    let before = counter(&*store).await;
    let bob = Actor {
        user: Some("bob".to_owned()),
        ..alice()
    };
    let told = store.remove_project(name("p"), bob.clone(), at(9)).await;
    let told = told.unwrap();
    let kinds: Vec<EventType> = told.iter().map(|e| e.draft.kind).collect();
    assert_eq!(kinds, [EventType::HoldReleased, EventType::ProjectRemoved]);
    let released = &told[0].draft;
    assert_eq!(released.subject, "hold/project:p");
    assert_eq!(released.data["scope"], "project:p");
    assert_eq!(
        (released.project.as_str(), released.seq, released.at),
        ("p", 2, at(9))
    );
    assert_eq!(told.iter().filter(|e| e.draft.actor == bob).count(), 2);
    assert!(counter(&*store).await > before);
    let holds = store.holds().await.unwrap();
    let scopes: Vec<String> = holds.iter().map(|h| h.scope.to_string()).collect();
    assert_eq!(scopes, ["fleet", "label:p=p", "project:q"]);
    let again = store
        .release_hold(scope("project:p"), alice(), at(10))
        .await;
    refused(again, ErrorKind::NoSuchHold);
    // Where nothing else holds it, the next one of that name launches.
    store
        .release_hold(scope("fleet"), alice(), at(11))
        .await
        .unwrap();
    project(&*store, "p", ProjectSettings::default()).await;
    admit(&*store, launch(2, "p")).await;
    assert_eq!(denied(&*store, launch(3, "q")).await.1, ErrorKind::Held);
    // One that can't be removed keeps its hold.
    store.set_hold(hold("project:p")).await.unwrap();
    let kept = store.remove_project(name("p"), alice(), at(12)).await;
    refused(kept, ErrorKind::Conflict);
    assert_eq!(store.holds().await.unwrap().len(), 3);
    let all = events(&*store).await;
    assert_contiguous(&all);
    assert!(told.iter().all(|e| all.contains(e)), "{told:?}");
}

pub(crate) async fn they_end_by_themselves(store: Arc<impl Store + 'static>) {
    let mut short = hold("fleet");
    short.until = Some(soon(Duration::from_secs(3)));
    store.set_hold(short.clone()).await.unwrap();
    let of_none = store.set_hold(hold("project:p")).await;
    let said = refused(of_none, ErrorKind::NoSuchProject);
    assert!(said.starts_with("Project p does not exist."), "{said}");
    project(&*store, "p", ProjectSettings::default()).await;
    store.set_hold(hold("project:p")).await.unwrap();
    assert_eq!(store.end_holds(at(1)).await.unwrap(), []);
    let until = short.until.unwrap();
    while store.pulse("h1").await.unwrap().now <= until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let left = store.holds().await.unwrap();
    assert_eq!(left, [hold("project:p")]);
    let before = counter(&*store).await;
    let ended = store.end_holds(at(2)).await.unwrap();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].draft.kind, EventType::HoldReleased);
    assert_eq!(ended[0].draft.actor, Actor::host());
    assert!(counter(&*store).await > before);
    assert_eq!(store.end_holds(at(3)).await.unwrap(), []);
    // One that would be over already is refused.
    let said = refused(store.set_hold(short).await, ErrorKind::InvalidArgument);
    assert!(said.contains("over already"), "{said}");
}

pub(crate) async fn there_are_only_so_many(store: Arc<impl Store + 'static>) {
    let all = (0..HOLDS_MAX).map(|n| store.set_hold(hold(&format!("label:of=p{n}"))));
    for set in futures_util::future::join_all(all).await {
        set.unwrap();
    }
    let more = store.set_hold(hold("label:of=more")).await;
    let said = refused(more, ErrorKind::LimitsExceeded);
    assert!(said.contains("1000"), "{said}");
    // One that is there may be changed.
    store.set_hold(hold("label:of=p7")).await.unwrap();
}

pub(crate) async fn who_froze_it_is_kept(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    admit(&*store, launch(1, "p")).await;
    apply(&*store, step(1, Step::Run(placement()), 5_000)).await;
    let by = Some("hold fleet".to_owned());
    apply(&*store, step(1, Step::Freeze(by.clone()), 6_000)).await;
    let read = || async { store.runner(id(1)).await.unwrap().unwrap().frozen_by };
    assert_eq!(read().await, by);
    let kept = apply(&*store, step(1, Step::Keep(None), 7_000)).await;
    assert_eq!((kept.event, read().await), (None, None));
    apply(&*store, step(1, Step::Thaw, 8_000)).await;
    apply(&*store, step(1, Step::Freeze(by.clone()), 9_000)).await;
    apply(&*store, step(1, end(), 10_000)).await;
    assert_eq!(read().await, None);
}
