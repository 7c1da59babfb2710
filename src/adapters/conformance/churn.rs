//! A long time in a short one: runners come, end, are published and forgotten.

use super::*;
use crate::domain::host::{Load, Registration};
use crate::domain::relay::Settlement;
use crate::ports::{Beat, Outbox, Rows};

/// Lives that are going on at a time.
pub(crate) const AT_ONCE: u64 = 100;
/// Lives that are kept.
pub(crate) const KEPT: u64 = 2_000;
const HOUR: u64 = 3_600_000_000;

/// One host, whose events are published.
pub(crate) async fn begin(store: &(impl Store + Outbox)) {
    store.publish(true);
    let about = Registration {
        host: "h1".to_owned(),
        name: "h1".to_owned(),
        boot_id: "b".to_owned(),
        labels: BTreeMap::new(),
        max_runners: None,
        version: "1".to_owned(),
        advertise: String::new(),
    };
    let beat = Beat {
        ttl: HOUR,
        fenced_after: None,
        load: Load::default(),
    };
    store.join(about, beat).await.unwrap();
    project(store, "p", capped(AT_ONCE as u32)).await;
}

async fn one(store: &impl Store, n: u64) {
    let mut new = requested(launch(n, "p"), 1000, &n.to_string(), "d");
    let batch = (n % 7).to_string();
    new.spec.labels.insert("batch".to_owned(), batch);
    admit(store, new).await;
    let run = step(n, Step::Run(placement()), n * 1_000 + 1);
    store.apply(run).await.unwrap();
    let end = step(n, end(), n * 1_000 + 2);
    store.apply(end).await.unwrap();
}

/// The next lives from this one on; what is due is published, and what is older than is kept is removed.
pub(crate) async fn lives(store: &(impl Store + Outbox), from: u64) {
    let all = (from..from + AT_ONCE).map(|n| one(store, n));
    futures_util::future::join_all(all).await;
    loop {
        let page = store.page("h1", Rows::Pending, 0, 500).await.unwrap().rows;
        if page.is_empty() {
            break;
        }
        let settlement = Settlement {
            done: page.iter().map(|row| row.event.position).collect(),
            parked: vec![],
        };
        let settled = store.settle("h1", &settlement).await.unwrap();
        assert_eq!(settled as usize, page.len());
    }
    let before = at((from + AT_ONCE).saturating_sub(KEPT) * 1_000);
    while store.prune(before, 500).await.unwrap() != crate::ports::Pruned::default() {}
}

/// So many figures in turn: what half of the way has cost is what the whole way costs.
pub(crate) fn assert_flat(what: &str, seen: &[u64], slack: impl Fn(u64) -> u64) {
    let half = seen[..=seen.len() / 2].iter().max().unwrap();
    assert!(
        *seen.last().unwrap() < slack(*half),
        "{what} grows: {seen:?}"
    );
}
