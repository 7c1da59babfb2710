//! What the schema itself refuses, whoever writes: here, somebody with `sqlite3`.

use super::conformance::{admit, at, capped, end, events, exit, id, launch, project, step};
use super::*;
use crate::adapters::sql::link::Dialect;
use crate::adapters::sql::read;
use crate::domain::runner::{State, Step};
use sqlx::{ConnectOptions, Connection, SqliteConnection};

async fn by_hand(folder: &Folder) -> SqliteConnection {
    super::super::open::writing(&folder.file())
        .connect()
        .await
        .unwrap()
}

/// Runs it and takes it back; the rule that stopped it, if one did.
async fn tried(on: &mut SqliteConnection, sql: String) -> Result<(), String> {
    let mut inside = on.begin().await.unwrap();
    let result = sqlx::query(sqlx::AssertSqlSafe(sql))
        .execute(&mut *inside)
        .await;
    inside.rollback().await.unwrap();
    match result {
        Ok(done) => {
            assert_eq!(done.rows_affected(), 1);
            Ok(())
        }
        Err(error) => {
            assert!(super::super::fault::is_rule(&error), "{error}");
            Err(error.to_string())
        }
    }
}

#[tokio::test]
async fn the_law_of_states_is_the_domains() {
    let (folder, store) = empty().await;
    project(&store, "p", ProjectSettings::default()).await;
    let ways: [(State, Vec<Step>); 5] = [
        (State::Starting, vec![]),
        (State::Running, vec![Step::Run(conformance::placement())]),
        (
            State::Frozen,
            vec![Step::Run(conformance::placement()), Step::Freeze(None)],
        ),
        (
            State::Stopping,
            vec![Step::Run(conformance::placement()), Step::Stop],
        ),
        (State::Ended, vec![end()]),
    ];
    let mut on = by_hand(&folder).await;
    for (n, (old, way)) in ways.into_iter().enumerate() {
        let n = n as u64;
        admit(&store, launch(n, "p")).await;
        for taken in way {
            conformance::apply(&store, step(n, taken, 9_000)).await;
        }
        for next in State::ALL {
            let exit = if next == State::Ended { "'{}'" } else { "NULL" };
            let sql = format!(
                "UPDATE runners SET state = '{next}', seq = seq + (state <> '{next}'), placement = '{{}}', exit = {exit}, usage = {exit} WHERE id = '{id}'",
                next = next.as_str(),
                id = id(n),
            );
            // To write the same state again is no transition, unless it has ended.
            let legal = old.may_become(next) || (old == next && old.is_live());
            assert_eq!(
                tried(&mut on, sql).await.is_ok(),
                legal,
                "{old:?} to {next:?}"
            );
        }
    }
}

