//! Orders between hosts: nobody gets one twice, and none is carried out late.

#![expect(private_bounds, reason = "the audit is kept by the stores of SQL")]

use super::audit::{HOST, by_hand, key, texts, verify};
use super::hosts::{MINUTE, join};
use super::{alice, capped, id, launch, project};
use crate::adapters::sql::{Base, SqlStore};
use crate::domain::event::{Actor, Unit};
use crate::domain::order::{Order, Outcome, Progress, Right, Verb};
use crate::domain::placed::Placing;
use crate::domain::spec::Setenv;
use crate::domain::{Error, ErrorKind, Timestamp};
use crate::ports::{Admitted, NewRunner, Orders, Store, StoreError};
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
        setenv: Vec::new(),
    }
}

pub(crate) async fn orders_are_taken_once_and_answered(store: Arc<impl Store + 'static>) {
    join(&*store, "h2", "boot", MINUTE).await;
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
    assert_eq!(store.outcome(first).await.unwrap(), Progress::Waits);
    let refused = Outcome::of(Err(Error::new(ErrorKind::WrongState, "It has ended.")));
    store.answer(first, refused.clone()).await.unwrap();
    store.answer(first, Outcome::Done(vec![])).await.unwrap();
    assert_eq!(
        store.outcome(first).await.unwrap(),
        Progress::Over(refused),
        "the first answer stays"
    );
}

/// By the store's clock: that of a host that asks, which its ids are made of, may be wrong.
pub(crate) async fn orders_are_taken_as_they_were_asked(store: Arc<impl Store + 'static>) {
    join(&*store, "h2", "boot", MINUTE).await;
    for n in [3, 1, 2] {
        store.order(order(n, "h2")).await.unwrap();
    }
    let taken = store.take_orders("h2").await.unwrap();
    let ids: Vec<String> = taken.into_iter().map(|o| o.id).collect();
    assert_eq!(ids, [3, 1, 2].map(|n| id(n).to_string()));
}

