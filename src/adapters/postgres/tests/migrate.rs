//! From the embedded store to the fleet's: everything is there as it was, and goes on.

use super::*;
use crate::adapters::sqlite::SqliteStore;
use crate::domain::runner::Step;
use crate::domain::{ErrorKind, Runner, State};
use crate::ports::{Admitted, Audit, EventFilter, RunnerFilter, StoreError};
use conformance::{
    admit, apply, at, capped, end, events, id, launch, live, name, placement, project, refused,
    requested, step,
};
use std::path::{Path, PathBuf};

/// Runners of the embedded store.
const MANY: u64 = 450;

/// By a host that keeps an audit.
async fn migrate(file: &Path, options: PostgresOptions) -> Result<String, StoreError> {
    let host = conformance::audit::HOST.to_owned();
    let keys = vec![conformance::audit::key(0)];
    crate::adapters::migrate::migrate(file, options, host, keys).await
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn folder() -> Folder {
    let folder = std::env::temp_dir().join(format!("stratavore-migrate-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir(&folder).unwrap();
    Folder(folder)
}

async fn database() -> PostgresOptions {
    tokio::task::spawn_blocking(|| Cluster::shared().database())
        .await
        .unwrap()
}

/// Lives of every kind, some gone, some over, some going on.
async fn fill(store: &SqliteStore) {
    project(store, "p", ProjectSettings::default()).await;
    project(store, "full", capped(2)).await;
    project(store, "gone", capped(0)).await;
    let gone = store.remove_project(name("gone"), conformance::alice(), at(1));
    gone.await.unwrap();
    for n in 0..MANY {
        let mut new = launch(n, "p");
        new.host = format!("h{}", n % 3);
        new.spec.name = (n % 2 == 0).then(|| format!("name-{n}"));
        new.spec.labels = [("nr", n.to_string()), ("wörd", "日本 \"'\\".to_owned())]
            .map(|(k, v)| (k.to_owned(), v))
            .into();
        let new = requested(new, 1000 + (n % 2) as u32, &format!("r{n}"), "digest");
        admit(store, new).await;
        let steps = match n % 5 {
            0 => vec![end()],
            1 => vec![Step::Run(placement())],
            2 => vec![Step::Run(placement()), Step::Freeze(None)],
            3 => vec![
                Step::Run(placement()),
                Step::Freeze(None),
                Step::Thaw,
                Step::Stop,
                end(),
            ],
            _ => vec![],
        };
        for (i, what) in steps.into_iter().enumerate() {
            apply(store, step(n, what, n * 1_000 + 1 + i as u64)).await;
        }
    }
    for n in MANY..MANY + 2 {
        admit(store, launch(n, "full")).await;
    }
    full(store, 900).await;
    // The first ones, with their events and request ids, are forgotten.
    store.prune(at(100_000), 1_000).await.unwrap();
}

/// The cap of the project “full” holds.
async fn full(store: &impl Store, n: u64) {
    let answer = store.admit(launch(n, "full")).await.unwrap();
    assert!(matches!(answer, Admitted::Denied { .. }), "{answer:?}");
}

async fn runners(store: &impl Store) -> Vec<Runner> {
    let mut all: Vec<Runner> = Vec::new();
    loop {
        let filter = RunnerFilter {
            states: State::ALL.to_vec(),
            limit: 200,
            after: all.last().map(|r| r.id),
            ..RunnerFilter::default()
        };
        let page = store.runners(filter).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_as_it_was_and_goes_on() {
    let folder = folder();
    let file = folder.0.join("s.db");
    let embedded = SqliteStore::open(&file, 2).await.unwrap();
    fill(&embedded).await;
    let was = (
        runners(&embedded).await,
        events(&embedded).await,
        embedded.projects().await.unwrap(),
    );
    let options = database().await;
    // A daemon uses it.
    let busy = refused(migrate(&file, options.clone()).await, ErrorKind::Conflict);
    assert!(busy.contains("systemctl stop stratavored"), "{busy}");
    embedded.close().await;
    drop(embedded);

    let said = migrate(&file, options.clone()).await.unwrap();
    assert!(
        said.contains("what was written is what was read")
            && said.contains(&format!("runners {}", was.0.len())),
        "{said}"
    );
    // Twice is once.
    let again = migrate(&file, options.clone()).await.unwrap();
    assert!(again.contains("before; nothing was changed"), "{again}");

    let fleet = PostgresStore::open(options.clone(), 4).await.unwrap();
    assert_eq!(runners(&fleet).await, was.0);
    assert_eq!(events(&fleet).await, was.1);
    assert_eq!(fleet.projects().await.unwrap(), was.2);
    fleet.check().await.unwrap();

    // Request ids are remembered, caps hold, lives go on, and a reader of events misses nothing.
    let last = was.1.last().unwrap().position;
    let n = MANY - 1;
    let mut repeated = requested(
        launch(n, "p"),
        1000 + (n % 2) as u32,
        &format!("r{n}"),
        "digest",
    );
    repeated.id = id(5_000);
    assert!(
        matches!(fleet.admit(repeated).await.unwrap(), Admitted::Repeated(runner) if runner.id == id(n))
    );
    full(&fleet, 5_001).await;
    let before = live(&fleet, "p").await;
    for runner in was
        .0
        .iter()
        .filter(|r| r.spec.project == name("p") && r.exit.is_none())
    {
        let over = crate::domain::runner::Change {
            id: runner.id,
            step: end(),
            actor: conformance::alice(),
            at: at(9_000_000),
        };
        apply(&fleet, over).await;
    }
    assert!(before > 0);
    assert_eq!(live(&fleet, "p").await, 0);
    project(&fleet, "gone", ProjectSettings::default()).await;
    let filter = EventFilter {
        after: last,
        limit: 1_000,
        ..EventFilter::default()
    };
    let new = fleet.events(filter).await.unwrap();
    assert!(new.len() as u32 > before, "{}", new.len());
    assert_eq!(
        new.last().unwrap().draft.seq,
        3,
        "a project made again goes on counting"
    );
    fleet.close().await;
}

/// The chain goes on in the new store: it tells of the move once, and is whole by the key and by an anchor of before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_tells_of_the_move() {
    let folder = folder();
    let file = folder.0.join("s.db");
    let embedded = SqliteStore::open(&file, 2).await.unwrap();
    conformance::audit::filled(&embedded, 3).await;
    let before = embedded.kept().unwrap();
    embedded.close().await;
    drop(embedded);
    let options = database().await;
    migrate(&file, options.clone()).await.unwrap();
    let again = migrate(&file, options.clone()).await.unwrap();
    assert!(again.contains("nothing was changed"), "{again}");
    let fleet = PostgresStore::open(options, 2).await.unwrap();
    fleet.keep_audit(
        conformance::audit::HOST.to_owned(),
        vec![conformance::audit::key(0)],
    );
    let told = conformance::audit::texts(&fleet).await;
    assert_eq!(told.len() as u64, before.n + 1);
    let moved = told.last().unwrap();
    assert_eq!(
        (&moved["kind"], &moved["result"]),
        (&"act.migrate-store".into(), &"ok".into())
    );
    assert_eq!(moved["data"]["rows"]["runners"], 3);
    admit(&fleet, launch(9, "p")).await;
    let report = conformance::audit::verify(&fleet, &[before]).await;
    assert!(report.is_whole() && report.anchors > 0, "{report:?}");
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_copied_is_refused_and_changes_nothing() {
    let folder = folder();
    let file = folder.0.join("s.db");
    let options = database().await;
    let missing = refused(
        migrate(&file, options.clone()).await,
        ErrorKind::InvalidArgument,
    );
    assert!(missing.contains("s.db"), "{missing}");
    let embedded = SqliteStore::open(&file, 2).await.unwrap();
    project(&embedded, "p", ProjectSettings::default()).await;
    embedded.close().await;
    drop(embedded);
    let before = std::fs::read(&file).unwrap();
    // Somebody is there already.
    let fleet = PostgresStore::open(options.clone(), 2).await.unwrap();
    project(&fleet, "other", ProjectSettings::default()).await;
    let taken = refused(migrate(&file, options.clone()).await, ErrorKind::Conflict);
    assert!(
        taken.contains("not empty") && taken.contains("new database"),
        "{taken}"
    );
    assert_eq!(fleet.projects().await.unwrap().len(), 1);
    // The rules hold again for the one that was tried.
    project(&fleet, "more", ProjectSettings::default()).await;
    fleet.close().await;
    assert_eq!(
        std::fs::read(&file).unwrap(),
        before,
        "the embedded store is as it was"
    );
    assert!(migrate(&file, database().await).await.is_ok());
}
