//! Two daemons decide at the same moment about what only one of them may have: each lock, row and rule
//! that puts decisions in order is here the only one that can.
//!
//! Chance does not have to bring them together. Both are held up where they write runners; by then
//! whoever was not made to wait for the other has decided, and did not see the other's decision.

use super::conformance::hosts::{MINUTE, join};
use super::conformance::orders::placed;
use super::conformance::{alice, capped, launch, project};
use super::storm::{two, two_with};
use super::*;
use crate::domain::budget::{Budget, Counts, OnExhausted, Scope};
use crate::domain::period::Period;
use crate::domain::{ErrorKind, Timestamp};
use crate::ports::{Admitted, Hosts, NewRunner, Orders, Policies, RequestKey};
use std::collections::BTreeSet;

const ISOLATIONS: [&str; 3] = ["read committed", "repeatable read", "serializable"];

async fn link(store: &PostgresStore) -> Link {
    let latest = connect::Latest::default();
    let session = connect::connect(&store.base.options, &latest).await;
    session.map(Link::Postgres).unwrap()
}

/// How many wait for somebody else.
async fn waiting(eye: &mut Link) -> u64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eye.one(sql, vec![]).await.unwrap().count(0).unwrap()
}

async fn wait_for(eye: &mut Link, who: u64) {
    let begun = std::time::Instant::now();
    while waiting(eye).await < who {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody waits");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Who is connected.
async fn connected(eye: &mut Link) -> BTreeSet<i64> {
    let sql = "SELECT CAST(pid AS BIGINT) FROM pg_stat_activity WHERE datname = current_database()";
    let rows = eye.rows(sql, vec![]).await.unwrap();
    rows.iter().map(|row| row.int(0).unwrap()).collect()
}

/// What each daemon is told, when both ask at once. It is told by the transaction that decided: none was lost, as
/// are those that find out when they write, and with them whatever else was in them.
async fn at_once(
    stores: &[Arc<PostgresStore>; 2],
    news: [NewRunner; 2],
) -> [Result<Admitted, StoreError>; 2] {
    // Reading goes on.
    let hold = "LOCK TABLE runners IN SHARE MODE";
    let asks = async |store: Arc<PostgresStore>, new| store.admit(new).await;
    both(stores, hold, news, 2, asks).await
}

/// What each of both comes to, held up by what somebody else does until so many of them wait.
pub(super) async fn both<Q, T, F>(
    stores: &[Arc<PostgresStore>; 2],
    hold: &str,
    [a, b]: [Q; 2],
    waits: u64,
    ask: impl Fn(Arc<PostgresStore>, Q) -> F,
) -> [T; 2]
where
    T: std::fmt::Debug + Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (mut gate, mut eye) = (link(&stores[0]).await, link(&stores[0]).await);
    gate.say("BEGIN ISOLATION LEVEL READ COMMITTED")
        .await
        .unwrap();
    gate.say_text(hold.to_owned()).await.unwrap();
    let before = connected(&mut eye).await;
    let a = tokio::spawn(ask(Arc::clone(&stores[0]), a));
    // The first one has begun when the second one does.
    wait_for(&mut eye, waits - 1).await;
    let b = tokio::spawn(ask(Arc::clone(&stores[1]), b));
    wait_for(&mut eye, waits).await;
    gate.say("ROLLBACK").await.unwrap();
    let told = [a.await.unwrap(), b.await.unwrap()];
    let after = connected(&mut eye).await;
    assert!(before.is_subset(&after), "a connection was lost: {told:?}");
    told
}

/// One user asks for the last of their places on a host, on two hosts.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_place_for_two_launches_of_a_user() {
    for isolation in ISOLATIONS {
        let stores = two_with(isolation).await;
        let of = |n: u64, from: &str| {
            let mut order = placed(n);
            order.from = from.to_owned();
            order.actor.host = Some(from.to_owned());
            order
        };
        join(&*stores[1], "h2", "boot", MINUTE).await;
        for n in 0..15 {
            stores[0].order(of(n, "h0")).await.unwrap();
        }
        let asked = [of(20, "h0"), of(21, "h1")];
        // Each has counted when it writes, and waits there for who may have the same id.
        let [a, b] = [&asked[0].id, &asked[1].id];
        let hold = format!(
            "INSERT INTO orders (id, target, runner, verb, actor, by_right, asked_by, asked_at, expires_at)
             SELECT clash.id, target, runner, verb, actor, by_right, asked_by, asked_at, expires_at
               FROM (SELECT target, runner, verb, actor, by_right, asked_by, asked_at, expires_at FROM orders LIMIT 1) one, unnest(ARRAY['{a}', '{b}']) AS clash (id)"
        );
        let told = both(&stores, &hold, asked, 2, |store, order| async move {
            store.order(order).await
        })
        .await;
        let refused = told.iter().filter_map(|told| told.as_ref().err());
        let refused: Vec<String> = refused.map(ToString::to_string).collect();
        assert_eq!(refused.len(), 1, "{told:?}");
        assert!(
            refused[0].contains("16 is the most of one user"),
            "{refused:?}"
        );
        assert_eq!(stores[1].take_orders("h2").await.unwrap().len(), 16);
    }
}