#[tokio::test]
async fn what_must_never_be_cannot_be_written() {
    let (folder, store) = empty().await;
    project(&store, "p", capped(3)).await;
    for n in 0..3 {
        admit(&store, launch(n, "p")).await;
    }
    conformance::apply(&store, step(0, end(), 9_000)).await;
    admit(&store, launch(3, "p")).await;
    let mut on = by_hand(&folder).await;
    let insert = |project: &str, state: &str, exit: &str| {
        format!(
            "INSERT INTO runners (id, project, host, state, uid, spec, seq, created_at, started_at, ended_at, exit, usage)
             VALUES ('new', '{project}', 'h1', '{state}', 0, '{{}}', 1, 0, 0, 0, {exit}, {exit})"
        )
    };
    let live = id(1);
    let ended = id(0);
    let refused = [
        ("at its cap", insert("p", "starting", "NULL")),
        ("does not exist", insert("q", "starting", "NULL")),
        ("begins in state queued or starting", insert("p", "ended", "'{}'")),
        ("CHECK", insert("p", "starting", "'{}'")),
        ("CHECK", insert("p", "paused", "NULL")),
        ("CHECK", format!("UPDATE runners SET state = 'ended', seq = 2 WHERE id = '{live}'")),
        ("CHECK", format!("UPDATE runners SET state = 'running', seq = 2 WHERE id = '{live}'")),
        ("CHECK", format!("UPDATE runners SET exit = '{{}}', usage = '{{}}' WHERE id = '{live}'")),
        ("one event", format!("UPDATE runners SET state = 'ended', exit = '{{}}', usage = '{{}}' WHERE id = '{live}'")),
        ("one event", format!("UPDATE runners SET seq = 7 WHERE id = '{live}'")),
        ("who and where", format!("UPDATE runners SET project = 'q' WHERE id = '{live}'")),
        ("who and where", format!("UPDATE runners SET host = 'h2' WHERE id = '{live}'")),
        ("who and where", format!("UPDATE runners SET id = 'x' WHERE id = '{live}'")),
        ("does not change", format!("UPDATE runners SET spec = '{{}}' WHERE id = '{ended}'")),
        ("not removed", format!("DELETE FROM runners WHERE id = '{live}'")),
        ("not removed", "DELETE FROM projects WHERE name = 'p'".to_owned()),
        ("CHECK", "UPDATE projects SET live = -1 WHERE name = 'p'".to_owned()),
        ("event does not change", "UPDATE events SET data = '' WHERE position = 1".to_owned()),
        ("does not belong", format!("INSERT INTO events (at, type, project, subject, seq, actor, data) VALUES (1, 't', 'p', 'runner/{live}', 2, '', '')")),
        ("UNIQUE", "INSERT INTO events (at, type, project, subject, seq, actor, data) VALUES (1, 't', 'p', 'project/p', 1, '', '')".to_owned()),
        ("FOREIGN KEY", "INSERT INTO labels VALUES ('nobody', 'k', 'v')".to_owned()),
    ];
    for (rule, sql) in refused {
        let stopped = tried(&mut on, sql.clone()).await;
        assert!(
            matches!(&stopped, Err(said) if said.contains(rule)),
            "{sql}: {stopped:?}"
        );
    }
    tried(&mut on, format!("DELETE FROM runners WHERE id = '{ended}'"))
        .await
        .unwrap();
    tried(
        &mut on,
        "UPDATE projects SET max_runners = 1 WHERE name = 'p'".to_owned(),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn pragmas_and_modes() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, store) = empty().await;
    project(&store, "p", ProjectSettings::default()).await;
    store.projects().await.unwrap();
    for entry in std::fs::read_dir(&folder.0).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.path());
    }
    let mut on = by_hand(&folder).await;
    for (pragma, expected) in [
        ("PRAGMA journal_mode", "wal"),
        ("PRAGMA synchronous", "2"),
        ("PRAGMA auto_vacuum", "2"),
        ("PRAGMA foreign_keys", "1"),
        ("PRAGMA journal_size_limit", "16777216"),
        ("PRAGMA integrity_check", "ok"),
    ] {
        let value: String = match sqlx::query_scalar::<_, i64>(pragma)
            .fetch_one(&mut on)
            .await
        {
            Ok(number) => number.to_string(),
            Err(_) => sqlx::query_scalar(pragma).fetch_one(&mut on).await.unwrap(),
        };
        assert_eq!(value, expected, "{pragma}");
    }
    // Readers can't write.
    let written = store
        .read(async |on| on.run("DELETE FROM events", vec![]).await)
        .await;
    assert!(written.is_err());
}

#[tokio::test]
async fn it_is_all_there_after_opening_again() {
    let (folder, store) = empty().await;
    project(&store, "p", capped(2)).await;
    admit(&store, launch(1, "p")).await;
    admit(&store, launch(2, "p")).await;
    conformance::apply(&store, step(2, end(), 9_000)).await;
    let before = events(&store).await;
    let identity = async || -> String {
        let mut on = by_hand(&folder).await;
        let id = sqlx::query_scalar("SELECT value FROM meta WHERE key = 'store-id'")
            .fetch_one(&mut on)
            .await
            .unwrap();
        on.close().await.unwrap();
        id
    };
    let first = identity().await;
    store.close().await;
    assert!(
        !folder.0.join("stratavore.db-wal").exists(),
        "closed cleanly"
    );
    let store = SqliteStore::open(&folder.file(), 1).await.unwrap();
    assert_eq!(events(&store).await, before);
    assert_eq!(
        store.runner(id(2)).await.unwrap().unwrap().exit,
        Some(exit())
    );
    assert_eq!(conformance::live(&store, "p").await, 1);
    assert_eq!(store.live("h1").await.unwrap()[0].created_at, at(1_000));
    assert_eq!(identity().await, first);
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let (folder, store) = empty().await;
    store.close().await;
    let mut on = by_hand(&folder).await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (999, 'later', TRUE, x'00', 0);
         UPDATE meta SET value = '9.9.9' WHERE key = 'written-by'",
    )
    .execute(&mut on)
    .await
    .unwrap();
    on.close().await.unwrap();
    // The last connection that goes writes the log into the file, and the store's go a little later than it says.
    let log = folder.file().with_extension("db-wal");
    for _ in 0..6_000 {
        if !log.exists() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // A copy, which nobody has open any more.
    let copy = Folder::new();
    let before = std::fs::read(folder.file()).unwrap();
    std::fs::write(copy.file(), &before).unwrap();
    let refused = SqliteStore::open(&copy.file(), 1).await;
    let Err(StoreError::Refused(error)) = refused else {
        panic!("waiting does not help: {refused:?}");
    };
    let said = error.message;
    assert!(
        said.contains("stratavored 9.9.9 (schema 999)") && said.contains("upgrade the daemon"),
        "{said}"
    );
    // Opening for writing says once more how the file is vacuumed: of its bytes the change counter of the
    // header, and its copy there, may be others.
    let content = |mut bytes: Vec<u8>| {
        for counter in [24..28, 92..96] {
            bytes[counter].fill(0);
        }
        bytes
    };
    let after = std::fs::read(copy.file()).unwrap();
    assert!(content(after) == content(before), "it was changed");
}

