//! Orders between hosts: nobody gets one twice, and none is carried out late.

use super::{alice, id};
use crate::domain::order::{Order, Outcome, Right, Verb};
use crate::domain::{Error, ErrorKind, Timestamp};
use crate::ports::Store;
use std::collections::BTreeSet;
use std::sync::Arc;

fn order(n: u64, target: &str) -> Order {
    Order {
        id: id(n).to_string(),
        target: target.to_owned(),
        runner: id(900 + n),
        verb: Verb::Stop,
        actor: alice(),
        right: Right::Own,
        from: "h1".to_owned(),
        expires_at: Timestamp(0),
    }
}

pub(crate) async fn orders_are_taken_once_and_answered(store: Arc<impl Store + 'static>) {
    for n in 0..20 {
        store.order(order(n, "h2")).await.unwrap();
    }
    store.order(order(50, "h3")).await.unwrap();
    let taking = (0..8).map(|_| store.take_orders("h2"));
    let taken: Vec<Order> = futures_util::future::join_all(taking)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();
    let ids: BTreeSet<_> = taken.iter().map(|o| o.id.clone()).collect();
    assert_eq!((taken.len(), ids.len()), (20, 20), "each once");
    assert!(taken[0].expires_at.0 > 0);
    let first = &taken[0].id;
    let made = Order {
        expires_at: taken[0].expires_at,
        ..order(0, "h2")
    };
    assert!(taken.contains(&made), "as it was put down");
    assert_eq!(store.outcome(first).await.unwrap(), None);
    let refused = Outcome::of(Err(Error::new(ErrorKind::WrongState, "It has ended.")));
    store.answer(first, refused.clone()).await.unwrap();
    store.answer(first, Outcome::Done(vec![])).await.unwrap();
    assert_eq!(
        store.outcome(first).await.unwrap(),
        Some(refused),
        "the first answer stays"
    );
}

pub(crate) async fn an_order_nobody_takes_is_withdrawn(store: Arc<impl Store + 'static>) {
    store.order(order(1, "h2")).await.unwrap();
    let id = id(1).to_string();
    let outcome = loop {
        if let Some(outcome) = store.outcome(&id).await.unwrap() {
            break outcome;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    let error = outcome.into_result().unwrap_err();
    assert_eq!(error.kind, ErrorKind::HostUnavailable);
    assert!(error.message.contains("withdrawn"), "{error}");
    assert!(
        store.take_orders("h2").await.unwrap().is_empty(),
        "never late"
    );
    store.answer(&id, Outcome::Done(vec![])).await.unwrap();
    assert!(
        store
            .outcome(&id)
            .await
            .unwrap()
            .unwrap()
            .into_result()
            .is_err()
    );
}
