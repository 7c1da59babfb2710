//! A host that is up and can launch nothing.

use super::queue::{denied, patient, turns, wait};
use super::*;
use crate::domain::hold::Hold;
use crate::domain::host::{Load, Registration};
use crate::ports::Beat;
use std::sync::Arc;

/// It renews its lease, but its agent is away: whoever waits there gives way to those elsewhere.
pub(crate) async fn it_holds_up_nobody(store: Arc<impl Store + 'static>) {
    let about = |host: &str| Registration {
        host: host.to_owned(),
        name: host.to_owned(),
        boot_id: host.to_owned(),
        labels: BTreeMap::new(),
        max_runners: None,
        version: String::new(),
        advertise: String::new(),
    };
    let beat = |away: bool| Beat {
        ttl: 60_000_000,
        fenced_after: None,
        load: Load {
            away,
            ..Load::default()
        },
    };
    store.join(about("h1"), beat(false)).await.unwrap();
    project(&*store, "p", capped(1)).await;
    admit(&*store, launch(1, "p")).await;
    let mut first = patient(2, "p");
    first.host = "h2".to_owned();
    let (h2, _) = store.join(about("h2"), beat(false)).await.unwrap();
    wait(&*store, first).await;
    wait(&*store, patient(3, "p")).await;
    apply(&*store, step(1, end(), 9_000)).await;
    assert_eq!(turns(&*store).await, [], "it is the other host's turn");
    let mut late = patient(4, "p");
    late.queue = false;
    assert_eq!(denied(&*store, late.clone()).await.0, "queue");
    store.renew(&h2, beat(true)).await.unwrap();
    assert_eq!(turns(&*store).await, [id(3)]);
    apply(&*store, step(3, end(), 10_000)).await;
    admit(&*store, late).await;
    apply(&*store, step(4, end(), 11_000)).await;
    // Its own turn is its own matter, and it has its place again as soon as it can launch.
    wait_for_a_hold(&*store, patient(5, "p")).await;
    store.renew(&h2, beat(false)).await.unwrap();
    assert_eq!(
        turns(&*store).await,
        [],
        "it is the other host's turn again"
    );
    let given = store.turns("h2", None).await.unwrap();
    assert!(
        matches!(&given[..], [Admitted::New { runner, .. }] if runner.id == id(2)),
        "{given:?}"
    );
}

/// It waits, though nothing is in the way any more.
async fn wait_for_a_hold(store: &impl Store, new: NewRunner) {
    let hold = Hold {
        scope: "fleet".parse().unwrap(),
        until: None,
        freeze: false,
        reason: String::new(),
        actor: alice(),
        set_at: at(12_000),
    };
    store.set_hold(hold.clone()).await.unwrap();
    wait(store, new).await;
    store
        .release_hold(hold.scope, alice(), at(13_000))
        .await
        .unwrap();
}