#[tokio::test]
async fn lists_do_not_walk_over_history() {
    use crate::domain::event::EventType;
    use crate::ports::{EventFilter, RunnerFilter};
    let (folder, _store) = empty().await;
    let mut on = by_hand(&folder).await;
    let filters = [
        RunnerFilter::default(),
        RunnerFilter {
            project: Some(conformance::name("p")),
            ..RunnerFilter::default()
        },
        RunnerFilter {
            uid: Some(1),
            states: vec![State::Ended],
            ..RunnerFilter::default()
        },
        RunnerFilter {
            name: Some("n".to_owned()),
            states: State::ALL.to_vec(),
            ..RunnerFilter::default()
        },
        RunnerFilter {
            labels: [("k".to_owned(), "v".to_owned())].into(),
            states: State::ALL.to_vec(),
            ..RunnerFilter::default()
        },
        RunnerFilter {
            id_prefix: Some("0".to_owned()),
            states: State::ALL.to_vec(),
            ..RunnerFilter::default()
        },
        RunnerFilter {
            since: Some(at(0)),
            states: State::ALL.to_vec(),
            ..RunnerFilter::default()
        },
    ];
    let mut queries: Vec<_> = filters
        .iter()
        .map(|f| read::listing(f, Dialect::Sqlite))
        .collect();
    for newest in [false, true] {
        queries.extend(EventType::ALL.map(|kind| {
            read::telling(
                &EventFilter {
                    kind: Some(kind),
                    newest,
                    ..EventFilter::default()
                },
                None,
            )
        }));
        queries.push(read::telling(
            &EventFilter {
                project: Some("p".parse().unwrap()),
                newest,
                ..EventFilter::default()
            },
            None,
        ));
    }
    for query in queries {
        let query = query.sql;
        let sql = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}"));
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(sql).fetch_all(&mut on).await.unwrap();
        for (.., step) in plan {
            let whole = step.starts_with("SCAN") && !step.contains("runners_live");
            assert!(!whole && !step.contains("TEMP B-TREE"), "{query}: {step}");
            assert!(
                !query.contains("NOT IN") || step.contains("events_rare"),
                "{query}: {step}"
            );
        }
    }
}

/// What the relay asks for grows neither with the backlog nor with what is parked.
#[tokio::test]
async fn the_outbox_is_never_read_whole() {
    let (folder, store) = empty().await;
    let mut on = by_hand(&folder).await;
    for query in crate::adapters::sql::outbox::STATEMENTS {
        let sql = format!("EXPLAIN QUERY PLAN {query}");
        let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .fetch_all(&mut on)
            .await
            .unwrap();
        for (.., step) in plan {
            // Hosts are few, and so are the rows of a page.
            let page = query.contains("string_agg");
            let few = ["h", "g", "q", "json_each", "CONSTANT ROW", "(subquery"];
            let few = few
                .iter()
                .any(|few| step.starts_with(&format!("SCAN {few}")));
            let few = few || (page && step == "SCAN o");
            assert!(!step.starts_with("SCAN") || few, "{query}: {step}");
            assert!(!step.contains("TEMP B-TREE"), "{query}: {step}");
        }
    }
    drop(store);
}

/// An empty store, and statements past it.
async fn with_a_back_door() -> (Folder, Arc<SqliteStore>, impl AsyncFn(String)) {
    let (folder, store) = empty().await;
    let on = tokio::sync::Mutex::new(by_hand(&folder).await);
    let sql = async move |sql: String| {
        let sql = sqlx::query(sqlx::AssertSqlSafe(sql));
        sql.execute(&mut *on.lock().await).await.unwrap();
    };
    (folder, Arc::new(store), sql)
}

/// Rows that nobody can read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_row_costs_only_those_it_is_about() {
    let (_folder, store, sql) = with_a_back_door().await;
    conformance::damage::costs_only_those_it_is_about(store, sql).await;
    let (_folder, store, sql) = with_a_back_door().await;
    conformance::damage::what_a_lost_host_held_is_given_back(store, sql).await;
    let (_folder, store, sql) = with_a_back_door().await;
    sql("DROP TRIGGER event_changed".to_owned()).await;
    let no_text = "data = CAST(X'7bff7d' AS TEXT)";
    conformance::damage::is_passed_over_by_the_relay(store, sql, &[no_text]).await;
}
