//! A file of the first release, with rows in it, under today's schema.

use super::conformance::{at, end, id, launch, requested, step};
use super::*;
use crate::adapters::sqlite::open;
use crate::ports::{Admitted, EventFilter};
use sqlx::migrate::Migrator;
use sqlx::{ConnectOptions, Connection};

/// What the first release wrote: a runner that lives and one that has ended, with all that belongs to them.
fn rows() -> String {
    let spec = serde_json::to_string(&launch(1, "p").spec).unwrap();
    let (live, over) = (id(1), id(2));
    format!(
        r#"INSERT INTO projects (name, description, max_runners, limits, created_at) VALUES ('p', 'd', 2, '{{}}', 5);
        INSERT INTO admissions (id, project, host, name, uid, spec, created_at, request_uid, request_id, digest, type, subject, actor, data)
            VALUES ('{live}', 'p', 'h1', 'n', 1000, '{spec}', 7, 1000, 'r', 'x', 'runner.starting', 'runner/{live}', '{{"uid":1000,"user":"alice"}}', '{{}}');
        INSERT INTO admissions (id, project, host, name, uid, spec, created_at, request_uid, request_id, digest, type, subject, actor, data)
            VALUES ('{over}', 'p', 'h1', NULL, 1000, '{spec}', 8, NULL, NULL, NULL, 'runner.starting', 'runner/{over}', '{{"uid":1000,"user":"alice"}}', '{{}}');
        INSERT INTO labels (runner, key, value) VALUES ('{over}', 'k', 'v');
        INSERT INTO steps (id, state, seq, spec, started_at, ended_at, placement, exit, usage, old_state, at, type, project, subject, actor, data)
            VALUES ('{over}', 'ended', 2, '{spec}', 0, 9, NULL, '{{"cause":"launch-failed"}}', '{{}}', 'starting', 9, 'runner.ended', 'p', 'runner/{over}', '{{"uid":null,"user":null}}', '{{}}')"#
    )
}

#[tokio::test]
async fn what_the_first_release_wrote_is_all_there() {
    let folder = Folder::new();
    std::fs::File::create(folder.file()).unwrap();
    let mut on = open::writing(&folder.file()).connect().await.unwrap();
    let first: Vec<_> = open::MIGRATIONS.iter().take(1).cloned().collect();
    let first = Migrator::with_migrations(first);
    first.run(&mut on).await.unwrap();
    for statement in rows().split(";\n") {
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        sqlx::raw_sql(statement).execute(&mut on).await.unwrap();
    }
    on.close().await.unwrap();

    let store = SqliteStore::open(&folder.file(), 2).await.unwrap();
    let project = store.projects().await.unwrap().remove(0);
    assert_eq!((project.live, project.queued), (1, 0));
    let live = store.live("h1").await.unwrap();
    assert_eq!(live.len(), 1);
    assert_eq!(
        (live[0].id, live[0].seq, live[0].created_at.0),
        (id(1), 1, 7)
    );
    assert!(store.runner(id(2)).await.unwrap().unwrap().exit.is_some());
    assert_eq!(store.events(EventFilter::default()).await.unwrap().len(), 3);
    let again = store.admit(requested(launch(9, "p"), 1000, "r", "x")).await;
    assert!(matches!(again, Ok(Admitted::Repeated(r)) if r.id == id(1)));
    store.apply(step(1, end(), 10_000)).await.unwrap();
    assert_eq!(store.projects().await.unwrap()[0].live, 0);
    assert!(store.prune(at(u64::MAX / 4), 10).await.unwrap().runners >= 2);
    store.close().await;
    assert!(
        SqliteStore::check(&folder.file())
            .await
            .unwrap()
            .contains("sound")
    );
    let mut on = open::writing(&folder.file()).connect().await.unwrap();
    let strays = sqlx::query("PRAGMA foreign_key_check")
        .fetch_all(&mut on)
        .await
        .unwrap();
    assert!(strays.is_empty());
    let labels: i64 = sqlx::query_scalar("SELECT count(*) FROM labels")
        .fetch_one(&mut on)
        .await
        .unwrap();
    assert_eq!(labels, 0, "pruned with their runner");
}
