//! The rows that are to be published: what is held up, taken over, left, and removed with its age.

use super::*;
use crate::domain::host::{Load, Registration};
use crate::domain::project::ProjectChange;
use crate::domain::relay::{Settlement, Why};
use crate::ports::{Beat, LetGo, Outbox, Outgoing, Pruned, Rows};
use std::sync::Arc;

const MINUTE: u64 = 60_000_000;

async fn join(store: &impl Store, host: &str) {
    join_for(store, host, MINUTE).await;
}

async fn join_for(store: &impl Store, host: &str, ttl: u64) {
    let about = Registration {
        host: host.to_owned(),
        name: host.to_owned(),
        boot_id: format!("boot-of-{host}"),
        labels: BTreeMap::new(),
        max_runners: None,
        version: "1".to_owned(),
        advertise: String::new(),
    };
    let beat = Beat {
        ttl,
        fenced_after: None,
        load: Load::default(),
    };
    store.join(about, beat).await.unwrap();
}

async fn change(store: &impl Store, usec: u64) {
    let change = ProjectChange {
        description: Some(usec.to_string()),
        ..ProjectChange::default()
    };
    let done = store
        .set_project(name("p"), change, alice(), at(usec))
        .await;
    done.unwrap();
}

/// A host with so many events of the project.
async fn with_events(store: &(impl Store + Outbox), events: u64) {
    store.publish(true);
    join(store, "h1").await;
    let settings = ProjectSettings::default();
    store
        .create_project(name("p"), settings, alice(), at(1))
        .await
        .unwrap();
    for n in 2..=events {
        change(store, n).await;
    }
}

/// Those of the project, oldest first.
async fn rows(store: &impl Outbox, host: &str, rows: Rows) -> Vec<Outgoing> {
    let mut page = store.page(host, rows, 0, 1_000).await.unwrap().rows;
    page.retain(|row| row.event.draft.subject == "project/p");
    page
}

fn numbers(rows: &[Outgoing]) -> Vec<u64> {
    rows.iter().map(|row| row.event.draft.seq).collect()
}

/// Parks the first so many, the first of them as unroutable.
async fn park(store: &impl Outbox, host: &str, many: usize) {
    let page = rows(store, host, Rows::Pending).await;
    let why = |n: usize| {
        if n == 0 {
            Why::Unroutable
        } else {
            Why::Follows
        }
    };
    let parked = page.iter().take(many).enumerate();
    let settlement = Settlement {
        done: vec![],
        parked: parked
            .map(|(n, row)| (row.event.position, why(n)))
            .collect(),
    };
    let settled = store.settle(host, &settlement).await.unwrap();
    assert_eq!(settled as usize, many);
}

pub(crate) async fn rows_are_written_with_their_events_and_settled(
    store: Arc<impl Store + Outbox>,
) {
    with_events(&*store, 3).await;
    let page = rows(&*store, "h1", Rows::Pending).await;
    assert_eq!(numbers(&page), [1, 2, 3]);
    let behind: Vec<_> = page.iter().map(|row| row.behind).collect();
    assert_eq!(behind, [None, Some(1), Some(2)]);
    assert!(page.iter().all(|row| row.source == "h1" && row.epoch > 0));
    let stores: std::collections::BTreeSet<_> = page.iter().map(|row| &row.store).collect();
    assert!(stores.len() == 1 && !page[0].store.is_empty(), "{stores:?}");
    let settlement = Settlement {
        done: vec![page[0].event.position, page[1].event.position],
        parked: vec![],
    };
    assert_eq!(
        store.settle("h2", &settlement).await.unwrap(),
        0,
        "not its own"
    );
    assert_eq!(store.settle("h1", &settlement).await.unwrap(), 2);
    assert_eq!(
        store.settle("h1", &settlement).await.unwrap(),
        0,
        "done before"
    );
    let page = rows(&*store, "h1", Rows::Pending).await;
    assert_eq!((numbers(&page), page[0].behind), (vec![3], None));
    // Without a broker nothing is to be published.
    store.publish(false);
    join(&*store, "h1").await;
    change(&*store, 4).await;
    assert_eq!(numbers(&rows(&*store, "h1", Rows::Pending).await), [3]);
}

pub(crate) async fn what_follows_nothing_is_let_go(store: Arc<impl Store + Outbox>) {
    with_events(&*store, 4).await;
    park(&*store, "h1", 3).await;
    let page = rows(&*store, "h1", Rows::Pending).await;
    assert_eq!(numbers(&page), [4]);
    assert!(page[0].behind_unroutable && page[0].behind == Some(3));
    let go = async |all, after, limit| store.let_go("h1", all, after, limit).await.unwrap();
    assert_eq!(
        go(false, 0, 10).await,
        LetGo::default(),
        "the first holds them up"
    );
    // The first one alone is tried again: it holds up nobody any more.
    let first = go(true, 0, 1).await;
    assert!(first.rows == 1 && first.last.is_some(), "{first:?}");
    let page = rows(&*store, "h1", Rows::Pending).await;
    assert!(page.iter().all(|row| !row.behind_unroutable));
    let rest = go(false, 0, 10).await;
    assert_eq!((rest.rows, rest.last), (2, None));
    let page = rows(&*store, "h1", Rows::Pending).await;
    assert_eq!(numbers(&page), [1, 2, 3, 4]);
}