pub(crate) async fn an_order_nobody_takes_is_withdrawn(store: Arc<impl Store + 'static>) {
    store.order(order(1, "h2")).await.unwrap();
    let id = id(1).to_string();
    let outcome = loop {
        if let Progress::Over(outcome) = store.outcome(&id).await.unwrap() {
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
    let Progress::Over(outcome) = store.outcome(&id).await.unwrap() else {
        panic!("it is over");
    };
    assert!(outcome.into_result().is_err());
}

/// Whoever finds it out writes it down, once; and who asked, from which unit, whichever host that is.
pub(crate) async fn one_that_expires_is_in_the_audit<B: Base>(store: Arc<SqlStore<B>>) {
    let store = &*store;
    store.keep_audit(HOST.to_owned(), vec![key(0)]);
    join(store, "h2", "boot", MINUTE).await;
    let asked = |n| {
        let mut order = order(n, "h2");
        order.actor.unit = Some(Unit {
            name: format!("unit-{n}.service"),
            sure: n > 1,
        });
        order
    };
    for n in 1..5 {
        store.order(asked(n)).await.unwrap();
    }
    // As a row of an earlier release has it.
    let row = |set: &str, n| format!("UPDATE orders SET {set} WHERE id = '{}'", id(n));
    let old = "actor = '{\"uid\":7,\"user\":\"bob\",\"from\":1}', expires_at = 1";
    for sql in [
        row("expires_at = 1", 1),
        row(old, 2),
        row("taken_at = 1, asked_at = 1", 3),
    ] {
        by_hand(store, &sql).await;
    }
    // By the one who asked, by the one who was asked, and by anybody after a day.
    assert!(matches!(
        store.outcome(&id(1).to_string()).await.unwrap(),
        Progress::Over(_)
    ));
    let taken = store.take_orders("h2").await.unwrap();
    assert_eq!(
        taken.iter().map(|o| o.id.clone()).collect::<Vec<_>>(),
        [id(4).to_string()]
    );
    assert_eq!(taken[0].actor, asked(4).actor, "with its unit");
    store.order(order(5, "h3")).await.unwrap();
    // Nobody writes it down again.
    store.outcome(&id(1).to_string()).await.unwrap();
    store.outcome(&id(2).to_string()).await.unwrap();
    assert!(store.take_orders("h2").await.unwrap().is_empty());
    store.order(order(6, "h3")).await.unwrap();

    let told = texts(store).await;
    let told: Vec<_> = told
        .iter()
        .filter(|t| t["kind"] == "order.expired")
        .collect();
    let short: Vec<_> = told
        .iter()
        .map(|t| {
            let (data, actor) = (&t["data"], &t["actor"]);
            let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
            assert_eq!(
                (&t["result"], &data["verb"]),
                (&"expired".into(), &"stop".into())
            );
            assert_eq!(
                (text(&data["from"]), text(&data["to"])),
                ("h1".into(), "h2".into())
            );
            (
                text(&data["why"]),
                text(&actor["user"]),
                text(&actor["unit"]),
                text(&actor["unit_by_pid"]),
            )
        })
        .collect();
    let row = |why: &str, user: &str, sure: &str, by_pid: &str| {
        (
            why.to_owned(),
            user.to_owned(),
            sure.to_owned(),
            by_pid.to_owned(),
        )
    };
    assert_eq!(
        short,
        [
            row("not taken in time", "alice", "", "unit-1.service"),
            row("not taken in time", "bob", "", ""),
            row(
                "what came of it was not told within a day",
                "alice",
                "unit-3.service",
                ""
            ),
        ]
    );
    assert!(verify(store, &[]).await.is_whole());
}

/// A launch asked for on h1, of the `n`th runner on h2.
pub(crate) fn placed(n: u64) -> Order {
    let new = launch(n, "p");
    let placing = Placing {
        spec: new.spec,
        queue: false,
        request: None,
    };
    Order {
        runner: id(n),
        verb: Verb::Launch(Box::new(placing)),
        setenv: vec![Setenv {
            name: "KEY".to_owned(),
            value: "secret".to_owned(),
        }],
        ..order(n, "h2")
    }
}

/// There are only so many at a time, and one user can't take all places, however many hosts they ask on.
pub(crate) async fn nobody_takes_all_places(store: Arc<impl Store + 'static>) {
    join(&*store, "h2", "boot", MINUTE).await;
    // From whichever host and unit: it is one user.
    let of = |user: u32, n: u32| {
        let mut order = placed(u64::from(user * 100 + n));
        order.from = format!("h{}", 3 + n % 4);
        order.actor = Actor {
            uid: Some(1000 + n % 4),
            user: Some(format!("user{user}")),
            host: Some(order.from.clone()),
            unit: match n % 3 {
                0 => None,
                rest => Some(Unit {
                    name: format!("session-{n}.scope"),
                    sure: rest > 1,
                }),
            },
        };
        order
    };
    let full = async |order, words: &str| {
        let full = store.order(order).await;
        assert!(
            matches!(&full, Err(StoreError::Refused(e)) if e.message.contains(words)),
            "{full:?}"
        );
    };
    for user in 1..5 {
        for n in 0..16 {
            store.order(of(user, n)).await.unwrap();
        }
        for n in 16..20 {
            full(of(user, n), "has 16 launches waiting already that you asked for; 16 is the most of one user, on whichever hosts they ask; launch again in a second").await;
        }
    }
    full(
        of(5, 0),
        "has 64 launches waiting already, as many as may wait; launch again in a second",
    )
    .await;
    // Another host has places of its own, and other orders have theirs.
    let elsewhere = Order {
        target: "h9".to_owned(),
        ..of(1, 30)
    };
    store.order(elsewhere).await.unwrap();
    store.order(order(1, "h2")).await.unwrap();
    // What was taken waits no more.
    assert_eq!(store.take_orders("h2").await.unwrap().len(), 64);
    store.order(of(1, 17)).await.unwrap();
}

/// As its host admits it.
fn admitted(n: u64) -> NewRunner {
    NewRunner {
        host: "h2".to_owned(),
        order: Some(id(n).to_string()),
        ..launch(n, "p")
    }
}

pub(crate) async fn a_launch_is_begun_once(store: Arc<impl Store + 'static>) {
    join(&*store, "h2", "boot", MINUTE).await;
    project(&*store, "p", capped(2)).await;
    for n in 0..3 {
        store.order(placed(n)).await.unwrap();
    }
    let early = store.admit(admitted(7)).await;
    assert!(
        matches!(&early, Err(StoreError::Refused(e)) if e.kind == ErrorKind::HostUnavailable),
        "an order that nobody gave: {early:?}"
    );
    let taken = store.take_orders("h2").await.unwrap();
    let made = Order {
        expires_at: taken[0].expires_at,
        ..placed(0)
    };
    assert_eq!(taken[0], made, "with its environment");
    assert!(store.take_orders("h2").await.unwrap().is_empty());
    let first = id(0).to_string();
    assert_eq!(store.outcome(&first).await.unwrap(), Progress::Waits);

    // Whoever tries to begin it at the same time: there is one runner.
    let beginning = (0..8).map(|_| store.admit(admitted(0)));
    let begun = futures_util::future::join_all(beginning).await;
    let new = begun
        .iter()
        .filter(|a| matches!(a, Ok(Admitted::New { .. })));
    assert_eq!(new.count(), 1, "{begun:?}");
    let refused = begun
        .iter()
        .filter(|a| matches!(a, Err(StoreError::Refused(_))));
    assert_eq!(refused.count(), 7, "{begun:?}");
    assert_eq!(store.outcome(&first).await.unwrap(), Progress::Begun);
    store
        .answer(&first, Outcome::Launched(id(0)))
        .await
        .unwrap();
    let told = Progress::Over(Outcome::Launched(id(0)));
    assert_eq!(store.outcome(&first).await.unwrap(), told);

    // One that a gate refuses is not begun, and may be refused again.
    store.admit(launch(9, "p")).await.unwrap();
    for _ in 0..2 {
        let denied = store.admit(admitted(1)).await.unwrap();
        assert!(matches!(denied, Admitted::Denied { .. }), "{denied:?}");
    }
    let second = id(1).to_string();
    assert_eq!(store.outcome(&second).await.unwrap(), Progress::Waits);
    // One that may wait has begun, too.
    let waits = NewRunner {
        queue: true,
        ..admitted(2)
    };
    let queued = store.admit(waits).await.unwrap();
    assert!(matches!(queued, Admitted::Queued { .. }), "{queued:?}");
    assert_eq!(
        store.outcome(&id(2).to_string()).await.unwrap(),
        Progress::Begun
    );
    // What is answered is closed.
    let no = Outcome::of(Err(Error::new(ErrorKind::QuotaExceeded, "Full.")));
    store.answer(&second, no).await.unwrap();
    assert!(store.admit(admitted(1)).await.is_err());
    assert!(store.runner(id(1)).await.unwrap().is_none());
}

pub(crate) async fn a_launch_that_was_taken_and_not_begun(store: Arc<impl Store + 'static>) {
    join(&*store, "h2", "boot", MINUTE).await;
    project(&*store, "p", capped(1)).await;
    store.order(placed(1)).await.unwrap();
    assert_eq!(store.take_orders("h2").await.unwrap().len(), 1);
    let id = id(1);
    let error = loop {
        match store.outcome(&id.to_string()).await.unwrap() {
            Progress::Over(outcome) => break outcome.into_runner().unwrap_err(),
            progress => assert_eq!(progress, Progress::Waits),
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    };
    assert_eq!(error.kind, ErrorKind::HostUnavailable);
    assert!(
        error.message.contains("nothing runs and nothing will"),
        "{error}"
    );
    // Its host comes to it now.
    let late = store.admit(admitted(1)).await;
    assert!(
        matches!(&late, Err(StoreError::Refused(e)) if e.message.contains("too late")),
        "{late:?}"
    );
    assert!(store.runner(id).await.unwrap().is_none());
    assert!(matches!(
        store.admit(launch(2, "p")).await.unwrap(),
        Admitted::New { .. }
    ));
}
