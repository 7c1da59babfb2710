//! A host of a fleet: its lease, what becomes of it when it is given up, and the self-fence.

use super::*;
use stratavore::domain::fence::{Deadline, Fence};
use stratavore::domain::host::{Host, Load, Registration, Standing};
use stratavore::engine::Membership;
use stratavore::ports::{Beat, EventFilter, Hosts};

const SECOND: u64 = 1_000_000;
/// Longer than the lease, in simulated time.
const LONG: Duration = Duration::from_secs(8);

fn of_a_fleet() -> Settings {
    Settings {
        sole_host: false,
        ..settings()
    }
}

fn fenced() -> Settings {
    let fence = Fence::new(20 * SECOND, 60 * SECOND, 5 * SECOND, 10 * SECOND).unwrap();
    Settings {
        fleet: Membership {
            fence: Some(fence),
            ..fakes::membership()
        },
        ..of_a_fleet()
    }
}

async fn host(store: &FakeStore) -> Host {
    let (_, hosts) = store.hosts().await.unwrap();
    hosts.into_iter().find(|h| h.about.host == "h").unwrap()
}

/// Until it is so, in simulated time.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(found) = ask().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

async fn lease_is(engine: &Engine, well: bool) -> Option<String> {
    let mut health = engine.health();
    let changed = health.wait_for(|h| h.lease.is_none() == well && (!well || h.adopted));
    let health = tokio::time::timeout(Duration::from_secs(60), changed).await;
    health.expect("in time").unwrap().lease.clone()
}

/// The events of one runner, or of the host.
async fn story(store: &FakeStore, subject: String) -> Vec<&'static str> {
    let filter = EventFilter {
        limit: 1000,
        ..Default::default()
    };
    let events = store.events(filter).await.unwrap();
    let of = events.iter().filter(|e| e.draft.subject == subject);
    of.map(|e| e.draft.kind.short()).collect()
}

async fn launch(engine: &Engine) -> RunnerId {
    let launched = engine.launch(request(None), alice()).await;
    launched.unwrap().runner.id
}

