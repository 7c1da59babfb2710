//! Notifications while their receivers do what they like.

use super::*;
use std::sync::Mutex;
use stratavore::domain::budget::{Budget, Counts, OnExhausted, Tokens};
use stratavore::domain::notify::{Address, Format, Pattern, Rule};
use stratavore::domain::period::Period;
use stratavore::domain::secret::Secret;
use stratavore::engine::{Fares, Subscriber};
use stratavore::ports::{Courier, Letter, Undelivered};
use tokio::sync::Semaphore;

/// A receiver that takes letters while it is let, and answers what it is told to.
#[derive(Debug)]
struct Receiver {
    turns: Semaphore,
    answer: Mutex<Result<(), Undelivered>>,
    letters: Mutex<Vec<Letter>>,
}

impl Receiver {
    fn new(turns: usize) -> Arc<Self> {
        Arc::new(Self {
            turns: Semaphore::new(turns),
            answer: Mutex::new(Ok(())),
            letters: Mutex::default(),
        })
    }

    fn answers(&self, answer: Result<(), Undelivered>) {
        *self.answer.lock().unwrap() = answer;
    }

    fn letters(&self) -> Vec<Letter> {
        self.letters.lock().unwrap().clone()
    }
}

#[async_trait::async_trait]
impl Courier for Receiver {
    async fn post(&self, letter: &Letter) -> Result<(), Undelivered> {
        self.turns.acquire().await.unwrap().forget();
        self.letters.lock().unwrap().push(letter.clone());
        self.answer.lock().unwrap().clone()
    }
}

fn rule(name: &str, types: &[&str]) -> Subscriber {
    Subscriber {
        name: name.to_owned(),
        rule: Rule {
            types: types.iter().map(|t| Pattern::parse(t).unwrap()).collect(),
            ..Rule::default()
        },
        format: Format::Json,
        to: Address::parse("https://hooks.example/hunter2"),
        secret: Some(Secret::new("0123456789abcdef".to_owned())),
    }
}

async fn engine(world: &World, rules: Vec<Subscriber>, receiver: &Arc<Receiver>) -> Engine {
    engine_of(&store().await, world, rules, receiver).await
}

async fn engine_of(
    store: &Arc<FakeStore>,
    world: &World,
    rules: Vec<Subscriber>,
    receiver: &Arc<Receiver>,
) -> Engine {
    let store = Arc::clone(store);
    let (host, notices) = world.connect();
    let engine = Engine::start(settings(), store, host, drawer(), notices);
    let courier: Arc<dyn Courier> = receiver.clone();
    engine.notify(rules, &courier);
    adopted(&engine).await;
    engine
}

/// Launches one and has it exit with 1.
async fn fail_one(engine: &Engine, world: &World) {
    let launched = engine.launch(request(None), alice()).await.unwrap();
    let id = launched.runner.id;
    world.exit(id, 1);
    until("its lane has closed", || engine.live_runner(id).is_none()).await;
}

fn fares(engine: &Engine, name: &str) -> Fares {
    let all = engine.notifications();
    all.into_iter().find(|(s, _)| s.name == name).unwrap().1
}

