//! A server that goes away in every way a server can. Errors come in bounded time, it all goes on by
//! itself, and nothing is done twice or lost.

use super::conformance::{
    admit, assert_contiguous, events, id, launch, live, placement, project, step, unavailable,
};
use super::*;

use crate::domain::runner::{Change, Step};
use crate::domain::{Runner, State};
use crate::ports::{Admitted, Applied, StoreError};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// The longest that anybody is kept waiting for an error, on a machine that is not busy.
pub(super) const BOUND: Duration = Duration::from_secs(14);

/// Asks until it works, and each time within the bound.
pub(super) async fn until_it_works<T, E: std::fmt::Debug>(
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let begun = Instant::now();
    loop {
        let asked = Instant::now();
        match ask().await {
            Ok(done) => return done,
            Err(error) => {
                assert!(
                    asked.elapsed() < within(BOUND),
                    "{error:?} took {:?}",
                    asked.elapsed()
                );
                assert!(begun.elapsed() < Duration::from_secs(60), "{error:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn cluster() -> Arc<Cluster> {
    tokio::task::spawn_blocking(|| Arc::new(Cluster::new(&[])))
        .await
        .unwrap()
}

async fn blocking<T: Send + 'static>(
    cluster: &Arc<Cluster>,
    what: impl FnOnce(&Cluster) -> T + Send + 'static,
) -> T {
    let cluster = Arc::clone(cluster);
    tokio::task::spawn_blocking(move || what(&cluster))
        .await
        .unwrap()
}

/// As a runner's lane does it.
async fn taken_in_the_end(store: &PostgresStore, change: Change) -> Applied {
    loop {
        match store.apply(change.clone()).await {
            Err(StoreError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            taken => return taken.unwrap(),
        }
    }
}

/// Rows, counters and events agree.
pub(super) async fn sound(store: &PostgresStore) -> Vec<Runner> {
    let all = until_it_works(async || store.live("h1").await).await;
    assert_eq!(live(store, "p").await as usize, all.len());
    let told = events(store).await;
    assert_contiguous(&told);
    for runner in &all {
        let subject = format!("runner/{}", runner.id);
        let count = told.iter().filter(|e| e.draft.subject == subject).count();
        assert_eq!(count as u64, runner.seq, "{subject}");
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stopped_and_started_killed_and_started() {
    let cluster = cluster().await;
    let store = PostgresStore::open(cluster.options("postgres"), 4)
        .await
        .unwrap();
    project(&store, "p", ProjectSettings::default()).await;
    for n in 0..2 {
        admit(&store, launch(10 * n, "p")).await;
        blocking(&cluster, move |c| if n == 0 { c.stop() } else { c.kill() }).await;
        let asked = Instant::now();
        let why = unavailable(store.admit(launch(10 * n + 1, "p")).await);
        assert!(
            why.contains("socket") || why.contains("refuses") || why.contains("shut"),
            "{why}"
        );
        assert!(unavailable(store.runner(id(10 * n)).await).contains("postgres on "));
        assert!(asked.elapsed() < within(Duration::from_secs(5)));
        blocking(&cluster, |c| c.start()).await;
        until_it_works(async || store.check().await).await;
        admit(&store, launch(10 * n + 2, "p")).await;
        assert_eq!(sound(&store).await.len() as u64, 2 * (n + 1));
    }
}

/// Launches and steps under way while backends are ended again and again, COMMITs among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn backends_ended_at_any_moment() {
    let cluster = cluster().await;
    let store = Arc::new(
        PostgresStore::open(cluster.options("postgres"), 4)
            .await
            .unwrap(),
    );
    project(&*store, "p", ProjectSettings::default()).await;
    let over = Arc::new(AtomicBool::new(false));
    let killer = tokio::task::spawn_blocking({
        let (cluster, over) = (Arc::clone(&cluster), Arc::clone(&over));
        move || {
            let mut ended = 0u32;
            while !over.load(Ordering::Relaxed) {
                let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'stratavored'";
                ended += cluster.sql("postgres", end).parse::<u32>().unwrap();
                std::thread::sleep(Duration::from_millis(60));
            }
            ended
        }
    });
    let unknown = Arc::new(AtomicU64::new(0));
    let lives = (0..16u64).map(|caller| {
        let (store, unknown) = (Arc::clone(&store), Arc::clone(&unknown));
        tokio::spawn(async move {
            for n in (caller..320).step_by(16) {
                let admitted = store.admit(launch(n, "p")).await;
                match admitted {
                    Ok(Admitted::New { .. }) => {}
                    Err(StoreError::Unavailable(_)) => {
                        // Nobody starts it, so it must not be live in the end.
                        unknown.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    other => panic!("{other:?}"),
                }
                for taken in [Step::Run(placement()), Step::Stop] {
                    let change = step(n, taken, 1_000_000 + n);
                    let applied = taken_in_the_end(&store, change).await;
                    assert!(applied.event.is_some());
                }
            }
        })
    });
    for life in lives.collect::<Vec<_>>() {
        life.await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let ended = killer.await.unwrap();
    until_it_works(async || store.check().await).await;
    let there = sound(&store).await;
    let lost = unknown.load(Ordering::Relaxed);
    println!("{ended} backends ended, {lost} of 320 launches were told that the store is away");
    assert_eq!(there.len() as u64, 320 - lost);
    assert!(
        there
            .iter()
            .all(|r| r.state() == State::Stopping && r.seq == 3)
    );
    assert!(ended > 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_only_and_back() {
    let options = tokio::task::spawn_blocking(|| Cluster::shared().database())
        .await
        .unwrap();
    let database = options.database.clone();
    let store = PostgresStore::open(options, 3).await.unwrap();
    project(&store, "p", ProjectSettings::default()).await;
    let set = |how: &'static str| {
        let database = database.clone();
        tokio::task::spawn_blocking(move || {
            let c = Cluster::shared();
            c.sql(
                "postgres",
                &format!("ALTER DATABASE {database} SET default_transaction_read_only = {how}"),
            );
            c.sql("postgres", &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"));
        })
    };
    set("on").await.unwrap();
    let why = unavailable(store.admit(launch(1, "p")).await);
    assert!(
        why.contains("read-only") && why.contains("name the primary"),
        "{why}"
    );
    set("off").await.unwrap();
    until_it_works(async || store.check().await).await;
    admit(&store, launch(1, "p")).await;
}

/// Each launch waits in the server for longer than anybody will.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_quick_again() {
    let (_guard, store) = empty().await;
    project(&store, "p", ProjectSettings::default()).await;
    let mut other = super::schema::other_link(&store).await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(30); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE INSERT ON runners FOR EACH ROW EXECUTE FUNCTION slow()";
    other.say(slow).await.unwrap();
    let asked = Instant::now();
    let (launched, read) = tokio::join!(store.admit(launch(1, "p")), store.runner(id(1)));
    assert!(unavailable(launched).contains("took too long"));
    assert!(read.unwrap().is_none());
    assert!(asked.elapsed() < within(BOUND), "{:?}", asked.elapsed());
    other.say("DROP TRIGGER slow ON runners").await.unwrap();
    admit(&store, launch(1, "p")).await;
    assert_eq!(sound(&store).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_and_room_again() {
    let cluster = tokio::task::spawn_blocking(|| {
        let cluster = Cluster::made(super::cluster::folder(), &[]);
        cluster.start_with_a_small_disk(28);
        let small = cluster.folder.join("small").display().to_string();
        cluster.sql(
            "postgres",
            &format!("CREATE TABLESPACE small LOCATION '{small}'"),
        );
        cluster.sql("postgres", "CREATE DATABASE fleet TABLESPACE small");
        cluster.sql(
            "fleet",
            "CREATE TABLE ballast AS SELECT md5(n::TEXT) AS t FROM generate_series(1, 100000) AS n",
        );
        Arc::new(cluster)
    });
    let cluster = cluster.await.unwrap();
    let store = PostgresStore::open(cluster.options("fleet"), 3)
        .await
        .unwrap();
    project(&store, "p", ProjectSettings::default()).await;
    let mut owner = super::schema::other_link(&store).await;
    let (mut admitted, mut lost) = (0, 0);
    let mut some = async |first: u64| {
        let asked = Instant::now();
        // Nothing that can be compressed.
        let mut random = [0; 6_000];
        let mut source = std::fs::File::open("/dev/urandom").unwrap();
        std::io::Read::read_exact(&mut source, &mut random).unwrap();
        let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let answers = futures_util::future::join_all((first..first + 40).map(|n| {
            let mut new = launch(n, "p");
            new.spec.command.push(random.clone());
            store.admit(new)
        }))
        .await;
        assert!(asked.elapsed() < within(BOUND), "{:?}", asked.elapsed());
        for answer in answers {
            match answer {
                Ok(Admitted::New { .. }) => admitted += 1,
                other => {
                    assert!(unavailable(other).contains("disk is full; free space"));
                    lost += 1;
                }
            }
        }
        (admitted, lost)
    };
    // A new connection would want to write, too: the kept one is enough.
    store.runner(id(0)).await.unwrap();
    let mut first = 0;
    while some(first).await.1 == 0 {
        first += 40;
        assert!(first < 40_000);
    }
    // What is there can be read all the while.
    assert!(store.runner(id(0)).await.unwrap().is_some());
    owner.say("DROP TABLE ballast").await.unwrap();
    until_it_works(async || store.check().await).await;
    let (before, _) = some(first + 40).await;
    let (after, _) = some(first + 80).await;
    assert!(before >= 40 && after == before + 40, "{before} {after}");
    assert_eq!(live(&store, "p").await, after);
}

/// A future of sqlx's that is dropped in the middle of a transaction leaves a connection inside it;
/// ours goes with the future.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_connection_comes_back_in_a_transaction() {
    let options = tokio::task::spawn_blocking(|| Cluster::shared().database())
        .await
        .unwrap();
    let database = options.database.clone();
    let store = Arc::new(PostgresStore::open(options, 3).await.unwrap());
    project(&*store, "p", ProjectSettings::default()).await;
    for n in 0..60u64 {
        let asking = {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                store
                    .read(async |on| {
                        on.say("BEGIN").await?;
                        on.run("SELECT pg_sleep(0.02)", vec![]).await?;
                        Ok(on.say("COMMIT").await?)
                    })
                    .await
            })
        };
        let admitting = {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.admit(launch(n, "p")).await })
        };
        tokio::time::sleep(Duration::from_micros(n * 400)).await;
        asking.abort();
        admitting.abort();
    }
    // Those that are kept are in no transaction, and those that were given up end by themselves.
    let inside = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND state <> 'idle' AND application_name = 'stratavored'"
    );
    until_it_works(async || {
        let inside = inside.clone();
        let count = tokio::task::spawn_blocking(move || Cluster::shared().sql("postgres", &inside))
            .await
            .unwrap();
        if count == "0" { Ok(()) } else { Err(count) }
    })
    .await;
    assert!(store.connections().0 == 0 && store.connections().1 <= 2);
    let in_one = store.read(async |on| on.one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())", vec![]).await?.int(0));
    assert_eq!(in_one.await.unwrap(), 0);
    sound(&store).await;
}

/// From now on user 13 can't be admitted: a rule stops it.
pub(super) async fn unlucky(store: &PostgresStore) {
    store
        .read(async |on| {
            let bug = "CREATE FUNCTION bug() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                         IF NEW.uid = 13 THEN PERFORM refuse('unlucky'); END IF; RETURN NEW; END $$;
                       CREATE TRIGGER bug BEFORE INSERT ON runners FOR EACH ROW EXECUTE FUNCTION bug()";
            Ok(on.say(bug).await?)
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_fires_fails_only_its_own_request() {
    let (_guard, store) = empty().await;
    project(&store, "p", ProjectSettings::default()).await;
    unlucky(&store).await;
    let answers = futures_util::future::join_all((0..40u64).map(|n| {
        let mut new = launch(n, "p");
        new.spec.uid = if n % 10 == 3 { 13 } else { 1000 };
        store.admit(new)
    }))
    .await;
    for (n, answer) in answers.into_iter().enumerate() {
        match n % 10 {
            3 => assert!(unavailable(answer).contains("(unlucky); please report this")),
            _ => assert!(matches!(answer, Ok(Admitted::New { .. })), "{n}"),
        }
    }
    assert_eq!(sound(&store).await.len(), 36);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentences_about_what_can_be_wrong_from_the_start() {
    let cluster = cluster().await;
    blocking(&cluster, |c| {
        c.sql("postgres", "CREATE ROLE walled PASSWORD 'right' LOGIN; CREATE ROLE locked NOLOGIN; ALTER ROLE walled CONNECTION LIMIT 0");
    })
    .await;
    let good = cluster.options("postgres");
    let of = async |change: &dyn Fn(&mut PostgresOptions)| {
        let mut options = good.clone();
        change(&mut options);
        unavailable(PostgresStore::open(options, 2).await)
    };
    assert!(
        of(&|o| o.database = "nowhere".to_owned())
            .await
            .contains("make it: createdb nowhere")
    );
    assert!(
        of(&|o| o.user = "locked".to_owned())
            .await
            .contains("does not let user locked in")
    );
    assert!(
        of(&|o| o.user = "walled".to_owned())
            .await
            .contains("lower store.max_connections")
    );
    let none =
        |o: &mut PostgresOptions| o.servers = vec![ServerAddress::Tcp("127.0.0.1".to_owned(), 1)];
    assert!(of(&none).await.contains("refuses connections"));
    let missing =
        |o: &mut PostgresOptions| o.servers = vec![ServerAddress::Socket("/nonexistent".into(), 1)];
    assert!(of(&missing).await.contains("no such socket"));
    // The first that works is taken.
    let mut several = good.clone();
    several
        .servers
        .insert(0, ServerAddress::Tcp("127.0.0.1".to_owned(), 1));
    several
        .servers
        .insert(0, ServerAddress::Socket("/nonexistent".into(), 1));
    PostgresStore::open(several, 2)
        .await
        .unwrap()
        .check()
        .await
        .unwrap();
}
