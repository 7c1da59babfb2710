//! Several hosts at one database: who holds what another one needs, who is first, who keeps for how long.

use super::conformance::hosts::{MINUTE, join};
use super::conformance::{
    admit, alice, apply, at, end, id, launch, live, project, refused, requested, step, unavailable,
};
use super::outages::BOUND;
use super::schema::other_link;
use super::*;
use crate::adapters::sql::Work;
use crate::domain::ErrorKind;
use crate::domain::relay::Settlement;
use crate::ports::{Admitted, Hosts, Outbox, Pruned, Rows};
use futures_util::future::join_all;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Another host hangs in the middle of a transaction about one project.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_project_that_somebody_holds_holds_up_no_other() {
    let (_guard, store) = empty().await;
    let mut hung = other_link(&store).await;
    for name in ["held", "free"] {
        project(&store, name, ProjectSettings::default()).await;
    }
    hung.say("SET idle_in_transaction_session_timeout = 0; BEGIN; SELECT pg_advisory_xact_lock(723101, hashtext('held'))")
        .await
        .unwrap();
    let begun = Instant::now();
    let answers = join_all((0..60u64).map(|n| {
        let project = if n % 2 == 0 { "held" } else { "free" };
        store.admit(launch(n, project))
    }))
    .await;
    assert!(begun.elapsed() < within(BOUND), "{:?}", begun.elapsed());
    for (n, answer) in answers.into_iter().enumerate() {
        match n % 2 {
            0 => assert!(
                unavailable(answer).contains("somebody holds the locks"),
                "{n}"
            ),
            _ => assert!(
                matches!(answer, Ok(Admitted::New { .. })),
                "{n}: {answer:?}"
            ),
        }
    }
    hung.say("ROLLBACK").await.unwrap();
    admit(&store, launch(100, "held")).await;
    assert_eq!(
        (live(&store, "held").await, live(&store, "free").await),
        (1, 30)
    );
}

/// It takes its time, and waits at the server.
#[derive(Debug)]
struct Slow(u64);

#[async_trait]
impl Work for Slow {
    type Done = u64;

    async fn run(&mut self, on: &mut Link) -> Result<u64, Fail> {
        on.one("SELECT 1::BIGINT FROM pg_sleep(0.3)", vec![])
            .await?;
        Ok(self.0)
    }
}

/// One after the other in one transaction they would take longer than a transaction may.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_that_take_long_are_done_in_several_transactions() {
    let (_guard, store) = empty().await;
    let answers = join_all((0..36).map(|n| store.write(Slow(n)))).await;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), n as u64);
    }
}

/// Another host is about to use a request id, and does after we have looked.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_id_that_another_host_is_just_using() {
    let (_guard, store) = empty().await;
    project(&store, "p", ProjectSettings::default()).await;
    let store = Arc::new(store);
    for (n, digest) in [(0, "d"), (10, "e")] {
        admit(
            &*store,
            requested(launch(n, "p"), 1000, &format!("was{n}"), "d"),
        )
        .await;
        let mut other = other_link(&store).await;
        let set =
            format!("BEGIN; UPDATE requests SET request_id = 'is{n}' WHERE request_id = 'was{n}'");
        other.say_text(set).await.unwrap();
        let asked = tokio::spawn({
            let store = Arc::clone(&store);
            async move {
                store
                    .admit(requested(
                        launch(n + 1, "p"),
                        1000,
                        &format!("is{n}"),
                        digest,
                    ))
                    .await
            }
        });
        let waits =
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'";
        let begun = Instant::now();
        while other.one(waits, vec![]).await.unwrap().int(0).unwrap() == 0 {
            assert!(begun.elapsed() < Duration::from_secs(60));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        other.say("COMMIT").await.unwrap();
        match (digest, asked.await.unwrap()) {
            ("d", Ok(Admitted::Repeated(runner))) => assert_eq!(runner.id, id(n)),
            ("e", answer) => drop(refused(answer, ErrorKind::Conflict)),
            (_, other) => panic!("{other:?}"),
        }
    }
}

/// What can't be read of one runner is told to whoever repeats its request, and to nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_damaged_row_spoils_only_its_own_answer() {
    let (_guard, store) = empty().await;
    project(&store, "p", ProjectSettings::default()).await;
    admit(&store, requested(launch(0, "p"), 1000, "r", "d")).await;
    let mut other = other_link(&store).await;
    other.say("UPDATE runners SET spec = '{'").await.unwrap();
    let answers = join_all((1..20).map(|n| match n % 5 {
        0 => store.admit(requested(launch(n, "p"), 1000, "r", "d")),
        1 => store.admit(launch(n, "nowhere")),
        _ => store.admit(launch(n, "p")),
    }))
    .await;
    for (n, answer) in (1..).zip(answers) {
        match n % 5 {
            0 => assert!(unavailable(answer).contains("request"), "{n}"),
            1 => drop(refused(answer, ErrorKind::NoSuchProject)),
            _ => assert!(
                matches!(answer, Ok(Admitted::New { .. })),
                "{n}: {answer:?}"
            ),
        }
    }
}

