//! Two machines with one machine-id: a host was copied, and its copy asks for what is the host's.

use super::conformance::hosts::{MINUTE, about, beat, join};
use super::conformance::orders::placed;
use super::conformance::{capped, id, launch, project, refused};
use super::decisions::both;
use super::storm::two;
use super::*;
use crate::domain::ErrorKind;
use crate::domain::order::{Order, Progress};
use crate::ports::{Admitted, Hosts, NewRunner, Orders};

const ORDERS: u64 = 12;

/// Everything waits that changes an order.
const HOLD: &str = "LOCK TABLE orders IN SHARE MODE";

/// Orders for `h2`, from another host.
async fn asked(asker: &PostgresStore, from: u64) {
    for n in from..from + ORDERS {
        asker.order(placed(n)).await.unwrap();
    }
}

async fn asker(of: &PostgresStore) -> PostgresStore {
    let store = PostgresStore::open(of.base.options.clone(), 3).await;
    let store = store.unwrap();
    join(&store, "h1", "asker", MINUTE).await;
    store
}

/// The launch of an order, as its host admits it.
fn admitted(n: u64) -> NewRunner {
    NewRunner {
        host: "h2".to_owned(),
        order: Some(id(n).to_string()),
        ..launch(n, "p")
    }
}

/// While the original lives its clone is not let in, and takes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_clone_that_is_not_let_in_takes_nothing() {
    let [original, clone] = two().await;
    let asker = asker(&original).await;
    join(&*original, "h2", "one", MINUTE).await;
    let error = clone.join(about("h2", "two"), beat(MINUTE, None)).await;
    let said = refused(error, ErrorKind::Conflict);
    assert!(said.contains("same machine-id"), "{said}");
    asked(&asker, 0).await;
    let theirs = clone.take_orders("h2").await;
    assert!(matches!(theirs, Err(StoreError::Fenced)), "{theirs:?}");
    let ours = original.take_orders("h2").await;
    assert_eq!(ours.unwrap().len(), ORDERS as usize);
}

/// The original was asleep for longer than its lease, and both go on at the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_machines_with_one_id_carry_out_each_order_once() {
    let stores = two().await;
    let [original, clone] = &stores;
    let asker = asker(original).await;
    project(&asker, "p", capped(100)).await;
    join(&**original, "h2", "one", 0).await;
    asked(&asker, 0).await;
    // It takes what there is while the clone joins: whoever is first, each order has one taker.
    let raced = both(&stores, HOLD, [false, true], 2, |store, joins| async move {
        match joins {
            true => {
                let joined = store.join(about("h2", "two"), beat(MINUTE, None)).await;
                joined.map(|_| Vec::new())
            }
            false => store.take_orders("h2").await,
        }
    })
    .await;
    let [taken, joined] = raced;
    joined.unwrap();
    let ours: Vec<Order> = taken.unwrap();
    assert_eq!(ours.len(), ORDERS as usize);
    assert!(clone.take_orders("h2").await.unwrap().is_empty());
    // What it has taken it does not begin any more.
    for n in 0..ORDERS {
        let begun = original.admit(admitted(n)).await;
        assert!(matches!(begun, Err(StoreError::Fenced)), "{begun:?}");
        let progress = asker.outcome(&id(n).to_string()).await.unwrap();
        assert_eq!(progress, Progress::Waits);
        assert!(asker.runner(id(n)).await.unwrap().is_none());
    }

    // From now on the orders are the clone's, which has the epoch, and the original is told why.
    asked(&asker, 100).await;
    let taken = both(&stores, HOLD, ["h2", "h2"], 1, |store, host| async move {
        store.take_orders(host).await
    })
    .await;
    let [ours, theirs] = taken;
    assert!(matches!(ours, Err(StoreError::Fenced)), "{ours:?}");
    assert_eq!(theirs.unwrap().len(), ORDERS as usize);
    for n in 100..100 + ORDERS {
        let begun = clone.admit(admitted(n)).await.unwrap();
        assert!(matches!(begun, Admitted::New { .. }), "{begun:?}");
        assert!(original.admit(admitted(n)).await.is_err());
        let progress = asker.outcome(&id(n).to_string()).await.unwrap();
        assert_eq!(progress, Progress::Begun);
    }
    let again = original.join(about("h2", "one"), beat(MINUTE, None)).await;
    let said = refused(again, ErrorKind::Conflict);
    assert!(
        said.contains("same machine-id") && said.contains("systemd-machine-id-setup"),
        "{said}"
    );
}
