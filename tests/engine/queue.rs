//! Launches that wait: their order, their turn, and that none is lost or run twice.

use super::fakes::{FakeDrawer, FakeStore};
use super::world::{Luck, World};
use super::{adopted, alice, drawer, request, rows, settings, settled, store, until};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use stratavore::domain::event::Actor;
use stratavore::domain::hold::HoldScope;
use stratavore::domain::project::{ProjectChange, ProjectSettings};
use stratavore::domain::spec::Setenv;
use stratavore::domain::{Cause, ErrorKind, RunnerId, State, Timestamp};
use stratavore::engine::{Engine, LaunchRequest, USER_RUNNERS_MAX};
use stratavore::ports::{NewRunner, Queue, Store};

fn waits(project: &str, priority: i32) -> LaunchRequest {
    let mut request = request(None);
    request.spec.project = project.parse().unwrap();
    request.spec.priority = priority;
    request.setenv = vec![Setenv {
        name: "KEY".to_owned(),
        value: "secret".to_owned(),
    }];
    request.queue = true;
    request
}

/// Live ones and those that wait count together, of each user for itself.
#[tokio::test(start_paused = true)]
async fn one_user_has_only_so_many_runners() {
    let site = Site::new(USER_RUNNERS_MAX as u32 / 2).await;
    let change = ProjectChange {
        max_queued: Some(Some(USER_RUNNERS_MAX as u32)),
        ..ProjectChange::default()
    };
    let set = site
        .store
        .set_project("p".parse().unwrap(), change, Actor::host(), Timestamp(2));
    set.await.unwrap();
    let named = |id: &str| LaunchRequest {
        request_id: Some(id.to_owned()),
        ..waits("p", 0)
    };
    let first = site.engine.launch(named("first"), alice()).await.unwrap();
    for _ in 1..USER_RUNNERS_MAX {
        site.engine.launch(waits("p", 0), alice()).await.unwrap();
    }
    // A request that was made before is that one, and needs no more room; another one does.
    let again = site.engine.launch(named("first"), alice()).await.unwrap();
    assert!(again.repeated && again.runner.id == first.runner.id);
    let refused = site.engine.launch(named("other"), alice()).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::QuotaExceeded);
    assert_eq!(site.engine.queued_count(), USER_RUNNERS_MAX / 2);
    assert_eq!(site.drawer.kept().len(), USER_RUNNERS_MAX / 2);
    assert_eq!(site.engine.live_count(), USER_RUNNERS_MAX / 2);
    let refused = site
        .engine
        .launch(waits("q", 0), alice())
        .await
        .unwrap_err();
    assert_eq!(refused.kind, ErrorKind::QuotaExceeded);
    assert!(
        refused.message.contains("4096 is the most of one user"),
        "{}",
        refused.message
    );
    // As many as there is room for come in, however many ask at the same moment.
    const FREE: usize = 10;
    for runner in site.engine.live().iter().take(FREE) {
        site.world.exit(runner.id, 0);
    }
    let all = || site.engine.live_count() + site.engine.queued_count();
    for _ in 0..500 {
        if all() == USER_RUNNERS_MAX - FREE {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(all(), USER_RUNNERS_MAX - FREE);
    let asked = (0..4 * FREE).map(|_| site.engine.launch(waits("p", 0), alice()));
    let told = futures_util::future::join_all(asked).await;
    let refused: Vec<_> = told.iter().filter_map(|t| t.as_ref().err()).collect();
    assert_eq!(told.len() - refused.len(), FREE, "{refused:?}");
    assert!(refused.iter().all(|e| e.kind == ErrorKind::QuotaExceeded));
    assert_eq!(all(), USER_RUNNERS_MAX);
    let mut bobs = waits("q", 0);
    (bobs.spec.uid, bobs.spec.user) = (1001, "bob".to_owned());
    site.engine.launch(bobs, alice()).await.unwrap();
    // A daemon that has just started knows who waits, too.
    let site = site.again().await;
    let refused = site
        .engine
        .launch(waits("q", 0), alice())
        .await
        .unwrap_err();
    assert_eq!(refused.kind, ErrorKind::QuotaExceeded);
}

struct Site {
    store: Arc<FakeStore>,
    world: World,
    drawer: Arc<FakeDrawer>,
    engine: Engine,
}

impl Site {
    /// With the project `p`, which has so many slots, and `q`, which has as many.
    async fn new(slots: u32) -> Self {
        let store = store().await;
        let change = ProjectChange {
            max_runners: Some(Some(slots)),
            ..ProjectChange::default()
        };
        let p = "p".parse().unwrap();
        let set = store.set_project(p, change, Actor::host(), Timestamp(1));
        set.await.unwrap();
        let settings = ProjectSettings {
            max_runners: Some(slots),
            ..ProjectSettings::default()
        };
        let q = "q".parse().unwrap();
        let made = store.create_project(q, settings, Actor::host(), Timestamp(1));
        made.await.unwrap();
        Self::with(store, World::lucky(), drawer()).await
    }

    async fn with(store: Arc<FakeStore>, world: World, drawer: Arc<FakeDrawer>) -> Self {
        let (host, notices) = world.connect();
        let engine = Engine::start(settings(), store.clone(), host, drawer.clone(), notices);
        adopted(&engine).await;
        Self {
            store,
            world,
            drawer,
            engine,
        }
    }

    /// The daemon is stopped and another one started.
    async fn again(self) -> Self {
        self.engine.shutdown(Duration::from_secs(1)).await;
        self.world.daemon_gone();
        Self::with(self.store, self.world, self.drawer).await
    }

    async fn launch(&self, request: LaunchRequest) -> RunnerId {
        let launched = self.engine.launch(request, alice()).await;
        // Ids of one millisecond are in no order of theirs.
        tokio::time::sleep(Duration::from_millis(2)).await;
        launched.unwrap().runner.id
    }

    async fn state(&self, id: RunnerId) -> State {
        self.store.runner(id).await.unwrap().unwrap().state()
    }

    /// Until it is so, or long enough.
    async fn becomes(&self, id: RunnerId, state: State) {
        for _ in 0..500 {
            if self.state(id).await == state {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{id} is {:?} and not {state:?}", self.state(id).await);
    }

    /// Ends one, and tells which of these runs in its place.
    async fn next(&self, ends: RunnerId, of: &[RunnerId]) -> RunnerId {
        self.world.exit(ends, 0);
        for _ in 0..500 {
            for id in of.iter().filter(|id| **id != ends) {
                // The row says so a moment before.
                if self.state(*id).await == State::Running && self.world.execs(*id) == 1 {
                    return *id;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("nobody's turn came");
    }
}

#[tokio::test(start_paused = true)]
async fn priority_then_age_and_nobody_runs_without_what_was_kept() {
    let site = Site::new(1).await;
    let first = site.launch(waits("p", 0)).await;
    assert_eq!(site.state(first).await, State::Running);
    assert!(site.drawer.kept().is_empty(), "it runs: nothing is kept");
    let old = site.launch(waits("p", 0)).await;
    let young = site.launch(waits("p", 0)).await;
    let urgent = site.launch(waits("p", 5)).await;
    let lazy = site.launch(waits("p", -5)).await;
    assert_eq!(site.engine.queued_count(), 4);
    assert_eq!(site.drawer.kept().len(), 4);
    // Who does not wait is refused, and told of it.
    let refused = site.engine.launch(request(None), alice()).await;
    assert!(matches!(&refused, Err(e) if e.kind == ErrorKind::QuotaExceeded));
    let row = site.engine.runner(lazy).await.unwrap();
    let gates = site.engine.waits_for(&row).await.unwrap();
    let place = gates.iter().find(|g| g.name == "queue").unwrap().used;
    assert_eq!(place, 3, "{gates:?}");
    site.drawer.lose(young);
    let all = [old, young, urgent, lazy];
    assert_eq!(site.next(first, &all).await, urgent);
    assert_eq!(site.next(urgent, &all).await, old);
    // What was kept of the next one is lost: it ends with a sentence, and the one after it runs.
    assert_eq!(site.next(old, &all).await, lazy);
    let lost = site.store.runner(young).await.unwrap().unwrap();
    let exit = lost.exit.unwrap();
    assert_eq!(exit.cause, Cause::LaunchFailed);
    assert!(exit.message.contains("launch it again"), "{exit:?}");
    assert_eq!(site.world.execs(young), 0);
    assert_eq!(site.engine.queued_count(), 0);
    assert!(site.drawer.kept().is_empty());
}

/// Whoever can write the store's rows does not choose what runs here.
#[tokio::test(start_paused = true)]
async fn what_runs_in_the_end_is_what_was_asked_for() {
    let site = Site::new(1).await;
    let first = site.launch(waits("p", 0)).await;
    let forged = site.launch(waits("p", 0)).await;
    let next = site.launch(waits("p", 0)).await;
    site.drawer.forge(forged);
    assert_eq!(site.next(first, &[forged, next]).await, next);
    let exit = site.store.runner(forged).await.unwrap().unwrap().exit;
    let message = exit.unwrap().message;
    assert!(message.contains("another command or user"), "{message}");
    assert_eq!(site.world.execs(forged), 0);
}

#[tokio::test(start_paused = true)]
async fn projects_take_turns() {
    let site = Site::new(2).await;
    let mut settings = super::settings();
    settings.host_max = Some(2);
    site.engine.set_terms(stratavore::engine::Terms {
        host_max: Some(2),
        limits: settings.limits,
        retention: settings.retention,
    });
    let [a, b] = [
        site.launch(waits("p", 0)).await,
        site.launch(waits("p", 0)).await,
    ];
    let mut of_p = Vec::new();
    for _ in 0..3 {
        of_p.push(site.launch(waits("p", 50)).await);
    }
    let of_q = site.launch(waits("q", -50)).await;
    // It came last and its priority is low, and its project has nothing yet.
    let all: Vec<RunnerId> = of_p.iter().chain([&of_q]).copied().collect();
    assert_eq!(site.next(a, &all).await, of_q);
    assert_eq!(site.next(b, &of_p).await, of_p[0]);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_one_never_runs() {
    let site = Site::new(1).await;
    let first = site.launch(waits("p", 0)).await;
    let [a, b] = [
        site.launch(waits("p", 0)).await,
        site.launch(waits("p", 0)).await,
    ];
    let refused = site.engine.freeze(a, alice()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::WrongState);
    let refused = site.engine.kill(a, 10, alice()).await.unwrap_err();
    assert!(refused.message.contains("no process yet"), "{refused}");
    site.engine.stop(a, alice()).await.unwrap();
    let row = site.store.runner(a).await.unwrap().unwrap();
    assert_eq!(row.exit.map(|e| e.cause), Some(Cause::Cancelled));
    let again = site.engine.stop(a, alice()).await.unwrap_err();
    assert_eq!(again.kind, ErrorKind::WrongState);
    assert_eq!(site.engine.queued_count(), 1);
    assert_eq!(site.drawer.kept(), [b]);
    assert_eq!(site.next(first, &[a, b]).await, b);
    // Its turn has come: a stop is a stop.
    let c = site.launch(waits("p", 0)).await;
    site.engine.kill(c, 9, alice()).await.unwrap();
    site.becomes(c, State::Ended).await;
    site.engine.stop(b, alice()).await.unwrap();
    site.becomes(b, State::Ended).await;
    let row = site.store.runner(b).await.unwrap().unwrap();
    assert_eq!(row.exit.map(|e| e.cause), Some(Cause::Stopped));
    assert_eq!([site.world.execs(a), site.world.execs(c)], [0, 0]);
}

/// Of two answers of the store that come late, the one about its turn is on its way when it hears that it waits.
#[tokio::test(start_paused = true)]
async fn whose_turn_has_come_is_not_taken_out_of_the_queue() {
    let site = Site::new(1).await;
    let first = site.launch(waits("p", 0)).await;
    let next = site.launch(waits("p", 0)).await;
    site.store.admissions.hold();
    site.store.turns.hold();
    let late = site.engine.launch(waits("p", 9), alice()).await;
    assert_eq!(late.unwrap_err().kind, ErrorKind::StoreUnavailable);
    let kept = site.drawer.kept();
    let late = kept.into_iter().find(|id| *id != next).unwrap();
    site.world.exit(first, 0);
    site.store.turns.is_held().await;
    assert_eq!(site.state(late).await, State::Starting);
    site.store.admissions.release();
    while site.drawer.kept().contains(&late) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // This time passes when nobody has anything more to do: it waits for whoever gives the turns.
    tokio::time::sleep(Duration::from_millis(1)).await;
    site.store.turns.release();
    site.becomes(next, State::Running).await;
    let exit = site.store.runner(late).await.unwrap().unwrap().exit;
    let message = exit.unwrap().message;
    assert!(message.contains("launch it again"), "{message}");
    assert_eq!(site.store.refused(), 0, "it was ended once");
    assert_eq!(site.world.execs(late), 0);
}

#[tokio::test(start_paused = true)]
async fn a_queue_has_an_end() {
    let site = Site::new(1).await;
    let change = ProjectChange {
        max_queued: Some(Some(2)),
        ..ProjectChange::default()
    };
    let p = "p".parse().unwrap();
    site.engine.set_project(p, change, alice()).await.unwrap();
    site.launch(waits("p", 0)).await;
    site.launch(waits("p", 0)).await;
    let last = site.launch(waits("p", 0)).await;
    let full = site.engine.launch(waits("p", 9), alice()).await;
    let full = full.unwrap_err();
    assert_eq!(full.kind, ErrorKind::QueueFull);
    assert!(full.message.contains("--max-queued"), "{full}");
    assert_eq!(
        site.drawer.kept().len(),
        2,
        "nothing is kept of the refused"
    );
    site.engine.stop(last, alice()).await.unwrap();
    site.launch(waits("p", 0)).await;
}

#[tokio::test(start_paused = true)]
async fn they_go_on_waiting_over_restarts() {
    let site = Site::new(1).await;
    let first = site.launch(waits("p", 0)).await;
    let [a, b] = [
        site.launch(waits("p", 0)).await,
        site.launch(waits("p", 0)).await,
    ];
    // Kept without a reason: of a launch that was cut off.
    let orphan = RunnerId::from_uuid(uuid::Uuid::now_v7());
    let kept = stratavore::ports::Drawer::get(&*site.drawer, a).await;
    let kept = kept.unwrap().unwrap();
    stratavore::ports::Drawer::put(&*site.drawer, orphan, kept)
        .await
        .unwrap();
    let site = site.again().await;
    assert_eq!(site.engine.queued_count(), 2);
    assert_eq!(site.drawer.kept(), [a, b]);
    site.drawer.lose(b);
    let site = site.again().await;
    site.becomes(b, State::Ended).await;
    site.world.agent_crash().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(site.state(a).await, State::Queued);
    assert_eq!(site.next(first, &[a, b]).await, a);
}

#[tokio::test(start_paused = true)]
async fn a_hold_or_a_cap_that_goes_wakes_them() {
    let site = Site::new(1).await;
    site.engine
        .set_hold(HoldScope::Fleet, None, false, String::new(), alice())
        .await
        .unwrap();
    let [a, b] = [
        site.launch(waits("p", 0)).await,
        site.launch(waits("p", 0)).await,
    ];
    assert_eq!(site.state(a).await, State::Queued);
    site.engine
        .release_hold(HoldScope::Fleet, alice())
        .await
        .unwrap();
    site.becomes(a, State::Running).await;
    assert_eq!(site.state(b).await, State::Queued);
    let change = ProjectChange {
        max_runners: Some(Some(2)),
        ..ProjectChange::default()
    };
    let p = "p".parse().unwrap();
    site.engine.set_project(p, change, alice()).await.unwrap();
    site.becomes(b, State::Running).await;
}

/// However many turns come at once, and however slow they are.
#[tokio::test(start_paused = true)]
async fn many_turns_at_once_hold_up_nobody_else() {
    let site = Site::new(100).await;
    let p: HoldScope = "project:p".parse().unwrap();
    let hold = site
        .engine
        .set_hold(p.clone(), None, false, String::new(), alice());
    hold.await.unwrap();
    for _ in 0..100 {
        site.launch(waits("p", 0)).await;
    }
    site.world.hold_up(Some("p"));
    site.engine.release_hold(p, alice()).await.unwrap();
    until("all have their turn", || site.engine.live_count() == 100).await;
    let mut bobs = waits("q", 0);
    (bobs.spec.uid, bobs.spec.user, bobs.queue) = (1001, "bob".to_owned(), false);
    let begun = tokio::time::Instant::now();
    let bobs = site.launch(bobs).await;
    assert_eq!(site.state(bobs).await, State::Running);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(site.world.all_execs().len(), 1);
    site.world.hold_up(None);
    until("all run", || site.world.all_execs().len() == 101).await;
}

/// The store has given turns and its answer was lost: the rows tell, and none is forgotten.
#[tokio::test(start_paused = true)]
async fn a_turn_whose_answer_was_lost_is_taken_all_the_same() {
    let site = Site::new(1).await;
    let first = site.launch(waits("p", 0)).await;
    let a = site.launch(waits("p", 0)).await;
    site.store.lose_turns();
    site.world.exit(first, 0);
    site.becomes(a, State::Running).await;
    // The row says so a moment before.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(site.world.execs(a), 1);
    assert_eq!(site.engine.queued_count(), 0);
}

/// Somebody else takes one out of the queue, as another host of a fleet does.
#[tokio::test(start_paused = true)]
async fn what_others_have_cancelled_is_noticed() {
    let site = Site::new(1).await;
    site.launch(waits("p", 0)).await;
    let a = site.launch(waits("p", 0)).await;
    let change = stratavore::domain::runner::Change {
        id: a,
        step: stratavore::domain::runner::Step::End(
            stratavore::domain::Exit {
                cause: Cause::Cancelled,
                code: None,
                signal: None,
                message: String::new(),
            },
            Default::default(),
        ),
        actor: alice(),
        at: Timestamp(5),
    };
    site.store.apply(change).await.unwrap();
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(site.engine.queued_count(), 0);
    assert!(site.drawer.kept().is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_while_nobody_waits() {
    let site = Site::new(1).await;
    let asked = site.store.turns_asked();
    let a = site.launch(request(None)).await;
    site.world.exit(a, 0);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(site.store.turns_asked(), asked);
}

/// A row that waits for a host which this one has been under another id.
#[tokio::test(start_paused = true)]
async fn who_waits_on_a_host_that_is_gone_ends() {
    let store = store().await;
    let hold = stratavore::domain::hold::Hold {
        scope: HoldScope::Fleet,
        until: None,
        freeze: false,
        reason: String::new(),
        actor: alice(),
        set_at: Timestamp(1),
    };
    stratavore::ports::Policies::set_hold(&*store, hold)
        .await
        .unwrap();
    let id = RunnerId::from_uuid(uuid::Uuid::now_v7());
    let new = NewRunner {
        id,
        spec: waits("p", 0).spec,
        host: "former".to_owned(),
        host_max: None,
        request: None,
        queue: true,
        full: None,
        order: None,
        actor: alice(),
        at: Timestamp(1),
    };
    store.admit(new).await.unwrap();
    assert_eq!(store.queued("former").await.unwrap().len(), 1);
    let site = Site::with(store, World::lucky(), drawer()).await;
    site.becomes(id, State::Ended).await;
}

/// Everything fails now and then, the daemon is started again: each command runs at most once, and
/// each runner that waited has run, or it is told that it has not.
async fn one_world(seed: u64) {
    let store = store().await;
    let world = World::new(seed);
    let drawer = drawer();
    let mut luck = Luck::new(seed ^ 0xa11);
    let mut told = BTreeSet::new();
    for _ in 0..3 {
        let site = Site::with(store.clone(), world.clone(), drawer.clone()).await;
        let mut launches = tokio::task::JoinSet::new();
        for _ in 0..25 {
            match luck.below(10) {
                0..=4 => {
                    let engine = site.engine.clone();
                    let request = waits("p", i32::try_from(luck.below(3)).unwrap());
                    launches.spawn(async move { engine.launch(request, alice()).await });
                }
                5 => {
                    let waiting = store.queued("h").await.unwrap_or_default();
                    if let Some(runner) = waiting.first() {
                        let stop = site.engine.stop(runner.id, alice());
                        let _ = tokio::time::timeout(Duration::from_secs(60), stop).await;
                    }
                }
                6..=7 => world.end_one(&mut luck),
                8 => store.away(luck.one_in(2)),
                _ => world.agent_crash().await,
            }
            tokio::time::sleep(Duration::from_millis(u64::from(luck.below(400)))).await;
        }
        store.away(false);
        if luck.one_in(2) {
            drop(launches);
            world.daemon_gone();
        } else {
            while let Some(launched) = launches.join_next().await {
                if let Ok(launched) = launched.unwrap() {
                    told.insert(launched.runner.id);
                }
            }
        }
        site.engine.shutdown(Duration::from_secs(1)).await;
        world.daemon_gone();
    }
    world.heal();
    let site = Site::with(store.clone(), world.clone(), drawer.clone()).await;
    // Slots are freed until nobody waits any more.
    for _ in 0..2_000 {
        let rows = rows(&store).await;
        let Some(next) = rows.iter().find(|r| r.state() != State::Ended) else {
            break;
        };
        let running = rows.iter().find(|r| r.state() == State::Running);
        world.exit(running.unwrap_or(next).id, 0);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    settled(&world, &store).await;
    for (id, times) in world.all_execs() {
        assert_eq!(times, 1, "seed {seed}: {id}");
    }
    for row in rows(&store).await {
        assert_eq!(row.state(), State::Ended, "seed {seed}: {}", row.id);
        let cause = row.exit.as_ref().map(|e| e.cause).unwrap();
        let ran = world.execs(row.id) == 1;
        let nothing = matches!(cause, Cause::LaunchFailed | Cause::Cancelled);
        assert_eq!(ran, !nothing, "seed {seed}: {} {:?}", row.id, row.exit);
    }
    assert!(drawer.kept().is_empty(), "seed {seed}");
    assert_eq!(site.engine.queued_count(), 0, "seed {seed}");
}

#[test]
fn none_is_lost_and_none_runs_twice_whatever_fails() {
    let worlds = std::env::var("STRATAVORE_WORLDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(150);
    for seed in 1..=worlds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(one_world(seed));
    }
}
