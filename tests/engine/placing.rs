//! Launches through the store: as they are asked for here, and as they are carried out for another host, whatever is
//! lost on the way.

use super::fakes::FakeStore;
use super::world::World;
use super::{adopted, alice, drawer, request, rows, settings, store};
use std::sync::Arc;
use std::time::Duration;
use stratavore::adapters::sqlite::SqliteStore;
use stratavore::domain::audit::Key;
use stratavore::domain::event::Actor;
use stratavore::domain::host::{Load, Registration};
use stratavore::domain::order::{Order, Outcome, Progress, Right, Verb};
use stratavore::domain::placed::Placing;
use stratavore::domain::runner::{Change, Step};
use stratavore::domain::spec::Setenv;
use stratavore::domain::{Cause, Error, ErrorKind, Exit, RunnerId, State, Timestamp, Usage};
use stratavore::engine::{Engine, LaunchRequest, Settings};
use stratavore::ports::{Admitted, Audit, Beat, EventFilter, Hosts, NewRunner, Orders, Store};

const SECOND: u64 = 1_000_000;

/// Another host that has joined.
async fn joined(store: &FakeStore, host: &'static str, ttl: u64) {
    let join = async move |s: Arc<SqliteStore>| {
        let about = Registration {
            host: host.to_owned(),
            name: format!("{host}.example"),
            boot_id: host.to_owned(),
            labels: Default::default(),
            max_runners: None,
            version: String::new(),
            advertise: String::new(),
        };
        let beat = Beat {
            ttl,
            fenced_after: None,
            load: Load::default(),
        };
        s.join(about, beat).await
    };
    store.behind(join).await.unwrap();
}

/// The host `h`, with h1 that is up and h2 that is not.
async fn fleet() -> (Arc<FakeStore>, World, Engine) {
    fleet_on(store().await).await
}

async fn fleet_on(store: Arc<FakeStore>) -> (Arc<FakeStore>, World, Engine) {
    let world = World::lucky();
    joined(&store, "h1", 600 * SECOND).await;
    joined(&store, "h2", 0).await;
    let (agent, notices) = world.connect();
    let settings = Settings {
        sole_host: false,
        ..settings()
    };
    let engine = Engine::start(settings, store.clone(), agent, drawer(), notices);
    adopted(&engine).await;
    (store, world, engine)
}

fn asker() -> Actor {
    Actor {
        host: Some("h1".to_owned()),
        ..alice()
    }
}

fn wanted() -> LaunchRequest {
    let mut request = request(None);
    request.setenv = vec![Setenv {
        name: "KEY".to_owned(),
        value: "secret".to_owned(),
    }];
    request
}

/// What h1 asks of h.
fn order(change: impl FnOnce(&mut Order, &mut Placing)) -> Order {
    let id = RunnerId::from_uuid(uuid::Uuid::now_v7());
    let mut placing = Placing {
        spec: wanted().spec,
        queue: false,
        request: None,
    };
    let mut order = Order {
        id: id.to_string(),
        target: "h".to_owned(),
        runner: id,
        verb: Verb::Stop,
        actor: asker(),
        right: Right::Own,
        from: "h1".to_owned(),
        expires_at: Timestamp(0),
        setenv: wanted().setenv,
    };
    change(&mut order, &mut placing);
    order.verb = Verb::Launch(Box::new(placing));
    order
}

