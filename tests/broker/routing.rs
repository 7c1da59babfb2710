//! What nobody wants: parked, retried, accepted.

use super::consumer::{self, Log};
use super::world::{World, on_both, shared, until};
use sqlx::{ConnectOptions, Connection};
use std::time::Duration;
use stratavore::domain::relay::Why;
use stratavore::engine::relay::LIMITS;
use stratavore::ports::Rows;

on_both!(
    one_project_bound_of_two,
    where_it_is_accepted_nothing_is_parked,
    what_was_parked_goes_before_what_is_accepted,
    a_full_queue_holds_up_its_own_project_alone,
    what_is_not_published_is_not_removed
);

async fn one_project_bound_of_two(world: World) {
    let rabbit = shared().await;
    let queue = format!("q.{}", world.exchange);
    let channel = consumer::channel(rabbit).await;
    consumer::bind(&channel, &world.exchange, &queue, &["wanted.#"]).await;
    let relay = world.relay(world.broker(rabbit));
    world.project("wanted").await;
    world.project("un.wanted").await;
    let other = world.clone();
    let both = tokio::join!(
        world.changes("wanted", 1_000),
        other.changes("un.wanted", 1_000)
    );
    let ((), ()) = both;
    world.drained().await;
    let of = |events: &[stratavore::domain::event::Event], project: &str| {
        events.iter().filter(|e| e.draft.project == project).count()
    };
    let events = world.events().await;
    assert_eq!(
        world.backlog().await.parked as usize,
        events.len() - of(&events, "wanted")
    );
    let parked = relay.rows(Rows::Parked, 0, 1_000).await.unwrap();
    assert!(parked.iter().all(|row| row.event.draft.project != "wanted"));
    assert!(parked.iter().any(|row| row.parked == Some(Why::Unroutable)));
    let mut log = Log::default();
    log.read(&channel, &queue, of(&events, "wanted")).await;
    assert_eq!(
        log.all.len(),
        of(&events, "wanted"),
        "every one once, and no other"
    );

    // Nobody wants them still: they are parked again.
    assert!(
        relay
            .retry(Some("un.wanted".parse().unwrap()))
            .await
            .unwrap()
            >= 1_000
    );
    world.drained().await;
    assert_eq!(
        world.backlog().await.parked as usize,
        events.len() - of(&events, "wanted")
    );
    consumer::bind(&channel, &world.exchange, &queue, &["#"]).await;
    relay.retry(None).await.unwrap();
    world.drained().await;
    assert_eq!(world.backlog().await.parked, 0);
    world.seen_by(rabbit, &queue, &mut log, 0).await;
}

async fn where_it_is_accepted_nothing_is_parked(world: World) {
    let rabbit = shared().await;
    let relay = world.relay_with(world.broker(rabbit), LIMITS, false);
    world.project("p").await;
    world.changes("p", 100).await;
    world.drained().await;
    assert_eq!(world.backlog().await.parked, 0);
    assert!(relay.flush(Duration::from_secs(60)).await);
}

async fn what_was_parked_goes_before_what_is_accepted(world: World) {
    let rabbit = shared().await;
    let relay = world.relay(world.broker(rabbit));
    world.project("p").await;
    for _ in 0..20 {
        world.change("p").await;
    }
    world.drained().await;
    let parked = world.backlog().await.parked;
    assert!(parked >= 21, "{parked}");
    drop(relay);
    for _ in 0..20 {
        world.change("p").await;
    }
    let queue = world.queue(rabbit).await;
    let _relay = world.relay_with(world.broker(rabbit), LIMITS, false);
    world.all_gone().await;
    world.seen_by(rabbit, &queue, &mut Log::default(), 0).await;
}

async fn a_full_queue_holds_up_its_own_project_alone(world: World) {
    let rabbit = shared().await;
    let queue = world.queue(rabbit).await;
    let full = format!("full.{}", world.exchange);
    let channel = consumer::channel(rabbit).await;
    consumer::bind_small(&channel, &world.exchange, &full, "full.#").await;
    let relay = world.relay(world.broker(rabbit));
    world.project("full").await;
    world.project("free").await;
    let other = world.clone();
    tokio::join!(world.changes("full", 1_500), other.changes("free", 300));
    // All of the other project's comes through, also what is written now.
    other.changes("free", 300).await;
    let begun = std::time::Instant::now();
    loop {
        let page = relay.rows(Rows::Pending, 0, 1_000).await.unwrap();
        let free = page.iter().filter(|row| row.event.draft.project == "free");
        let free = free.count();
        if free == 0 && page.len() > 500 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{free} wait");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let state = relay.state();
    until("it is told", || state.borrow().refused > 0).await;
    // The other queue gets them again and again, but seldom.
    let before = consumer::length(&channel, &queue).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = consumer::length(&channel, &queue).await;
    assert!(after - before < 150, "{before} {after}");
    consumer::remove(&channel, &full).await;
    world.drained().await;
    assert_eq!(state.borrow().refused, 0);
    world.seen_by(rabbit, &queue, &mut Log::default(), 2).await;
}

async fn what_is_not_published_is_not_removed(world: World) {
    let rabbit = shared().await;
    world.project("p").await;
    world.changes("p", 500).await;
    let all = world.events().await.len();
    let after = stratavore::domain::Timestamp(u64::MAX / 2);
    let store = &world.store;
    let pruned = store.prune(after, 10_000).await.unwrap();
    assert_eq!((pruned.events, pruned.runners > 0), (0, true));
    assert_eq!(world.events().await.len(), all);
    world.queue(rabbit).await;
    let relay = world.relay(world.broker(rabbit));
    world.drained().await;
    assert_eq!(
        store.prune(after, 10_000).await.unwrap().events as usize,
        all
    );
    until("what is left is known", || {
        relay
            .state()
            .borrow()
            .backlog
            .is_some_and(|b| b.pending == 0)
    })
    .await;
}

/// More than a page of events of a later release, and others behind them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cant_be_read_holds_up_nothing_else() {
    let rabbit = shared().await;
    let (world, file) = World::file().await;
    let queue = world.queue(rabbit).await;
    world.project("p").await;
    world.changes("p", 1_200).await;
    let (before, readable) = (world.events().await.len(), 300);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file);
    let mut on = options.connect().await.unwrap();
    sqlx::raw_sql(
        "DROP TRIGGER event_changed; UPDATE events SET type = 'runner.later' WHERE subject LIKE 'runner/%'",
    )
    .execute(&mut on)
    .await
    .unwrap();
    on.close().await.unwrap();
    let other = world.clone();
    let relay = world.relay(world.broker(rabbit));
    other.changes("p", readable).await;
    until("what can be read is published", || {
        relay.published() >= readable as u64
    })
    .await;
    let mut log = Log::default();
    let channel = consumer::channel(rabbit).await;
    let unreadable = world.backlog().await.pending;
    assert!(unreadable >= 1_200, "{unreadable}");
    log.read(&channel, &queue, before - 1_200 + readable).await;
    let state = relay.state();
    until("they are not forgotten", || {
        state
            .borrow()
            .backlog
            .is_some_and(|backlog| backlog.pending == 1_200)
    })
    .await;
    assert!(
        !relay.flush(Duration::from_secs(10)).await,
        "something is left"
    );
}
