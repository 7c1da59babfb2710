//! What holds want of runners, where it can't be done.

use super::*;
use stratavore::domain::hold::HoldScope;
use stratavore::ports::EventFilter;

/// How often it was frozen, as its events tell.
async fn freezes(store: &FakeStore) -> usize {
    let filter = EventFilter {
        limit: 1000,
        ..Default::default()
    };
    let events = store.events(filter).await.unwrap();
    let frozen = events
        .iter()
        .filter(|e| e.draft.kind.short() == "runner.frozen");
    frozen.count()
}

/// Each attempt is two events: they do not fill the store and what the lane keeps while that is away.
#[tokio::test(start_paused = true)]
async fn a_freeze_that_keeps_failing_is_tried_ever_less_often() {
    let (store, world) = (store().await, World::lucky());
    let (host, notices) = world.connect();
    let engine = Engine::start(settings(), store.clone(), host, drawer(), notices);
    adopted(&engine).await;
    let launched = engine.launch(request(None), alice()).await.unwrap();
    let id = launched.runner.id;
    world.unfreezable(true);
    let hold = engine.set_hold(HoldScope::Fleet, None, true, String::new(), alice());
    hold.await.unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
    let tried = freezes(&store).await;
    assert!((6..=12).contains(&tried), "{tried} times in five minutes");
    let row = store.runner(id).await.unwrap().unwrap();
    assert_eq!(row.state(), State::Running);
    // It is not given up, and a stop by somebody does not wait for it.
    world.unfreezable(false);
    tokio::time::sleep(Duration::from_secs(61)).await;
    let row = store.runner(id).await.unwrap().unwrap();
    assert_eq!(row.state(), State::Frozen);
    assert_eq!(row.frozen_by.as_deref(), Some("hold fleet"));
    engine
        .release_hold(HoldScope::Fleet, alice())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let row = store.runner(id).await.unwrap().unwrap();
    assert_eq!(row.state(), State::Running);
    assert_eq!(freezes(&store).await, tried + 1);
}