async fn over(store: &FakeStore, order: &Order) -> Outcome {
    for _ in 0..3_000 {
        if let Progress::Over(outcome) = store.outcome(&order.id).await.unwrap() {
            return outcome;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nothing comes of it");
}

#[tokio::test(start_paused = true)]
async fn what_another_host_asks_for_runs_once_and_says_where_it_comes_from() {
    let (store, world, engine) = fleet().await;
    let order = order(|_, _| {});
    store.order(order.clone()).await.unwrap();
    assert_eq!(over(&store, &order).await, Outcome::Launched(order.runner));
    let row = store.runner(order.runner).await.unwrap().unwrap();
    assert_eq!((row.spec.uid, row.state()), (1007, State::Running));
    let placed = row.spec.placed.clone().unwrap();
    assert_eq!(
        (placed.host.as_str(), placed.name.as_str()),
        ("h1", "h1.example")
    );
    assert_eq!(
        (placed.uid, placed.user.as_deref()),
        (Some(1000), Some("alice"))
    );
    let filter = EventFilter {
        runner: Some(order.runner),
        limit: 10,
        ..Default::default()
    };
    let events = store.events(filter).await.unwrap();
    assert_eq!(events[0].draft.actor, asker());
    assert_eq!(world.alive().len(), 1);
    // Its placer may stop it, although their number is another one here; a namesake may not.
    for (from, number, may) in [("h1", 1000, true), ("h1", 1001, false), ("h2", 1000, false)] {
        let stop = Order {
            id: uuid::Uuid::now_v7().to_string(),
            verb: Verb::Freeze,
            actor: Actor {
                uid: Some(number),
                host: Some(from.to_owned()),
                ..alice()
            },
            ..order.clone()
        };
        store.order(stop.clone()).await.unwrap();
        let done = over(&store, &stop).await.into_result();
        assert_eq!(done.is_ok(), may, "{from} {number}: {done:?}");
    }
    engine.stop(order.runner, alice()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_root_does_not_accept_has_no_row() {
    let (store, world, _engine) = fleet().await;
    let not_permitted = [
        order(|order, placing| {
            placing.spec.user = "bob".to_owned();
            order.right = Right::Any;
        }),
        // As somebody else without the right.
        order(|order, _| order.actor.user = Some("mallory".to_owned())),
        // From hosts that are none, are away, or are this one.
        order(|order, _| (order.from, order.actor.host) = ("h9".into(), Some("h9".into()))),
        order(|order, _| (order.from, order.actor.host) = ("h2".into(), Some("h2".into()))),
        order(|order, _| (order.from, order.actor.host) = ("h".into(), Some("h".into()))),
        order(|order, _| order.actor.host = Some("h2".to_owned())),
        order(|order, _| order.id = uuid::Uuid::now_v7().to_string()),
    ];
    let invalid = [
        order(|_, placing| placing.spec.command.clear()),
        order(|_, placing| placing.spec.working_directory = Some("tmp".to_owned())),
        order(|order, _| order.setenv[0].value = "x".repeat(300 << 10)),
    ];
    for (order, kind) in not_permitted
        .into_iter()
        .map(|o| (o, ErrorKind::NotPermitted))
        .chain(invalid.into_iter().map(|o| (o, ErrorKind::InvalidArgument)))
    {
        store.order(order.clone()).await.unwrap();
        let refused = over(&store, &order).await.into_runner().unwrap_err();
        assert_eq!(refused.kind, kind, "{refused} {order:?}");
    }
    // What says that it was placed and is no order, or the other way round, is nothing.
    assert!(rows(&store).await.is_empty() && world.alive().is_empty());
}

/// Of one user of a host one refusal a second is written down, with the number of those it stands for.
#[tokio::test(start_paused = true)]
async fn refused_orders_do_not_fill_the_audit() {
    let store = store().await;
    let keep = async |s: Arc<SqliteStore>| {
        let key = Key::new(&(0..32).collect::<Vec<u8>>()).unwrap();
        s.keep_audit("h".to_owned(), vec![key]);
        Ok(())
    };
    store.behind(keep).await.unwrap();
    let (store, _world, _engine) = fleet_on(store).await;
    let refused = async |users: &[&str]| {
        let orders = users.iter().map(|user| {
            order(|order, placing| {
                placing.spec.user = "root".to_owned();
                order.right = Right::Any;
                order.actor.uid = Some(if *user == "bob" { 1001 } else { 1000 });
            })
        });
        let orders: Vec<Order> = orders.collect();
        for order in &orders {
            store.order(order.clone()).await.unwrap();
        }
        for order in &orders {
            over(&store, order).await.into_runner().unwrap_err();
        }
    };
    let told = async |count: usize| {
        for _ in 0..3_000 {
            let entries = store.entries("h", 0, u64::MAX, 1_000).await.unwrap();
            let texts = entries
                .iter()
                .map(|e| serde_json::from_str(&e.entry).unwrap());
            let acts = texts.filter(|t: &serde_json::Value| t["kind"] == "act.refused");
            let acts = acts.map(|t| (t["actor"]["uid"].as_u64(), t["data"]["count"].as_u64()));
            let acts: Vec<_> = acts.collect();
            if acts.len() >= count {
                return acts;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{count} refusals are not in the audit");
    };
    // All of them are taken in one look.
    refused(&["alice", "alice", "alice", "bob"]).await;
    let mut first = told(2).await;
    first.sort();
    assert_eq!(first, [(Some(1000), Some(1)), (Some(1001), Some(1))]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    refused(&["alice"]).await;
    assert_eq!(told(3).await[2], (Some(1000), Some(3)));
}

/// The places for launches of other hosts are not all one user's, however long the user's own take.
#[tokio::test(start_paused = true)]
async fn launches_that_take_long_leave_places_for_other_users() {
    let (store, world, engine) = fleet().await;
    let slow = |user: &str| {
        order(|order, placing| {
            (order.actor.user, order.right) = (Some(user.to_owned()), Right::Any);
            placing.spec.project = "slow".parse().unwrap();
        })
    };
    let name = "slow".parse().unwrap();
    engine
        .create_project(name, Default::default(), alice())
        .await
        .unwrap();
    let is_over = async |order: &Order| over(&store, order).await.into_runner();
    let begun = async |order: &Order| {
        store.order(order.clone()).await.unwrap();
        for _ in 0..3_000 {
            match store.outcome(&order.id).await.unwrap() {
                Progress::Begun => return,
                Progress::Waits => tokio::time::sleep(Duration::from_millis(20)).await,
                Progress::Over(outcome) => panic!("{outcome:?}"),
            }
        }
        panic!("it is not begun");
    };
    world.hold_up(Some("slow"));
    let own: Vec<Order> = (0..16).map(|_| slow("alice")).collect();
    for order in &own {
        begun(order).await;
    }
    let one_more = slow("alice");
    store.order(one_more.clone()).await.unwrap();
    let refused = is_over(&one_more).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::HostUnavailable);
    assert!(
        refused
            .message
            .contains("has 16 launches in hand that you asked for; 16 is the most of one user"),
        "{refused}"
    );
    assert!(store.runner(one_more.runner).await.unwrap().is_none());
    // There is room for somebody else, whose launch takes as long.
    let other = slow("bob");
    begun(&other).await;
    world.hold_up(None);
    for order in own.iter().chain([&other]) {
        assert_eq!(is_over(order).await, Ok(order.runner));
    }
    // And for the first one again.
    let again = slow("alice");
    store.order(again.clone()).await.unwrap();
    assert_eq!(is_over(&again).await, Ok(again.runner));
}

/// h1 as the tests play it: what it does with the order that it takes.
async fn take(store: &FakeStore) -> Order {
    for _ in 0..3_000 {
        if let Some(order) = store.take_orders("h1").await.unwrap().pop() {
            return order;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nothing is asked of it");
}

async fn admit(
    store: &FakeStore,
    order: &Order,
) -> Result<Admitted, stratavore::ports::StoreError> {
    let Verb::Launch(placing) = order.verb.clone() else {
        panic!("{order:?}")
    };
    let new = NewRunner {
        id: order.runner,
        spec: placing.spec,
        host: "h1".to_owned(),
        host_max: None,
        request: None,
        queue: false,
        full: None,
        order: Some(order.id.clone()),
        actor: order.actor.clone(),
        at: Timestamp(1),
    };
    store.admit(new).await
}

#[tokio::test(start_paused = true)]
async fn wherever_the_other_host_is_lost_the_asker_is_told_what_is_so() {
    let (store, _world, engine) = fleet().await;
    let me = || Actor {
        host: Some("h".to_owned()),
        ..alice()
    };
    let ask = || {
        let engine = engine.clone();
        tokio::spawn(async move { engine.launch_at("h1", wanted(), me()).await })
    };

    // Nobody is there, and that is known.
    let away = engine.launch_at("h2", wanted(), me()).await.unwrap_err();
    assert!(away.kind == ErrorKind::HostUnavailable && away.message.contains("unreachable"));
    let unknown = engine.launch_at("h9", wanted(), me()).await.unwrap_err();
    assert_eq!(unknown.kind, ErrorKind::NoSuchHost);

    // It answers.
    let (asked, order) = (ask(), take(&store).await);
    assert!(!format!("{order:?}").contains("secret"));
    assert_eq!((order.right, order.setenv.len()), (Right::Own, 1));
    store
        .answer(&order.id, Outcome::Launched(order.runner))
        .await
        .unwrap();
    assert_eq!(asked.await.unwrap(), Ok(order.runner));
    let (asked, order) = (ask(), take(&store).await);
    let no = Error::new(ErrorKind::QuotaExceeded, "Full.");
    store
        .answer(&order.id, Outcome::of(Err(no.clone())))
        .await
        .unwrap();
    assert_eq!(asked.await.unwrap(), Err(no));

    // Killed once its row was written: the row tells what came of it.
    let (asked, order) = (ask(), take(&store).await);
    admit(&store, &order).await.unwrap();
    let exit = Exit {
        cause: Cause::LaunchFailed,
        code: None,
        signal: None,
        message: "Nothing ran.".to_owned(),
    };
    let change = Change {
        id: order.runner,
        step: Step::End(exit, Usage::default()),
        actor: Actor::host(),
        at: Timestamp(2),
    };
    store.apply(change).await.unwrap();
    let failed = asked.await.unwrap().unwrap_err();
    assert!(failed.kind == ErrorKind::LaunchFailed && failed.message.contains("Nothing ran."));
    // And where it says nothing more, the caller is told whom to look at.
    let (asked, order) = (ask(), take(&store).await);
    admit(&store, &order).await.unwrap();
    let open = asked.await.unwrap().unwrap_err();
    assert_eq!(open.kind, ErrorKind::HostUnavailable);
    assert!(open.message.contains(&order.runner.to_string()), "{open}");

    // Killed before it took it, or before it wrote its row: there is never one.
    let asked = ask();
    let silent = asked.await.unwrap().unwrap_err();
    assert!(
        silent.message.contains("withdrawn and not carried out"),
        "{silent}"
    );
    let (asked, order) = (ask(), take(&store).await);
    let silent = asked.await.unwrap().unwrap_err();
    assert_eq!(silent.kind, ErrorKind::HostUnavailable);
    assert!(
        silent.message.contains("nothing runs and nothing will"),
        "{silent}"
    );
    assert!(
        admit(&store, &order).await.is_err(),
        "it comes back and goes on"
    );
    assert!(store.runner(order.runner).await.unwrap().is_none());

    // What can't be seen may have been done.
    let (asked, order) = (ask(), take(&store).await);
    store.away(true);
    let unseen = asked.await.unwrap().unwrap_err();
    assert_eq!(unseen.kind, ErrorKind::StoreUnavailable);
    let text = unseen.message;
    assert!(text.contains(&order.runner.to_string()), "{text}");
    assert!(!text.contains("Nothing was changed"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn the_same_request_is_one_runner_wherever_it_is_asked_of() {
    let (store, _world, engine) = fleet().await;
    let asked = |uid: u32| {
        let mut request = wanted();
        request.request_id = Some("r".to_owned());
        request.spec.uid = uid;
        request
    };
    let me = Actor {
        host: Some("h".to_owned()),
        ..alice()
    };
    let here = engine.launch(asked(1000), me.clone()).await.unwrap();
    let there = {
        let (engine, me) = (engine.clone(), me.clone());
        tokio::spawn(async move { engine.launch_at("h1", asked(1000), me).await })
    };
    let order = take(&store).await;
    let Verb::Launch(placing) = order.verb.clone() else {
        panic!("{order:?}")
    };
    // As h1 would ask the store, with another number for the same user.
    let (id, digest) = placing.request.clone().unwrap();
    let new = NewRunner {
        id: order.runner,
        spec: stratavore::domain::RunnerSpec {
            uid: 1007,
            ..placing.spec.clone()
        },
        host: "h1".to_owned(),
        host_max: None,
        request: Some(stratavore::ports::RequestKey {
            uid: 1000,
            id,
            digest,
        }),
        queue: false,
        full: None,
        order: Some(order.id.clone()),
        actor: order.actor.clone(),
        at: Timestamp(1),
    };
    let repeated = store.admit(new).await.unwrap();
    let Admitted::Repeated(runner) = repeated else {
        panic!("{repeated:?}")
    };
    assert_eq!(runner.id, here.runner.id);
    store
        .answer(&order.id, Outcome::Launched(runner.id))
        .await
        .unwrap();
    assert_eq!(there.await.unwrap(), Ok(here.runner.id));
}

#[tokio::test(start_paused = true)]
async fn a_mark_and_an_order_go_together() {
    let (store, _world, engine) = fleet().await;
    let mut marked = wanted();
    marked.spec.placed = Some(stratavore::domain::placed::Placed {
        host: "h1".to_owned(),
        name: "h1".to_owned(),
        uid: None,
        user: None,
    });
    assert!(engine.launch(marked, alice()).await.is_err());
    let mut unmarked = wanted();
    unmarked.order = Some(stratavore::engine::PlacedOrder {
        id: RunnerId::from_uuid(uuid::Uuid::now_v7()),
        digest: String::new(),
    });
    assert!(engine.launch(unmarked, alice()).await.is_err());
    assert!(rows(&store).await.is_empty());
}