/// Two hosts with different opinions about what is old, and with clocks nobody asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_that_keeps_longest_decides() {
    let (_guard, one) = empty().await;
    let two = PostgresStore::open(one.base.options.clone(), 2)
        .await
        .unwrap();
    let (hour, year) = (3_600_000_000, 365 * 86_400_000_000);
    for (store, host) in [(&one, "a"), (&two, "b")] {
        join(store, host, "boot", hour).await;
    }
    let ago = async |store: &PostgresStore, retention| {
        let before = store.expired(retention).await.unwrap();
        one.hosts().await.unwrap().0.0 - before.0
    };
    assert!((hour..2 * hour).contains(&ago(&one, hour).await));
    assert!((year..year + hour).contains(&ago(&two, year).await));
    assert!((year..year + hour).contains(&ago(&one, hour).await));
    assert!(
        (hour..2 * hour).contains(&ago(&two, 0).await),
        "it has changed its mind"
    );
    // For ever.
    assert_eq!(one.expired(u64::MAX).await.unwrap().0, 0);
    assert_eq!(two.expired(hour).await.unwrap().0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_host_is_just_removing_is_passed_over() {
    let (_guard, store) = empty().await;
    project(&store, "p", ProjectSettings::default()).await;
    for n in 0..20 {
        admit(&store, launch(n, "p")).await;
        apply(&store, step(n, end(), n * 1_000 + 1)).await;
    }
    let mut other = other_link(&store).await;
    other
        .say("BEGIN; DELETE FROM runners WHERE id IN (SELECT id FROM runners ORDER BY ended_at LIMIT 8)")
        .await
        .unwrap();
    let begun = Instant::now();
    let pruned = store.prune(at(99_000_000), 100).await.unwrap();
    assert!(
        begun.elapsed() < within(Duration::from_secs(2)),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(pruned.runners, 12);
    other.say("ROLLBACK").await.unwrap();
    assert_eq!(
        store.prune(at(99_000_000), 100).await.unwrap(),
        Pruned {
            runners: 8,
            ..Pruned::default()
        }
    );
    let removed = store
        .remove_project("p".parse().unwrap(), alice(), at(1))
        .await;
    removed.unwrap();
}

/// As few connections as the configuration allows: the relay, questions, launches and the clean-up take turns, none waits
/// without an end, and there are no more connections than that.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn few_connections_are_shared() {
    for most in [2u32, 3] {
        let options = tokio::task::spawn_blocking(|| Cluster::shared().database());
        let options = options.await.unwrap();
        let store = Arc::new(PostgresStore::open(options, most).await.unwrap());
        store.publish(true);
        join(&*store, "h1", "boot", MINUTE).await;
        project(&*store, "p", ProjectSettings::default()).await;
        let work = async |store: Arc<PostgresStore>, n: u64| {
            for n in 20 * n..20 * (n + 1) {
                admit(&*store, launch(n, "p")).await;
                apply(&*store, step(n, end(), 9_000)).await;
                store.runner(id(n)).await.unwrap().unwrap();
                store.projects().await.unwrap();
                store.backlog("h1").await.unwrap();
            }
        };
        let over = Arc::new(AtomicBool::new(false));
        // Publishes as fast as it can, and goes on when the store is closed: then it is told so.
        let relay = async |store: Arc<PostgresStore>| {
            let mut published = 0;
            loop {
                let page = match store.page("h1", Rows::Pending, 0, 50).await {
                    Ok(page) => page,
                    Err(error) => return (published, error.why()),
                };
                let done = page.rows.iter().map(|row| row.event.position).collect();
                let parked = Vec::new();
                match store.settle("h1", &Settlement { done, parked }).await {
                    Ok(rows) => published += rows,
                    Err(error) => return (published, error.why()),
                }
            }
        };
        let seen = async |store: Arc<PostgresStore>, over: Arc<AtomicBool>| {
            let mut other = other_link(&store).await;
            let mut seen = 0;
            while !over.load(Ordering::SeqCst) {
                let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
                seen = seen.max(other.one(count, vec![]).await.unwrap().count(0).unwrap());
            }
            seen
        };
        let relay = tokio::spawn(relay(Arc::clone(&store)));
        let seen = tokio::spawn(seen(Arc::clone(&store), Arc::clone(&over)));
        let begun = Instant::now();
        let all: Vec<_> = (0..16)
            .map(|n| tokio::spawn(work(Arc::clone(&store), n)))
            .collect();
        for one in all {
            one.await.unwrap();
        }
        while store.prune(at(99_000_000), 100).await.unwrap() != Pruned::default() {}
        while store.backlog("h1").await.unwrap().pending > 0 {}
        println!("{most} connections: {:?}", begun.elapsed());
        over.store(true, Ordering::SeqCst);
        assert_eq!(seen.await.unwrap(), u64::from(most));
        let begun = Instant::now();
        store.close().await;
        assert!(begun.elapsed() < within(BOUND), "{:?}", begun.elapsed());
        let (published, why) = relay.await.unwrap();
        assert!(
            published >= 640 && why.contains("it is closed"),
            "{published}: {why}"
        );
    }
}
