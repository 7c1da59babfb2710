//! Rows that nobody can read: of a later release, or damaged. They cost those alone whom they are about.

use super::*;
use crate::domain::State;
use crate::domain::budget::{Budget, Counts, OnExhausted, Tokens};
use crate::domain::event::EventType;
use crate::domain::host::{Load, Registration};
use crate::domain::period::Period;
use crate::ports::{Beat, Outbox, Rows};
use std::sync::Arc;

fn patient(n: u64, project: &str) -> NewRunner {
    NewRunner {
        queue: true,
        ..launch(n, project)
    }
}

fn paying(mut new: NewRunner) -> NewRunner {
    new.spec.tokens = Some(10);
    new
}

async fn budget(store: &impl Store) {
    let budget = Budget {
        scope: "project:q".parse().unwrap(),
        period: Period::None,
        limit: 15,
        timezone: "UTC".to_owned(),
        on_exhausted: OnExhausted::Deny,
        counts: Counts::default(),
        created_at: at(0),
    };
    store.set_budget(budget, Actor::host()).await.unwrap();
}

async fn turns(store: &impl Store) -> Vec<RunnerId> {
    let given = store.turns("h1", None).await.unwrap();
    let id = |admitted| match admitted {
        Admitted::New { runner, .. } => runner.id,
        other => panic!("{other:?}"),
    };
    given.into_iter().map(id).collect()
}

/// `sql` changes the store behind its back.
pub(crate) async fn costs_only_those_it_is_about<S: Store + 'static>(
    store: Arc<S>,
    sql: impl AsyncFn(String),
) {
    let store = &*store;
    project(store, "p", capped(100)).await;
    project(store, "q", capped(1)).await;
    project(store, "r", capped(1)).await;
    budget(store).await;

    // A launch that fails leaves nothing: its session is free, and its tokens are there.
    sql("UPDATE projects SET limits = 'x' WHERE name = 'q'".to_owned()).await;
    let mut seated = paying(launch(1, "q"));
    seated.spec.session = Some("s".to_owned());
    unavailable(store.admit(seated).await);
    sql("UPDATE projects SET limits = '{}' WHERE name = 'q'".to_owned()).await;
    let mut seated = paying(launch(2, "q"));
    seated.spec.session = Some("s".to_owned());
    admit(store, seated).await;
    let [known] = &store.budgets().await.unwrap()[..] else {
        panic!("one budget")
    };
    assert_eq!(known.reserved, 10);

    // A budget: launches and turns of others go on, in the same transaction, and so does the ending of who paid.
    admit(store, launch(10, "r")).await;
    for new in [paying(patient(3, "q")), patient(11, "r")] {
        assert!(matches!(
            store.admit(new).await,
            Ok(Admitted::Queued { .. })
        ));
    }
    sql("UPDATE budgets SET counts = 'x' WHERE scope = 'project:q'".to_owned()).await;
    let launches = (20..30).map(|n| {
        let project = if n % 2 == 0 { "p" } else { "q" };
        store.admit(paying(launch(n, project)))
    });
    let launched = futures_util::future::join_all(launches).await;
    for (n, launched) in (20..30).zip(launched) {
        match n % 2 {
            0 => assert!(
                matches!(launched, Ok(Admitted::New { .. })),
                "{n}: {launched:?}"
            ),
            _ => drop(unavailable(launched)),
        }
    }
    let (paid, other) = tokio::join!(
        store.apply(step(2, end(), 5_000)),
        store.apply(step(10, end(), 5_000))
    );
    assert_eq!(paid.unwrap().runner.state(), State::Ended);
    other.unwrap();
    assert_eq!(turns(store).await, [id(11)], "of q nobody can tell");

    // One that waits and can't be read is passed over, whatever of it is damaged.
    for n in [12, 13, 14] {
        assert!(matches!(
            store.admit(patient(n, "r")).await,
            Ok(Admitted::Queued { .. })
        ));
    }
    sql(format!(
        "UPDATE runners SET spec = 'x' WHERE id = '{}'",
        id(12)
    ))
    .await;
    sql(format!(
        "UPDATE runners SET tokens = 'x' WHERE id = '{}'",
        id(13)
    ))
    .await;
    apply(store, step(11, end(), 6_000)).await;
    assert_eq!(turns(store).await, [id(14)]);
    let counted = store.report(
        id(14),
        Tokens {
            output: 1,
            ..Tokens::default()
        },
        at(7_000),
    );
    assert_eq!(counted.await.unwrap().runner.tokens.output, 1);
}

/// A host that is forgotten gives back what can be read, however much can't.
pub(crate) async fn what_a_lost_host_held_is_given_back<S: Store + 'static>(
    store: Arc<S>,
    sql: impl AsyncFn(String),
) {
    project(&*store, "p", ProjectSettings::default()).await;
    for (host, ttl) in [("gone", 0), ("h1", 60_000_000)] {
        let about = Registration {
            host: host.to_owned(),
            name: host.to_owned(),
            boot_id: host.to_owned(),
            labels: BTreeMap::new(),
            max_runners: None,
            version: String::new(),
            advertise: String::new(),
        };
        let beat = Beat {
            ttl,
            fenced_after: None,
            load: Load::default(),
        };
        store.join(about, beat).await.unwrap();
    }
    let launches = (1..=520).map(|n| {
        let mut new = launch(n, "p");
        new.host = "gone".to_owned();
        store.admit(new)
    });
    for launched in futures_util::future::join_all(launches).await {
        assert!(matches!(launched, Ok(Admitted::New { .. })));
    }
    sql(format!(
        "UPDATE runners SET spec = 'x' WHERE id <= '{}'",
        id(505)
    ))
    .await;
    let told = store.forget("gone", alice()).await.unwrap();
    let ended = told
        .iter()
        .filter(|e| e.draft.kind == EventType::RunnerEnded);
    assert_eq!(ended.count(), 15);
    assert_eq!(live(&*store, "p").await, 505);
    assert!(store.tidy(u64::MAX).await.unwrap().is_empty());
}

/// What can't be read of an event, or of two of them, leaves the rest of a page as it is; also a text that looks
/// like several rows.
pub(crate) async fn is_passed_over_by_the_relay<S: Store + Outbox>(
    store: Arc<S>,
    sql: impl AsyncFn(String),
    more: &[&str],
) {
    store.publish(true);
    super::hosts::join(&*store, "h1", "boot", super::hosts::MINUTE).await;
    for n in 0..20 {
        project(&*store, &format!("p{n:02}"), ProjectSettings::default()).await;
    }
    let page = async || store.page("h1", Rows::Pending, 0, 100).await.unwrap();
    let whole = page().await;
    let all = whole.rows.len();
    assert!(all >= 20 && whole.unreadable == 0, "{whole:?}");
    let damage = [
        "type = 'runner.flew'",
        "data = '{'",
        "data = ''",
        "actor = '[]'",
        "data = '{}\u{1f}{}'",
        "data = '\u{1e}'",
        "data = '{\u{1e}1\u{1f}2\u{1f}'",
    ];
    let damage: Vec<_> = damage.iter().chain(more).collect();
    for (n, damage) in damage.iter().enumerate() {
        sql(format!(
            "UPDATE events SET {damage} WHERE subject = 'project/p{n:02}'"
        ))
        .await;
        let found = page().await;
        assert_eq!(found.rows.len(), all - n - 1, "{damage}");
        assert!(found.unreadable > n, "{damage}");
        assert_eq!(found.last, whole.last, "{damage}");
        assert!(found.rows.is_sorted_by_key(|row| row.event.position));
    }
}