fn header<'a>(letter: &'a Letter, name: &str) -> &'a str {
    let found = letter.headers.iter().find(|(n, _)| *n == name);
    found.map_or("", |(_, value)| value)
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_holds_up_nobody() {
    let (world, stuck) = (World::lucky(), Receiver::new(0));
    let mut all = rule("all", &["*"]);
    (all.rule.repeat, all.rule.per_hour) = (1, 3_600);
    let engine = engine(&world, vec![all], &stuck).await;
    for _ in 0..200 {
        fail_one(&engine, &world).await;
    }
    // All were launched and have ended; what waits is bounded, and the rest is counted.
    let told = fares(&engine, "all");
    assert_eq!((told.sent, told.failed), (0, 0));
    assert!((64..=65).contains(&told.waiting), "{told:?}");
    // Each runner has at least three events.
    assert!(told.dropped >= 600 - 65, "{told:?}");
    assert!(engine.test_notification("none").await.is_err());
    // Let go, it takes what waited.
    stuck.turns.add_permits(10_000);
    until("it has taken all", || fares(&engine, "all").waiting == 0).await;
    assert_eq!(fares(&engine, "all").sent, told.waiting);
    assert_eq!(stuck.letters().len() as u64, told.waiting);
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_told_and_then_over() {
    let (world, receiver) = (World::lucky(), Receiver::new(10_000));
    let engine = engine(&world, vec![rule("ops", &["runner.ended"])], &receiver).await;
    receiver.answers(Err(Undelivered::Later("it answers 500".to_owned())));
    fail_one(&engine, &world).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(engine.notifications_failing(), ["ops"]);
    tokio::time::sleep(Duration::from_secs(300)).await;
    let tried = receiver.letters();
    assert_eq!(tried.len(), 5);
    let ids: BTreeSet<_> = tried
        .iter()
        .map(|l| header(l, "Stratavore-Message"))
        .collect();
    assert_eq!(ids.len(), 1);
    for letter in &tried {
        assert!(header(letter, "Stratavore-Signature").starts_with("v1="));
        assert!(!format!("{letter:?}").contains("hunter2"));
    }
    let told = fares(&engine, "ops");
    assert_eq!((told.sent, told.failed, told.waiting), (0, 1, 0));
    assert_eq!(told.last_failure.unwrap().1, "it answers 500");
    // The next one is another message; refused for good, it is tried once.
    receiver.answers(Err(Undelivered::Never("it answers 404".to_owned())));
    fail_one(&engine, &world).await;
    tokio::time::sleep(Duration::from_secs(700)).await;
    assert_eq!(receiver.letters().len(), 6);
    // A test says what is wrong at once, and one that arrives ends the trouble.
    let tested = engine.test_notification("ops").await.unwrap();
    assert_eq!(tested.unwrap_err(), "it answers 404");
    receiver.answers(Ok(()));
    assert_eq!(engine.test_notification("ops").await.unwrap(), Ok(()));
    assert!(engine.notifications_failing().is_empty());
    let metrics = engine.metrics().gather();
    let family = metrics
        .iter()
        .find(|f| f.name() == "stratavore_notifications_total");
    let counts: Vec<_> = family
        .unwrap()
        .get_metric()
        .iter()
        .map(|m| m.get_counter().get_value())
        .collect();
    // dropped, failed, sent
    assert_eq!(counts, [0.0, 2.0, 1.0]);
}

#[tokio::test(start_paused = true)]
async fn like_events_make_one_message_and_then_their_number() {
    let (world, receiver) = (World::lucky(), Receiver::new(10_000));
    let lost = Subscriber {
        to: Err("there is no address".to_owned()),
        ..rule("lost", &["*"])
    };
    let engine = engine(
        &world,
        vec![rule("ops", &["runner.ended"]), lost],
        &receiver,
    )
    .await;
    for _ in 0..25 {
        fail_one(&engine, &world).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(receiver.letters().len(), 1);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let letters = receiver.letters();
    assert_eq!(letters.len(), 2);
    let second: serde_json::Value = serde_json::from_str(&letters[1].body).unwrap();
    assert_eq!(second["more"], 23);
    assert_eq!(second["event"]["type"], "org.stratavore.runner.ended");
    // A rule without an address says so, and takes part in nothing.
    assert_eq!(engine.notifications_failing(), ["lost"]);
    assert_eq!(fares(&engine, "lost").waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_tells_what_was_only_counted() {
    let (world, receiver) = (World::lucky(), Receiver::new(10_000));
    let engine = engine(&world, vec![rule("ops", &["runner.ended"])], &receiver).await;
    for _ in 0..3 {
        fail_one(&engine, &world).await;
    }
    until("one is sent", || fares(&engine, "ops").sent > 0).await;
    assert_eq!(receiver.letters().len(), 1, "the others are like it");
    engine.shutdown(Duration::from_secs(1)).await;
    engine.end_notifications(Duration::from_secs(5)).await;
    let letters = receiver.letters();
    assert_eq!(letters.len(), 2, "{letters:#?}");
    let last: serde_json::Value = serde_json::from_str(&letters[1].body).unwrap();
    assert_eq!(last["more"], 1, "{last:#}");
    // There is nothing more, and nobody to be asked.
    engine.end_notifications(Duration::from_secs(5)).await;
    assert_eq!(receiver.letters().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_a_receiver_only_so_long() {
    let (world, stuck) = (World::lucky(), Receiver::new(0));
    let engine = engine(&world, vec![rule("ops", &["runner.ended"])], &stuck).await;
    fail_one(&engine, &world).await;
    let begun = tokio::time::Instant::now();
    engine.end_notifications(Duration::from_secs(5)).await;
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert_eq!(fares(&engine, "ops").waiting, 1);
}

/// What waits for its next try has one at the stop, and one alone; so has what waits behind it.
#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_no_next_try() {
    for answer in [Ok(()), Err(Undelivered::Later("it is away".to_owned()))] {
        let (world, receiver) = (World::lucky(), Receiver::new(10_000));
        receiver.answers(Err(Undelivered::Later("it is away".to_owned())));
        let rules = vec![rule("ops", &["runner.running", "runner.ended"])];
        let engine = engine(&world, rules, &receiver).await;
        fail_one(&engine, &world).await;
        // The third try of the first message has failed: the next one would come after half a minute.
        while receiver.letters().len() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        receiver.answers(answer.clone());
        let begun = tokio::time::Instant::now();
        engine.end_notifications(Duration::from_secs(5)).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let letters = receiver.letters();
        let ids: Vec<_> = letters
            .iter()
            .map(|l| header(l, "Stratavore-Message"))
            .collect();
        assert_eq!(letters.len(), 5, "{ids:?}");
        assert!(ids[..4].iter().all(|id| *id == ids[0]) && ids[4] != ids[0]);
        let told = fares(&engine, "ops");
        let counted = (told.sent, told.failed, told.waiting);
        match answer {
            Ok(()) => assert_eq!(counted, (2, 0, 0)),
            Err(_) => assert_eq!(counted, (0, 2, 0)),
        }
    }
}

/// What was told of a budget is in the store, in the transaction that used it up so far: a daemon that is started again, or
/// was killed, tells what comes next and nothing again.
#[tokio::test(start_paused = true)]
async fn a_budget_is_told_once_over_restarts() {
    let (world, receiver, store) = (World::lucky(), Receiver::new(10_000), store().await);
    let start = async || {
        let rules = vec![rule("ops", &["budget.*"])];
        engine_of(&store, &world, rules, &receiver).await
    };
    let used = |input| Tokens {
        input,
        ..Tokens::default()
    };
    let mut engine = start().await;
    let budget = Budget {
        scope: "project:p".parse().unwrap(),
        period: Period::None,
        limit: 1_000,
        timezone: "UTC".to_owned(),
        on_exhausted: OnExhausted::Deny,
        counts: Counts::default(),
        created_at: Timestamp(0),
    };
    engine.set_budget(budget, alice()).await.unwrap();
    let mut wanted = request(None);
    wanted.spec.tokens = Some(900);
    let id = engine.launch(wanted, alice()).await.unwrap().runner.id;
    engine.report(id, used(850)).await.unwrap();
    until("80 % are told", || fares(&engine, "ops").sent == 1).await;
    for (killed, reported) in [(false, 860), (true, 870)] {
        if killed {
            world.daemon_gone();
        } else {
            engine.shutdown(Duration::from_secs(1)).await;
            engine.end_notifications(Duration::from_secs(5)).await;
        }
        engine = start().await;
        engine.report(id, used(reported)).await.unwrap();
        // Longer than like events make one message.
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert_eq!(receiver.letters().len(), 1, "killed: {killed}");
    }
    engine.report(id, used(1_001)).await.unwrap();
    until("the rest is told", || receiver.letters().len() == 3).await;
    let letters = receiver.letters();
    let told = letters.iter().map(|l| {
        let body: serde_json::Value = serde_json::from_str(&l.body).unwrap();
        let event = &body["event"];
        let kind = event["type"].as_str().unwrap().to_owned();
        (kind, event["data"]["percent"].as_u64())
    });
    let told: Vec<_> = told.collect();
    let of = |kind: &str, percent| (format!("org.stratavore.budget.{kind}"), percent);
    let all = [
        of("threshold", Some(80)),
        of("threshold", Some(100)),
        of("exceeded", None),
    ];
    assert_eq!(told, all);
}
