//! A wire that is cut without a word: silence, and the answer to a COMMIT that never comes.

use super::conformance::audit::{HOST, key, texts, verify};
use super::conformance::{
    admit, alice, apply, at, end, id, launch, live, placement, project, step, unavailable,
};
use super::outages::{BOUND, sound, until_it_works};
use super::*;
use crate::domain::State;
use crate::domain::audit::Act;
use crate::domain::hold::{Hold, HoldScope};
use crate::domain::runner::Step;
use crate::ports::{Admitted, Audit, Policies, Queue};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// Between a store and its server: hands on what comes, until it is told to hold it back.
#[derive(Debug, Clone)]
struct Wire {
    port: u16,
    cut: Arc<AtomicBool>,
    /// Nothing comes back from the server from this word on.
    deaf_after: Arc<std::sync::Mutex<Option<&'static [u8]>>>,
}

impl Wire {
    async fn to(socket: std::path::PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            port: listener.local_addr().unwrap().port(),
            cut: Arc::default(),
            deaf_after: Arc::default(),
        };
        let kept = wire.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = UnixStream::connect(&socket).await else {
                    continue;
                };
                tokio::spawn(kept.clone().carry(client, server));
            }
        });
        wire
    }

    async fn carry(self, client: TcpStream, server: UnixStream) {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let deaf = Arc::new(AtomicBool::new(false));
        let there = {
            let (wire, deaf) = (self.clone(), Arc::clone(&deaf));
            async move {
                let mut buffer = vec![0; 65_536];
                while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
                    wire.open().await;
                    let word = *wire.deaf_after.lock().unwrap();
                    if word.is_some_and(|word| buffer[..n].windows(word.len()).any(|w| w == word)) {
                        deaf.store(true, Ordering::SeqCst);
                        wire.cut.store(true, Ordering::SeqCst);
                    }
                    let _ = to_server.write_all(&buffer[..n]).await;
                }
            }
        };
        let back = async move {
            let mut buffer = vec![0; 65_536];
            while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
                if deaf.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                self.open().await;
                let _ = to_client.write_all(&buffer[..n]).await;
            }
        };
        // One that is closed by the client is closed to the server, unless it is cut: then nobody tells it.
        tokio::join!(there, back);
    }

    /// Waits while the wire is cut.
    async fn open(&self) {
        while self.cut.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn behind_a_wire() -> (Wire, PostgresStore) {
    let mut options = tokio::task::spawn_blocking(|| Cluster::shared().database())
        .await
        .unwrap();
    let wire = Wire::to(Cluster::shared().socket()).await;
    options.servers = vec![ServerAddress::Tcp("127.0.0.1".to_owned(), wire.port)];
    options.connect_timeout = Duration::from_secs(2);
    let store = PostgresStore::open(options, 3).await.unwrap();
    project(&store, "p", ProjectSettings::default()).await;
    (wire, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_silent_cut() {
    let (wire, store) = behind_a_wire().await;
    admit(&store, launch(1, "p")).await;
    store.runner(id(1)).await.unwrap();
    wire.cut.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    let (wrote, read) = tokio::join!(store.admit(launch(2, "p")), store.runner(id(1)));
    let (wrote, read) = (unavailable(wrote), unavailable(read));
    assert!(
        wrote.contains("does not answer") && read.contains("does not answer"),
        "{wrote}, {read}"
    );
    assert!(begun.elapsed() < within(BOUND), "{:?}", begun.elapsed());
    // The next ones need not wait as long.
    let begun = Instant::now();
    unavailable(store.admit(launch(3, "p")).await);
    assert!(
        begun.elapsed() < within(Duration::from_secs(4)),
        "{:?}",
        begun.elapsed()
    );
    wire.cut.store(false, Ordering::SeqCst);
    until_it_works(async || store.check().await).await;
    admit(&store, launch(4, "p")).await;
    assert_eq!(sound(&store).await.len(), 2);
}

/// The answer to COMMIT never comes, and the server can't be asked for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_whose_answer_is_lost() {
    let (wire, store) = behind_a_wire().await;
    admit(&store, launch(1, "p")).await;
    let lost = async |asked: &mut dyn FnMut()
        -> std::pin::Pin<Box<dyn Future<Output = String>>>| {
        *wire.deaf_after.lock().unwrap() = Some(b"COMMIT\0");
        let begun = Instant::now();
        let why = asked().await;
        assert!(
            begun.elapsed() < within(BOUND),
            "{why} after {:?}",
            begun.elapsed()
        );
        *wire.deaf_after.lock().unwrap() = None;
        wire.cut.store(false, Ordering::SeqCst);
    };
    let store = Arc::new(store);
    let run = step(1, Step::Run(placement()), 5_000);
    lost(&mut || {
        let (store, run) = (Arc::clone(&store), run.clone());
        Box::pin(async move { unavailable(store.apply(run).await) })
    })
    .await;
    // The step was taken once, and whoever takes it again is told so.
    let applied = until_it_works(async || store.apply(run.clone()).await).await;
    assert_eq!((applied.runner.seq, applied.old), (2, State::Starting));
    assert_eq!(applied.event.unwrap().draft.seq, 2);
    lost(&mut || {
        let store = Arc::clone(&store);
        Box::pin(async move { unavailable(store.admit(launch(2, "p")).await) })
    })
    .await;
    until_it_works(async || store.check().await).await;
    // The launch was admitted and is over: its caller was told that nothing came of it.
    let there = sound(&store).await;
    assert_eq!(there.iter().map(|r| r.id).collect::<Vec<_>>(), [id(1)]);
    let over = store.runner(id(2)).await.unwrap().unwrap();
    assert_eq!(
        over.exit.unwrap().cause,
        crate::domain::exit::Cause::LaunchFailed
    );
    // Whoever got its turn then is over as well, and it does not matter if the store has forgotten us.
    let mut waiting = launch(3, "p");
    waiting.queue = true;
    store.set_hold(stopped()).await.unwrap();
    assert!(matches!(
        store.admit(waiting).await.unwrap(),
        Admitted::Queued { .. }
    ));
    store
        .release_hold(HoldScope::Fleet, alice(), at(7_000))
        .await
        .unwrap();
    lost(&mut || {
        let store = Arc::clone(&store);
        Box::pin(async move { unavailable(store.turns("h1", None).await) })
    })
    .await;
    let forget = format!("DELETE FROM writers WHERE id = '{}'", store.base.writer);
    let database = store.base.options.database.clone();
    tokio::task::spawn_blocking(move || Cluster::shared().sql(&database, &forget))
        .await
        .unwrap();
    until_it_works(async || store.check().await).await;
    let over = store.runner(id(3)).await.unwrap().unwrap();
    assert_eq!(
        over.exit.unwrap().cause,
        crate::domain::exit::Cause::LaunchFailed
    );
    // And where the server can be asked at once, the answer is just late.
    *wire.deaf_after.lock().unwrap() = Some(b"COMMIT\0");
    let late = tokio::spawn({
        let wire = wire.clone();
        async move {
            while !wire.cut.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            *wire.deaf_after.lock().unwrap() = None;
            tokio::time::sleep(Duration::from_millis(50)).await;
            wire.cut.store(false, Ordering::SeqCst);
        }
    });
    apply(&*store, step(1, end(), 6_000)).await;
    late.await.unwrap();
    assert_eq!(live(&*store, "p").await, 0);
}

/// The chain of such a store is whole, and tells everything once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_whose_answer_is_lost_is_once_in_the_audit() {
    let (wire, store) = behind_a_wire().await;
    store.keep_audit(HOST.to_owned(), vec![key(0)]);
    admit(&store, launch(1, "p")).await;
    let act = |n: u64| Act {
        at: at(n),
        kind: "act.kill",
        project: "p".to_owned(),
        subject: format!("runner/{}", id(1)),
        actor: alice(),
        result: "ok".to_owned(),
        data: serde_json::json!({ "signal": n }),
    };
    store.note(vec![act(1)]).await.unwrap();
    let before = store.kept().unwrap();
    let lose = || *wire.deaf_after.lock().unwrap() = Some(b"COMMIT\0");
    let mend = || {
        *wire.deaf_after.lock().unwrap() = None;
        wire.cut.store(false, Ordering::SeqCst);
    };
    // What is no event is asked for again, as it was and with more.
    lose();
    unavailable(store.note(vec![act(2), act(3)]).await);
    mend();
    until_it_works(async || store.note(vec![act(2), act(3), act(4)]).await).await;
    // The same words at another time are another act.
    store.note(vec![act(5), act(5)]).await.unwrap();
    lose();
    unavailable(store.apply(step(1, Step::Run(placement()), 5_000)).await);
    mend();
    until_it_works(async || store.apply(step(1, Step::Run(placement()), 5_000)).await).await;
    lose();
    unavailable(store.admit(launch(2, "p")).await);
    mend();
    until_it_works(async || store.check().await).await;
    apply(&store, step(1, end(), 6_000)).await;

    let report = verify(&store, &[before]).await;
    assert!(report.is_whole(), "{report:?}");
    let told: Vec<_> = texts(&store)
        .await
        .iter()
        .map(|t| {
            let what = match t["data"]["signal"].as_u64() {
                Some(n) => format!("{n}"),
                None => t["subject"].as_str().unwrap().to_owned(),
            };
            format!("{} {what}", t["kind"].as_str().unwrap())
        })
        .collect();
    let of = |kind: &str, n| format!("{kind} runner/{}", id(n));
    let expected = [
        "audit.begun audit/h1".to_owned(),
        of("runner.starting", 1),
        "act.kill 1".to_owned(),
        "act.kill 2".to_owned(),
        "act.kill 3".to_owned(),
        "act.kill 4".to_owned(),
        "act.kill 5".to_owned(),
        "act.kill 5".to_owned(),
        of("runner.running", 1),
        of("runner.starting", 2),
        of("runner.ended", 2),
        of("runner.ended", 1),
    ];
    assert_eq!(told, expected);
}

fn stopped() -> Hold {
    Hold {
        scope: HoldScope::Fleet,
        until: None,
        freeze: false,
        reason: String::new(),
        actor: alice(),
        set_at: at(0),
    }
}

/// One request breaks a rule, and the wire is cut before the others are done one by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cut_while_each_is_done_alone() {
    let (wire, store) = behind_a_wire().await;
    super::outages::unlucky(&store).await;
    *wire.deaf_after.lock().unwrap() = Some(b"ROLLBACK\0");
    let begun = Instant::now();
    let answers = futures_util::future::join_all((0..60u64).map(|n| {
        let mut new = launch(n, "p");
        new.spec.uid = if n % 10 == 3 { 13 } else { 1000 };
        store.admit(new)
    }))
    .await;
    let away = answers.into_iter().filter(|answer| answer.is_err()).count();
    assert!(away > 40, "{away}");
    assert!(
        begun.elapsed() < within(BOUND + BOUND),
        "{:?}",
        begun.elapsed()
    );
    *wire.deaf_after.lock().unwrap() = None;
    wire.cut.store(false, Ordering::SeqCst);
    until_it_works(async || store.check().await).await;
    sound(&store).await;
}
