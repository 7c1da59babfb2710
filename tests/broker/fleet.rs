//! Two hosts with one store: order across hosts, and hosts that are given up.

use super::consumer::Log;
use super::postgres::Cluster;
use super::proxy::Proxy;
use super::world::{World, shared, until};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use stratavore::domain::event::Actor;
use stratavore::engine::relay::{BrokerState, Relay};
use stratavore::ports::{Outgoing, Rows};

async fn two() -> (World, World) {
    let options = tokio::task::spawn_blocking(|| Cluster::shared().database())
        .await
        .unwrap();
    let one = World::on(options.clone(), "h1").await;
    let mut other = World::on(options, "h2").await;
    other.exchange.clone_from(&one.exchange);
    (one, other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subjects_of_two_hosts_stay_in_order() {
    let rabbit = shared().await;
    let (one, other) = two().await;
    one.join("b1", 3_600_000_000).await;
    other.join("b2", 3_600_000_000).await;
    let queue = one.queue(rabbit).await;
    one.project("p").await;
    one.project("q").await;
    let first = one.relay(one.broker(rabbit));
    let changing = |world: World| {
        tokio::spawn(async move {
            for n in 0..150 {
                world.change(if n % 3 == 0 { "q" } else { "p" }).await;
            }
            world.changes("p", 300).await;
        })
    };
    let tasks = [changing(one.clone()), changing(other.clone())];
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The second one comes late, and what it has written holds up the first one's.
    let second = other.relay(other.broker(rabbit));
    for task in tasks {
        task.await.unwrap();
    }
    one.drained().await;
    other.drained().await;
    one.seen_by(rabbit, &queue, &mut Log::default(), 0).await;
    drop((first, second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_host_is_adopted_while_it_publishes_late() {
    let rabbit = shared().await;
    let (one, other) = two().await;
    other.join("b2", 3_600_000_000).await;
    let queue = one.queue(rabbit).await;
    one.join("b1", 1_000).await;
    one.project("p").await;
    one.changes("p", 1_000).await;
    other.changes("p", 200).await;
    other.change("p").await;
    // The first one gets many to the broker and hears nothing of it; then it is slow.
    let proxy = Proxy::to(rabbit.port).await;
    let mut broker = one.broker(rabbit);
    broker.servers[0].port = proxy.port;
    let late = one.relay(broker);
    until("it has published something", || late.published() > 50).await;
    proxy.swallow(true);
    let before = proxy.sent.load(Ordering::Relaxed);
    one.change("p").await;
    until("something is on its way", || {
        proxy.sent.load(Ordering::Relaxed) > before || one_is_idle(&late)
    })
    .await;
    // Its lease has run out, and an operator says that it does not come back.
    other.store.forget("h1", Actor::host()).await.unwrap();
    let adopter = other.relay(other.broker(rabbit));
    other.drained().await;
    one.drained().await;
    assert!(late.published() > 0 && adopter.published() > 0);
    // Only now it goes on: what it has in hand is another host's, and done.
    let state = late.state();
    proxy.close(true);
    proxy.swallow(false);
    proxy.cut();
    until("it has heard that it is cut off", || {
        matches!(state.borrow().broker, BrokerState::Down(_))
    })
    .await;
    proxy.close(false);
    until("it is connected again", || {
        state.borrow().broker == BrokerState::Up
    })
    .await;
    assert!(
        late.flush(Duration::from_secs(20)).await,
        "nothing is left to it"
    );
    drop(adopter);
    let mut log = Log::default();
    other.seen_by(rabbit, &queue, &mut log, 2).await;
    // Who wrote it is told, whoever has published it.
    let source = |event: &serde_json::Value| event["source"].as_str().unwrap().to_owned();
    assert!(log.all.iter().any(|event| source(event) == "/hosts/h1"));
}

/// It has nothing left to publish.
fn one_is_idle(relay: &Relay) -> bool {
    let state = relay.state();
    let backlog = state.borrow().backlog;
    backlog.is_some_and(|backlog| backlog.pending == 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_at_one_host_frees_what_follows_at_the_other() {
    let rabbit = shared().await;
    let (one, other) = two().await;
    one.join("b1", 3_600_000_000).await;
    other.join("b2", 3_600_000_000).await;
    one.project("p").await;
    let relays = [
        one.relay(one.broker(rabbit)),
        other.relay(other.broker(rabbit)),
    ];
    for _ in 0..10 {
        one.change("p").await;
        other.change("p").await;
    }
    one.drained().await;
    other.drained().await;
    let queue = one.queue(rabbit).await;
    // What is the other one's own stays parked there; what follows the first one's goes.
    let begun = Instant::now();
    assert!(relays[0].retry(None).await.unwrap() > 0);
    loop {
        let rows = relays[1].rows(Rows::Parked, 0, 1_000).await.unwrap();
        let shared = |row: &&Outgoing| row.event.draft.subject == "project/p";
        if !rows.iter().any(|row| shared(&row)) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(80), "{rows:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    relays[1].retry(None).await.unwrap();
    one.all_gone().await;
    other.all_gone().await;
    one.seen_by(rabbit, &queue, &mut Log::default(), 0).await;
}