pub(crate) async fn parked_ones_are_tried_again_by_project(store: Arc<impl Store + Outbox>) {
    with_events(&*store, 3).await;
    park(&*store, "h1", 3).await;
    let (other, p) = (name("other"), name("p"));
    assert_eq!(store.retry("h1", Some(&other)).await.unwrap(), 0);
    assert_eq!(store.retry("h2", None).await.unwrap(), 0);
    assert_eq!(store.retry("h1", Some(&p)).await.unwrap(), 3);
    assert_eq!(store.retry("h1", None).await.unwrap(), 0);
    assert_eq!(
        numbers(&rows(&*store, "h1", Rows::Pending).await),
        [1, 2, 3]
    );
}

pub(crate) async fn what_a_host_leaves_is_taken_over(store: Arc<impl Store + Outbox>) {
    with_events(&*store, 5).await;
    park(&*store, "h1", 2).await;
    assert_eq!(store.adopt("h1", 100).await.unwrap(), 0);
    assert_eq!(store.leave("h1", 1).await.unwrap(), 1);
    while store.leave("h1", 3).await.unwrap() > 0 {}
    assert!(rows(&*store, "h1", Rows::Pending).await.is_empty());
    assert!(rows(&*store, "h1", Rows::Parked).await.is_empty());
    assert_eq!(store.adopt("h9", 100).await.unwrap(), 0, "nobody knows it");
    join(&*store, "h9").await;
    let mut adopted = 0;
    loop {
        match store.adopt("h9", 2).await.unwrap() {
            0 => break,
            n => adopted += n,
        }
    }
    assert!(adopted >= 5, "{adopted}");
    let page = rows(&*store, "h9", Rows::Pending).await;
    assert_eq!(numbers(&page), [3, 4, 5]);
    assert!(
        page.iter().all(|row| row.source == "h1"),
        "who wrote it stays"
    );
    assert_eq!(numbers(&rows(&*store, "h9", Rows::Parked).await), [1, 2]);
}

/// Who has no broker leaves also what hosts had that were given up, and what of them is alive keeps its own.
pub(crate) async fn what_a_lost_host_had_is_left(store: Arc<impl Store + Outbox>) {
    with_events(&*store, 4).await;
    park(&*store, "h1", 1).await;
    store.publish(false);
    join(&*store, "h2").await;
    assert_eq!(store.leave("h2", 100).await.unwrap(), 0, "it is alive");
    let page = rows(&*store, "h1", Rows::Pending).await;
    assert_eq!(numbers(&page), [2, 3, 4]);
    join_for(&*store, "h1", 1).await;
    store.forget("h1", alice()).await.unwrap();
    while store.leave("h2", 3).await.unwrap() > 0 {}
    assert!(rows(&*store, "h1", Rows::Pending).await.is_empty());
    assert!(rows(&*store, "h1", Rows::Parked).await.is_empty());
    assert_eq!(numbers(&rows(&*store, "", Rows::Pending).await), [2, 3, 4]);
    assert_eq!(store.adopt("h1", 100).await.unwrap(), 0, "given up itself");
    let pruned = store.prune(at(5), 100).await.unwrap();
    assert!(pruned.unpublished >= 4, "{pruned:?}");
}

pub(crate) async fn what_is_parked_goes_with_its_age(store: Arc<impl Store + Outbox>) {
    with_events(&*store, 4).await;
    park(&*store, "h1", 2).await;
    let pruned = store.prune(at(5), 100).await.unwrap();
    let gone = |events, unpublished| Pruned {
        events,
        unpublished,
        ..Pruned::default()
    };
    assert_eq!(pruned, gone(2, 2));
    assert!(rows(&*store, "h1", Rows::Parked).await.is_empty());
    let page = rows(&*store, "h1", Rows::Pending).await;
    assert_eq!((numbers(&page), page[0].behind), (vec![3, 4], None));
    // What nobody has a broker for goes likewise.
    while store.leave("h1", 100).await.unwrap() > 0 {}
    assert_eq!(store.prune(at(5), 100).await.unwrap(), gone(2, 2));
}

/// Many that are still to be published are passed over a part at a time, and hide nothing for ever.
pub(crate) async fn what_is_held_hides_nothing_from_pruning(store: Arc<impl Store + Outbox>) {
    with_events(&*store, 450).await;
    store.publish(false);
    join(&*store, "h1").await;
    change(&*store, 451).await;
    let mut removed = vec![];
    for _ in 0..3 {
        removed.push(store.prune(at(1_000), 500).await.unwrap().events);
    }
    assert_eq!(removed, [0, 1, 0], "a bounded part in each call");
    let done: Vec<_> = rows(&*store, "h1", Rows::Pending).await;
    let positions = done.iter().map(|row| row.event.position).collect();
    let settlement = Settlement {
        done: positions,
        parked: vec![],
    };
    assert_eq!(store.settle("h1", &settlement).await.unwrap(), 450);
    let mut removed = 0;
    for _ in 0..4 {
        removed += store.prune(at(1_000), 500).await.unwrap().events;
    }
    assert_eq!(removed, 450);
}
