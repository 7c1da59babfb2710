//! The broker goes away, is cut off, says nothing, runs full; the relay is dropped.

use super::consumer::Log;
use super::proxy::Proxy;
use super::rabbit::Rabbit;
use super::world::{World, on_both, shared, until};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use stratavore::engine::relay::BrokerState;

on_both!(
    everything_arrives,
    cut_between_publish_and_confirm,
    a_relay_that_is_dropped_again_and_again
);

async fn everything_arrives(world: World) {
    let rabbit = shared().await;
    let queue = world.queue(rabbit).await;
    world.project("before").await;
    world.changes("before", 1_000).await;
    let relay = world.relay(world.broker(rabbit));
    world.project("during").await;
    world.changes("during", 1_000).await;
    world.drained().await;
    // One by one, as they come.
    for _ in 0..5 {
        world.change("during").await;
    }
    world.drained().await;
    assert!(
        relay.flush(Duration::from_secs(60)).await,
        "nothing was left"
    );
    assert_eq!(relay.published() as usize, world.events().await.len());
    world.seen_by(rabbit, &queue, &mut Log::default(), 0).await;
}

async fn cut_between_publish_and_confirm(world: World) {
    let rabbit = shared().await;
    let queue = world.queue(rabbit).await;
    let proxy = Proxy::to(rabbit.port).await;
    let mut broker = world.broker(rabbit);
    broker.servers[0].port = proxy.port;
    let relay = world.relay(broker);
    world.project("p").await;
    let (mut faults, mut made) = (0, 0);
    let state = relay.state();
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    for round in 0..6 {
        // Not by the connection that was cut.
        until("it is connected", || {
            count(&proxy.made) > made && state.borrow().broker == BrokerState::Up
        })
        .await;
        let changing = {
            let world = world.clone();
            tokio::spawn(async move { world.changes("p", 400).await })
        };
        let (sent, swallowed) = (count(&proxy.sent), count(&proxy.swallowed));
        if round % 2 == 0 {
            // The broker gets them, and nobody hears of it. All that may be under way may be so already.
            proxy.swallow(true);
            let confirm = 21;
            until("a confirm is lost", || {
                count(&proxy.swallowed) >= swallowed + confirm
            })
            .await;
        } else {
            until("something is on its way", || {
                count(&proxy.sent) > sent + 3_000
            })
            .await;
        }
        made = count(&proxy.made);
        proxy.cut();
        proxy.swallow(false);
        faults += 1;
        changing.await.unwrap();
    }
    world.drained().await;
    world
        .seen_by(rabbit, &queue, &mut Log::default(), faults)
        .await;
    drop(relay);
}

async fn a_relay_that_is_dropped_again_and_again(world: World) {
    let rabbit = shared().await;
    let queue = world.queue(rabbit).await;
    world.project("p").await;
    world.changes("p", 2_000).await;
    let mut faults = 0;
    for round in 1..=15_u64 {
        let relay = world.relay(world.broker(rabbit));
        let published = || relay.published() > 0;
        until("it publishes", || {
            published()
                || relay
                    .state()
                    .borrow()
                    .backlog
                    .is_some_and(|b| b.pending == 0)
        })
        .await;
        tokio::time::sleep(Duration::from_millis(round * 7 % 40)).await;
        drop(relay);
        faults += 1;
    }
    let _relay = world.relay(world.broker(rabbit));
    world.drained().await;
    world
        .seen_by(rabbit, &queue, &mut Log::default(), faults)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_stopped_killed_and_full() {
    let rabbit: &Rabbit = Box::leak(Box::new(
        tokio::task::spawn_blocking(|| Rabbit::new("", ""))
            .await
            .unwrap(),
    ));
    let keep = KeepAndDrop(rabbit);
    let world = World::sqlite().await;
    let queue = world.queue(rabbit).await;
    world.project("p").await;
    let relay = world.relay(world.broker(rabbit));
    let state = relay.state();
    world.changes("p", 1_000).await;
    world.drained().await;
    let mut faults = 0;
    for kill in [false, true] {
        // During thousands of changes, and after: it comes back while more are made.
        let changing = {
            let world = world.clone();
            tokio::spawn(async move { world.changes("p", 2_000).await })
        };
        tokio::time::sleep(Duration::from_millis(150)).await;
        tokio::task::spawn_blocking(move || if kill { rabbit.kill() } else { rabbit.stop() })
            .await
            .unwrap();
        faults += 1;
        until("the broker is down", || {
            matches!(state.borrow().broker, BrokerState::Down(_))
        })
        .await;
        changing.await.unwrap();
        world.changes("p", 200).await;
        assert!(world.backlog().await.pending >= 200);
        tokio::task::spawn_blocking(|| rabbit.start())
            .await
            .unwrap();
        world.drained().await;
        assert_eq!(state.borrow().broker, BrokerState::Up);
    }
    // An alarm: the broker takes nothing, and says so.
    control(rabbit, &["set_vm_memory_high_watermark", "0.00001"]).await;
    world.changes("p", 200).await;
    until("the broker says that it is blocked", || {
        matches!(state.borrow().broker, BrokerState::Blocked(_))
    })
    .await;
    world.changes("p", 200).await;
    assert!(world.backlog().await.pending >= 200);
    control(rabbit, &["set_vm_memory_high_watermark", "0.6"]).await;
    world.drained().await;
    assert_eq!(state.borrow().broker, BrokerState::Up);
    world
        .seen_by(rabbit, &queue, &mut Log::default(), faults)
        .await;
    drop(keep);
}

async fn control(rabbit: &'static Rabbit, words: &'static [&'static str]) {
    tokio::task::spawn_blocking(move || rabbit.control(words))
        .await
        .unwrap();
}

/// Kills the broker when the test is over.
struct KeepAndDrop(&'static Rabbit);

impl Drop for KeepAndDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}