#[tokio::test(start_paused = true)]
async fn it_joins_before_it_takes_launches_and_renews() {
    let (store, world) = (store().await, World::lucky());
    store.away(true);
    let (agent, notices) = world.connect();
    let engine = Engine::start(of_a_fleet(), store.clone(), agent, drawer(), notices);
    tokio::time::sleep(LONG).await;
    let refused = engine.launch(request(None), alice()).await;
    assert!(matches!(refused, Err(e) if e.kind == ErrorKind::StoreUnavailable));
    assert_eq!(engine.epoch(), None);
    store.away(false);
    adopted(&engine).await;
    let first = host(&store).await;
    assert_eq!((first.epoch, first.standing), (1, Standing::Up));
    assert_eq!(first.load.cpus, 8);
    assert_eq!(first.fenced_after, None);
    let mut big = request(None);
    big.spec.limits.memory_max = Some(1 << 30);
    engine.launch(big, alice()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let later = host(&store).await;
    assert!(later.renewed_at > first.renewed_at);
    assert_eq!((later.epoch, later.load.memory_promised), (1, 1 << 30));
    let left = engine.lease_left().unwrap();
    assert!(left > 3 * SECOND && left <= 5 * SECOND, "{left}");
    let peers = until("the peers are read", async || engine.peers()).await;
    assert_eq!(peers.count()[&Standing::Up], 1);
    // Nobody has a fence, and the agent knows that.
    assert_eq!(world.fences().0, [None]);
    world.agent_crash().await;
    until("it is told again", async || {
        (world.fences().0.len() == 2).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn past_its_lease_a_host_launches_nothing_and_all_goes_on() {
    let (store, world) = (store().await, World::lucky());
    let (agent, notices) = world.connect();
    let engine = Engine::start(of_a_fleet(), store.clone(), agent, drawer(), notices);
    adopted(&engine).await;
    let id = launch(&engine).await;
    store.away(true);
    let why = lease_is(&engine, false).await.unwrap();
    assert!(why.contains("run out") && why.contains("5s"), "{why}");
    let lacking = engine.health().borrow().lacking();
    assert!(lacking.iter().any(|l| l.contains("run out")), "{lacking:?}");
    assert_eq!(engine.lease_left(), Some(0));
    let refused = engine.launch(request(None), alice()).await;
    assert!(matches!(refused, Err(e) if e.kind == ErrorKind::StoreUnavailable));
    assert!(world.alive().contains(&id));
    store.away(false);
    lease_is(&engine, true).await;
    adopted(&engine).await;
    launch(&engine).await;
    assert_eq!(host(&store).await.epoch, 1, "nobody had given it up");
    assert!(world.alive().contains(&id));
}

/// A host that joins again reads its rows, and the ending of one of its runners is written just after that: the rows say
/// that it lives, the host shows nothing of it, and nobody is to end it a second time.
#[tokio::test(start_paused = true)]
async fn who_ends_while_the_rows_are_read_gets_no_second_lane() {
    let (store, world) = (store().await, World::lucky());
    let (agent, notices) = world.connect();
    let engine = Engine::start(of_a_fleet(), store.clone(), agent, drawer(), notices);
    adopted(&engine).await;
    let (ends, stays) = (launch(&engine).await, launch(&engine).await);
    store.hold_steps(true);
    world.exit(ends, 0);
    store.live.hold();
    let about = host(&store).await.about;
    let beat = Beat {
        ttl: 5 * SECOND,
        fenced_after: None,
        load: Load::default(),
    };
    let joins = async move |store: Arc<stratavore::adapters::sqlite::SqliteStore>| {
        store.join(about, beat).await
    };
    store.behind(joins).await.unwrap();
    store.live.is_held().await;
    store.hold_steps(false);
    until("its lane has closed", async || {
        engine.live_runner(ends).is_none().then_some(())
    })
    .await;
    store.live.release();
    adopted(&engine).await;
    assert_eq!(host(&store).await.epoch, 3, "it has joined again");
    // Whatever was opened for it has come to its end by now.
    tokio::time::sleep(LONG).await;
    assert_eq!(store.refused(), 0, "it was ended a second time");
    let live: Vec<RunnerId> = engine.live().iter().map(|r| r.id).collect();
    assert_eq!(live, [stays]);
    let row = store.runner(ends).await.unwrap().unwrap();
    assert_eq!(row.exit.map(|e| e.cause), Some(Cause::Success));
}

/// Forgotten while it was away: what the store has ended is stopped, what ended here meanwhile is dropped.
#[tokio::test(start_paused = true)]
async fn a_host_that_was_forgotten_joins_again_and_stops_what_has_ended() {
    let (store, world) = (store().await, World::lucky());
    let (agent, notices) = world.connect();
    let engine = Engine::start(of_a_fleet(), store.clone(), agent, drawer(), notices);
    adopted(&engine).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(launch(&engine).await);
    }
    store.away(true);
    lease_is(&engine, false).await;
    world.exit(ids[0], 3);
    engine.freeze(ids[1], alice()).await.unwrap();
    store.give_up("h").await;
    assert_eq!(world.alive().len(), 2, "nothing is stopped by that");
    store.away(false);
    lease_is(&engine, true).await;
    settled(&world, &store).await;
    assert!(world.alive().is_empty() && engine.live().is_empty());
    for id in &ids {
        let exit = store.runner(*id).await.unwrap().unwrap().exit.unwrap();
        assert_eq!(exit.cause, Cause::HostLost);
        let told = story(&store, format!("runner/{id}")).await;
        assert_eq!(told, ["runner.starting", "runner.running", "runner.ended"]);
    }
    let told = story(&store, "host/h".to_owned()).await;
    assert_eq!(
        told,
        ["host.joined", "host.left", "host.joined", "host.returned"]
    );
    let known = host(&store).await;
    assert_eq!(engine.epoch(), Some(known.epoch));
    assert_eq!((known.live, known.standing), (0, Standing::Up));
    launch(&engine).await;
}

/// Its epoch is over, and nobody has ended its rows: all goes on, and what ended meanwhile is told once.
#[tokio::test(start_paused = true)]
async fn a_host_that_joins_again_takes_over_what_lives() {
    let (store, world) = (store().await, World::lucky());
    let (agent, notices) = world.connect();
    let engine = Engine::start(of_a_fleet(), store.clone(), agent, drawer(), notices);
    adopted(&engine).await;
    let [a, b, c] = [
        launch(&engine).await,
        launch(&engine).await,
        launch(&engine).await,
    ];
    store.away(true);
    world.exit(a, 3);
    engine.freeze(b, alice()).await.unwrap();
    let again = async |s: Arc<stratavore::adapters::sqlite::SqliteStore>| {
        let (_, hosts) = s.hosts().await?;
        let beat = Beat {
            ttl: 0,
            fenced_after: None,
            load: Load::default(),
        };
        s.join(hosts[0].about.clone(), beat).await
    };
    let (writer, _) = store.behind(again).await.unwrap();
    store.away(false);
    until("it has joined again", async || {
        (engine.epoch() > Some(writer.epoch)).then_some(())
    })
    .await;
    adopted(&engine).await;
    settled(&world, &store).await;
    assert_eq!(world.alive(), BTreeSet::from([b, c]));
    let ended = store.runner(a).await.unwrap().unwrap().exit.unwrap();
    assert_eq!((ended.cause, ended.code), (Cause::ExitCode, Some(3)));
    let told = story(&store, format!("runner/{a}")).await;
    assert_eq!(told, ["runner.starting", "runner.running", "runner.ended"]);
    assert_eq!(
        store.runner(b).await.unwrap().unwrap().state(),
        State::Frozen
    );
    assert_eq!(
        store.runner(c).await.unwrap().unwrap().state(),
        State::Running
    );
    engine.stop(c, alice()).await.unwrap();
}

/// Another machine with the same machine-id: it is named, and nothing is launched by who came second.
#[tokio::test(start_paused = true)]
async fn a_cloned_machine_id_is_named() {
    let (store, world) = (store().await, World::lucky());
    let (agent, notices) = world.connect();
    let engine = Engine::start(of_a_fleet(), store.clone(), agent, drawer(), notices);
    adopted(&engine).await;
    let id = launch(&engine).await;
    let clone = Registration {
        boot_id: "another".to_owned(),
        name: "clone".to_owned(),
        ..host(&store).await.about
    };
    let beat = Beat {
        ttl: 60 * SECOND,
        fenced_after: None,
        load: Load::default(),
    };
    // The lease of the one has run out when the other joins.
    let epoch = engine.epoch().unwrap();
    let joins = async move |s: Arc<stratavore::adapters::sqlite::SqliteStore>| {
        let ends = Beat {
            ttl: 0,
            ..beat.clone()
        };
        let writer = stratavore::ports::Writer {
            host: "h".to_owned(),
            epoch,
        };
        s.renew(&writer, ends).await?;
        s.join(clone.clone(), beat.clone()).await
    };
    while store.behind(joins.clone()).await.is_err() {}
    let why = until("it is named", async || {
        let lease = engine.health().borrow().lease.clone();
        lease.filter(|why| why.contains("same machine-id"))
    })
    .await;
    assert!(
        why.contains("“clone”") && why.contains("systemd-machine-id-setup"),
        "{why}"
    );
    let refused = engine.launch(request(None), alice()).await.unwrap_err();
    assert!(refused.message.contains("same machine-id"), "{refused}");
    assert!(world.alive().contains(&id), "what runs goes on");
}

#[tokio::test(start_paused = true)]
async fn a_fence_is_promised_only_while_everybody_keeps_it() {
    let (store, world) = (store().await, World::lucky());
    let (agent, notices) = world.connect();
    let engine = Engine::start(fenced(), store.clone(), agent, drawer(), notices);
    adopted(&engine).await;
    let promised = async || host(&store).await.fenced_after;
    until("it is promised", async || promised().await).await;
    assert_eq!(promised().await, Some(60 * SECOND));
    let id = launch(&engine).await;
    tokio::time::sleep(LONG).await;
    let (fences, launches) = world.fences();
    let deadlines: Vec<Deadline> = fences.iter().map(|f| f.unwrap()).collect();
    assert!(
        deadlines.len() > 5 && deadlines.is_sorted(),
        "{deadlines:?}"
    );
    assert!(launches[0] >= Some(deadlines[0]), "a launch is armed, too");

    // A stop that would take too long is refused, at the launch and later.
    let mut slow = request(None);
    slow.spec.limits.stop_timeout = Some(60 * SECOND);
    let limits = slow.spec.limits.clone();
    let refused = engine.launch(slow, alice()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::LimitsExceeded, "{refused}");
    let refused = engine.set_limits(id, limits, alice()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::LimitsExceeded, "{refused}");

    // A shim that does not keep it: nobody counts on it any more, and does again when it is gone.
    world.unarmed(vec![id]);
    until("it is taken back", async || {
        promised().await.is_none().then_some(())
    })
    .await;
    world.unarmed(Vec::new());
    until("it is promised again", async || promised().await).await;

    // While the store is away nobody is told of a later deadline.
    store.away(true);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = world.fences().0.len();
    tokio::time::sleep(LONG).await;
    assert_eq!(world.fences().0.len(), before);
}

/// Runners of an earlier daemon without a fence may take longer to stop than the fence has room for.
#[tokio::test(start_paused = true)]
async fn a_fence_is_not_promised_for_runners_that_stop_too_slowly() {
    let (store, world) = (store().await, World::lucky());
    let (agent, notices) = world.connect();
    let engine = Engine::start(of_a_fleet(), store.clone(), agent, drawer(), notices);
    adopted(&engine).await;
    let mut slow = request(None);
    slow.spec.limits.stop_timeout = Some(60 * SECOND);
    let id = engine.launch(slow, alice()).await.unwrap().runner.id;
    engine.shutdown(Duration::from_secs(1)).await;
    world.daemon_gone();
    let (agent, notices) = world.connect();
    let engine = Engine::start(fenced(), store.clone(), agent, drawer(), notices);
    adopted(&engine).await;
    tokio::time::sleep(LONG).await;
    assert!(
        world.fences().0.iter().any(Option::is_some),
        "all are armed"
    );
    assert_eq!(host(&store).await.fenced_after, None);
    world.exit(id, 0);
    until("it is promised", async || host(&store).await.fenced_after).await;
}

/// Its lease holds, but it can launch nothing: its peers are told within a second, and also when it can again.
#[tokio::test(start_paused = true)]
async fn a_host_whose_agent_is_away_says_so() {
    let (store, world) = (store().await, World::lucky());
    let (agent, notices) = world.connect();
    let engine = Engine::start(of_a_fleet(), store.clone(), agent, drawer(), notices);
    adopted(&engine).await;
    let says = async |away: bool| {
        let began = tokio::time::Instant::now();
        let same = async || (host(&store).await.load.away == away).then_some(());
        until("it says so", same).await;
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
    };
    says(false).await;
    let connection = world.agent_gone();
    says(true).await;
    world.come_back(connection);
    adopted(&engine).await;
    says(false).await;
    let state = engine.lease_state().unwrap();
    assert_eq!((state.epoch, state.stops_in), (Some(1), None));
}