/// One of both has it, and the other is told in words which limit keeps it from that.
fn one_has_it(what: &str, told: [Result<Admitted, StoreError>; 2]) {
    let mut refused = Vec::new();
    for told in told {
        match told {
            Ok(Admitted::New { .. }) => {}
            Ok(Admitted::Denied { error, .. }) | Err(StoreError::Refused(error)) => {
                refused.push(error.kind);
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    let kind = match what {
        "budget" => ErrorKind::BudgetExceeded,
        "session" => ErrorKind::Conflict,
        _ => ErrorKind::QuotaExceeded,
    };
    assert_eq!(refused, [kind], "{what}");
}

/// A launch of each daemon, in its own project, on its own host.
fn each(n: u64) -> [NewRunner; 2] {
    [0, 1].map(|daemon| {
        let mut new = launch(n + daemon, ["p", "q"][daemon as usize]);
        new.host = format!("h{daemon}");
        new
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_place_for_two() {
    for isolation in ISOLATIONS {
        let stores = two_with(isolation).await;
        project(&*stores[0], "p", capped(4)).await;
        for project_of in ["q", "r"] {
            project(&*stores[0], project_of, ProjectSettings::default()).await;
        }

        let mut news = each(10);
        news.iter_mut().for_each(|new| {
            new.host = "h".to_owned();
            new.host_max = Some(1);
        });
        one_has_it("host", at_once(&stores, news).await);

        let mut news = each(20);
        news.iter_mut()
            .for_each(|new| new.spec.session = Some("s".to_owned()));
        one_has_it("session", at_once(&stores, news).await);

        // One more each time.
        let (mut p, mut live) = (0, 2);
        for runner in [10, 11, 20, 21] {
            let row = stores[0].runner(launch(runner, "p").id).await.unwrap();
            p += u32::from(row.is_some_and(|r| r.spec.project.as_str() == "p"));
        }
        while p < 3 {
            p += 1;
            live += 1;
            stores[0]
                .admit(launch(u64::from(29 + p), "p"))
                .await
                .unwrap();
        }
        let mut news = each(40);
        news[1].spec.project = news[0].spec.project.clone();
        one_has_it("project", at_once(&stores, news).await);

        stores[0]
            .set_fleet_max(Some(live + 2), alice())
            .await
            .unwrap();
        let mut news = each(50);
        news[0].spec.project = "r".parse().unwrap();
        one_has_it("fleet", at_once(&stores, news).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_budget_for_two() {
    let stores = two().await;
    for project_of in ["p", "q"] {
        project(&*stores[0], project_of, ProjectSettings::default()).await;
    }
    let budget = Budget {
        scope: Scope::Fleet,
        period: Period::None,
        limit: 100,
        timezone: "UTC".to_owned(),
        on_exhausted: OnExhausted::Deny,
        counts: Counts::default(),
        created_at: Timestamp(1),
    };
    stores[0].set_budget(budget, alice()).await.unwrap();
    let mut news = each(10);
    news.iter_mut().for_each(|new| new.spec.tokens = Some(60));
    one_has_it("budget", at_once(&stores, news).await);
    let state = &stores[0].budgets().await.unwrap()[0];
    assert_eq!((state.used, state.reserved), (0, 60));
}

/// Those who come at the same time and wait are not more than may wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_place_in_the_queue_for_two() {
    let stores = two().await;
    let settings = ProjectSettings {
        max_queued: Some(1),
        ..capped(0)
    };
    project(&*stores[0], "p", settings).await;
    let mut news = each(10);
    for new in &mut news {
        new.spec.project = "p".parse().unwrap();
        new.queue = true;
    }
    let told = at_once(&stores, news).await;
    let queued = |told: &&Result<Admitted, StoreError>| matches!(told, Ok(Admitted::Queued { .. }));
    assert_eq!(told.iter().filter(queued).count(), 1, "{told:?}");
    let full = |told: &&Result<Admitted, StoreError>| matches!(told, Ok(Admitted::Denied { error, .. }) if error.kind == ErrorKind::QueueFull);
    assert_eq!(told.iter().filter(full).count(), 1, "{told:?}");
}

/// The event of a launch that its project has no place for.
async fn refused_at(store: &PostgresStore, n: u64) -> u64 {
    match store.admit(launch(n, "r")).await.unwrap() {
        Admitted::Denied { event, .. } => event.position,
        other => panic!("{other:?}"),
    }
}

/// How many wait for the fleet's cap, and how many have written runners.
async fn waits_and_writes(eye: &mut Link) -> (u64, u64) {
    let sql = "SELECT count(*) FILTER (WHERE NOT granted AND locktype = 'advisory' AND classid = 723104),
                      count(*) FILTER (WHERE mode = 'RowExclusiveLock' AND relation = 'runners'::REGCLASS)
                 FROM pg_locks WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let held = eye.one(sql, vec![]).await.unwrap();
    (held.count(0).unwrap(), held.count(1).unwrap())
}

/// Who writes rows that another project's launch may want to write, too, takes the cap's lock before them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_two_may_write_is_written_under_the_cap() {
    let [store, _] = two().await;
    project(&*store, "p", ProjectSettings::default()).await;
    store.set_fleet_max(Some(1_000), alice()).await.unwrap();
    let (mut gate, mut eye) = (link(&store).await, link(&store).await);
    let mut of_session = launch(1, "p");
    of_session.spec.session = Some("s".to_owned());
    let mut repeatable = launch(2, "p");
    repeatable.request = Some(RequestKey {
        uid: 1000,
        id: "nightly".to_owned(),
        digest: "d".to_owned(),
    });
    for new in [of_session, repeatable] {
        gate.say("BEGIN; SELECT pg_advisory_xact_lock(723104, 0)")
            .await
            .unwrap();
        let asking = Arc::clone(&store);
        let asked = tokio::spawn(async move { asking.admit(new).await });
        wait_for(&mut eye, 1).await;
        assert_eq!(waits_and_writes(&mut eye).await, (1, 0));
        gate.say("COMMIT").await.unwrap();
        let told = asked.await.unwrap().unwrap();
        assert!(matches!(told, Admitted::New { .. }), "{told:?}");
    }
}

/// With plenty of room the cap is looked at last. What others have taken meanwhile is not given twice: all is
/// undone and decided again, and who finds no slot is told the limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_fleets_last_slots_are_taken_while_somebody_writes() {
    for isolation in ISOLATIONS {
        let stores = two_with(isolation).await;
        for project_of in ["p", "q"] {
            project(&*stores[0], project_of, ProjectSettings::default()).await;
        }
        stores[0].set_fleet_max(Some(1_000), alice()).await.unwrap();
        project(&*stores[0], "r", capped(0)).await;
        let refused = refused_at(&stores[0], 90).await;
        let (mut gate, mut eye) = (link(&stores[0]).await, link(&stores[0]).await);
        gate.say("BEGIN; SELECT pg_advisory_xact_lock(723104, 0)")
            .await
            .unwrap();
        let [first, second] = each(10);
        let store = Arc::clone(&stores[0]);
        let asked = tokio::spawn(async move { store.admit(first).await });
        wait_for(&mut eye, 1).await;
        // It waits for the cap alone, and has written all by then.
        assert_eq!(waits_and_writes(&mut eye).await, (1, 1));
        gate.say("UPDATE fleet SET max_runners = 1; UPDATE projects SET live = live + 1 WHERE name = 'q'; COMMIT")
            .await
            .unwrap();
        match asked.await.unwrap().unwrap() {
            Admitted::Denied { gate, error, .. } => {
                assert_eq!(error.kind, ErrorKind::QuotaExceeded);
                assert_eq!((gate.limit, gate.used), (Some(1), 1), "{gate:?}");
            }
            other => panic!("{isolation}: {other:?}"),
        }
        assert_eq!(
            stores[0].runners(Default::default()).await.unwrap().len(),
            0
        );
        // What was undone left nothing behind that is in the way, and took nothing with it: the denial stands for those of
        // its second.
        assert_eq!(refused_at(&stores[0], 91).await, refused);
        eye.say("UPDATE projects SET live = 0; UPDATE fleet SET max_runners = 1000")
            .await
            .unwrap();
        for (store, new) in stores.iter().zip([each(10)[0].clone(), second]) {
            let told = store.admit(new).await.unwrap();
            assert!(matches!(told, Admitted::New { .. }), "{told:?}");
        }
    }
}
