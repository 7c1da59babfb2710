//! What the schema itself refuses, who may change it, and poolers in between.

use super::conformance::{
    admit, apply, at, capped, end, events, id, launch, live, placement, project, step, unavailable,
};
use super::*;
use crate::domain::State;
use crate::domain::runner::Step;
use crate::ports::StoreError;
use std::path::PathBuf;
use std::process::Stdio;

async fn by_hand() -> (PostgresStore, Link) {
    let (_guard, store) = empty().await;
    let link = other_link(&store).await;
    (store, link)
}

/// Somebody else's connection.
pub(super) async fn other_link(store: &PostgresStore) -> Link {
    connect::connect(&store.base.options, &connect::Latest::default())
        .await
        .map(Link::Postgres)
        .unwrap()
}

/// Runs it and takes it back; the rule that stopped it, if one did.
async fn tried(on: &mut Link, sql: String) -> Result<(), String> {
    on.say("BEGIN").await.unwrap();
    let result = on.run(sql, vec![]).await;
    on.say("ROLLBACK").await.unwrap();
    match result {
        Ok(rows) => {
            assert_eq!(rows, 1);
            Ok(())
        }
        Err(Fail::Sql(error)) => {
            assert!(fault::is_rule(&error), "{error}");
            Err(error.to_string())
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_law_of_states_is_the_domains() {
    let (store, mut on) = by_hand().await;
    project(&store, "p", ProjectSettings::default()).await;
    let ways: [(State, Vec<Step>); 5] = [
        (State::Starting, vec![]),
        (State::Running, vec![Step::Run(placement())]),
        (
            State::Frozen,
            vec![Step::Run(placement()), Step::Freeze(None)],
        ),
        (State::Stopping, vec![Step::Run(placement()), Step::Stop]),
        (State::Ended, vec![end()]),
    ];
    for (n, (old, way)) in ways.into_iter().enumerate() {
        let n = n as u64;
        admit(&store, launch(n, "p")).await;
        for taken in way {
            apply(&store, step(n, taken, 9_000)).await;
        }
        for next in State::ALL {
            let exit = if next == State::Ended { "'{}'" } else { "NULL" };
            let sql = format!(
                "UPDATE runners SET state = '{next}', seq = seq + CASE WHEN state <> '{next}' THEN 1 ELSE 0 END, placement = '{{}}', exit = {exit}, usage = {exit} WHERE id = '{id}'",
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
    let (store, mut on) = by_hand().await;
    project(&store, "p", capped(3)).await;
    for n in 0..3 {
        admit(&store, launch(n, "p")).await;
    }
    apply(&store, step(0, end(), 9_000)).await;
    admit(&store, launch(3, "p")).await;
    let insert = |project: &str, state: &str, exit: &str| {
        format!(
            "INSERT INTO runners (id, project, host, state, uid, spec, seq, created_at, started_at, ended_at, exit, usage)
             VALUES ('new', '{project}', 'h1', '{state}', 0, '{{}}', 1, 0, 0, 0, {exit}, {exit})"
        )
    };
    let (live, ended) = (id(1), id(0));
    let refused = [
        ("at its cap", insert("p", "starting", "NULL")),
        ("does not exist", insert("q", "starting", "NULL")),
        ("begins in state", insert("p", "ended", "'{}'")),
        ("check constraint", insert("p", "starting", "'{}'")),
        ("check constraint", insert("p", "paused", "NULL")),
        ("check constraint", format!("UPDATE runners SET state = 'ended', seq = 2 WHERE id = '{live}'")),
        ("check constraint", format!("UPDATE runners SET state = 'running', seq = 2 WHERE id = '{live}'")),
        ("one event", format!("UPDATE runners SET state = 'ended', exit = '{{}}', usage = '{{}}' WHERE id = '{live}'")),
        ("one event", format!("UPDATE runners SET seq = 7 WHERE id = '{live}'")),
        ("who and where", format!("UPDATE runners SET project = 'q' WHERE id = '{live}'")),
        ("who and where", format!("UPDATE runners SET host = 'h2' WHERE id = '{live}'")),
        ("who and where", format!("UPDATE runners SET id = 'x' WHERE id = '{live}'")),
        ("does not change", format!("UPDATE runners SET spec = '{{}}' WHERE id = '{ended}'")),
        ("not removed", format!("DELETE FROM runners WHERE id = '{live}'")),
        ("not removed", "DELETE FROM projects WHERE name = 'p'".to_owned()),
        ("check constraint", "UPDATE projects SET live = -1 WHERE name = 'p'".to_owned()),
        ("event does not change", "UPDATE events SET data = ''".to_owned()),
        ("does not belong", format!("INSERT INTO events (position, at, type, project, subject, seq, actor, data) VALUES (1, 1, 't', 'p', 'runner/{live}', 2, '', '')")),
        ("unique", "INSERT INTO events (position, at, type, project, subject, seq, actor, data) VALUES (1, 1, 't', 'p', 'project/p', 1, '', '')".to_owned()),
        ("foreign key", "INSERT INTO labels VALUES ('nobody', 'k', 'v')".to_owned()),
        ("not emptied", "TRUNCATE events".to_owned()),
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

/// Sentence by sentence: without a schema, with it but without rights, with rights.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_change_the_schema() {
    let owner = tokio::task::spawn_blocking(|| Cluster::shared().database())
        .await
        .unwrap();
    let database = owner.database.clone();
    let role = format!("runtime_{database}");
    let sql = |sql: String| {
        let database = database.clone();
        tokio::task::spawn_blocking(move || Cluster::shared().sql(&database, &sql))
    };
    sql(format!("CREATE ROLE {role} LOGIN")).await.unwrap();
    let mut runtime = owner.clone();
    runtime.user.clone_from(&role);
    let said = unavailable(PostgresStore::open(runtime.clone(), 2).await);
    assert!(
        said.contains("start this release once as the schema's owner"),
        "{said}"
    );
    assert!(
        PostgresStore::check(runtime.clone())
            .await
            .unwrap_err()
            .contains("no schema yet")
    );
    let first = PostgresStore::open(owner.clone(), 2).await.unwrap();
    let said = unavailable(PostgresStore::open(runtime.clone(), 2).await);
    assert!(
        said.contains("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES"),
        "{said}"
    );
    sql(format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
    ))
    .await
    .unwrap();
    let store = PostgresStore::open(runtime.clone(), 2).await.unwrap();
    project(&store, "p", ProjectSettings::default()).await;
    admit(&store, launch(1, "p")).await;
    apply(&store, step(1, end(), 9_000)).await;
    while store.prune(at(99_000_000), 100).await.unwrap() != crate::ports::Pruned::default() {}
    assert!(
        PostgresStore::check(runtime)
            .await
            .unwrap()
            .contains("is sound: schema")
    );
    first.close().await;
}

/// A later release has migrated: first it added what this one does not know, then it took something away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_used_while_it_says_so() {
    let (_guard, store) = empty().await;
    project(&store, "p", ProjectSettings::default()).await;
    let options = store.base.options.clone();
    let mut later = other_link(&store).await;
    let expand =
        "BEGIN; SELECT pg_advisory_xact_lock(723103, 0); SELECT pg_advisory_xact_lock(723100, 0);
        ALTER TABLE runners ADD COLUMN nice BIGINT NOT NULL DEFAULT 0, ADD CHECK (nice >= 0);
        ALTER TABLE projects ADD COLUMN colour TEXT;
        ALTER TABLE events ADD COLUMN tags TEXT NOT NULL DEFAULT '{}';
        CREATE TABLE novelties (id TEXT PRIMARY KEY);
        UPDATE meta SET value = '999' WHERE key = 'schema'; COMMIT";
    later.say(expand).await.unwrap();
    // One that is running, and one that starts then; each step of a life, and everything that is asked.
    let second = PostgresStore::open(options.clone(), 2).await.unwrap();
    for (n, store) in [&store, &second].into_iter().enumerate() {
        let n = n as u64;
        admit(store, launch(n, "p")).await;
        for taken in [
            Step::Run(placement()),
            Step::Freeze(None),
            Step::Thaw,
            Step::Stop,
            end(),
        ] {
            apply(store, step(n, taken, 9_000)).await;
        }
        assert_eq!(live(store, "p").await, 0);
        assert_eq!(events(store).await.len() as u64, 1 + 6 * (n + 1));
        store.runner(id(n)).await.unwrap().unwrap();
        store.check().await.unwrap();
    }
    later
        .say("BEGIN; SELECT pg_advisory_xact_lock(723100, 0); UPDATE meta SET value = '998' WHERE key = 'readable-from'; COMMIT")
        .await
        .unwrap();
    let refused = PostgresStore::open(options, 2).await;
    assert!(
        matches!(&refused, Err(StoreError::Refused(e)) if e.message.contains("schema 999, usable from schema 998")),
        "{refused:?}"
    );
    // Nor does one go on that was running.
    let why = unavailable(store.admit(launch(7, "p")).await);
    assert!(
        why.contains("usable from schema 998 on") && why.ends_with("upgrade this daemon"),
        "{why}"
    );
    assert!(store.runner(id(7)).await.unwrap().is_none());
}

/// A daemon that goes on somewhere else would admit what this store knows nothing of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_store_under_the_same_name_is_not_taken() {
    let (_guard, store) = empty().await;
    project(&store, "p", ProjectSettings::default()).await;
    let mut other = other_link(&store).await;
    other
        .say("UPDATE meta SET value = 'another' WHERE key = 'store-id'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        .await
        .unwrap();
    let why = unavailable(store.admit(launch(1, "p")).await);
    assert!(why.contains("is another store than the one"), "{why}");
}

/// Hot statements name columns of policy and leave them as they are.
#[tokio::test]
async fn only_a_change_changes_the_policy() {
    let (store, mut on) = by_hand().await;
    project(&store, "p", ProjectSettings::default()).await;
    admit(&store, launch(1, "p")).await;
    let mut policy = async |what: &'static str| {
        on.say(what).await.unwrap();
        on.one("SELECT policy FROM fleet", vec![])
            .await
            .unwrap()
            .int(0)
            .unwrap()
    };
    let made = policy(
        "INSERT INTO budgets (scope, period, max_tokens, timezone, on_exhausted, counts, created_at, period_start)
         VALUES ('fleet', 'day', 5, 'UTC', 'deny', '[]', 0, 0)",
    )
    .await;
    assert!(made > 0);
    for same in [
        "UPDATE budgets SET told = told, used = used + 1, max_tokens = 5",
        "UPDATE hosts SET cordon = cordon, live = live",
        "UPDATE budgets SET told = 1 WHERE scope = 'nothing'",
        "DELETE FROM holds",
    ] {
        assert_eq!(policy(same).await, made, "{same}");
    }
    for (n, change) in [
        "UPDATE budgets SET told = 1",
        "UPDATE hosts SET cordon = '{}'",
        "DELETE FROM budgets",
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(policy(change).await, made + n as i64 + 1, "{change}");
    }
}

/// A database that was put back into a new cluster: its transactions count from the beginning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_never_go_backwards() {
    let (_guard, store) = empty().await;
    project(&store, "p", ProjectSettings::default()).await;
    let far = i64::from(u32::MAX) << 20;
    let put = "INSERT INTO events (position, at, type, project, subject, seq, actor, data)
               VALUES ($1, 1, 'project.changed', 'p', 'project/p', 2, '{\"uid\":null,\"user\":null}',
                       '{\"project\":\"p\",\"settings\":{\"limits\":{}}}')";
    store
        .read(async |on| on.run(put, vec![far.into()]).await)
        .await
        .unwrap();
    store
        .read(async |on| on.run("UPDATE subjects SET seq = 2", vec![]).await)
        .await
        .unwrap();
    let store = PostgresStore::open(store.base.options.clone(), 2)
        .await
        .unwrap();
    admit(&store, launch(1, "p")).await;
    let all = events(&store).await;
    assert_eq!(all.len(), 3);
    assert!(all[2].position > far.unsigned_abs(), "{all:?}");
}

/// PgBouncer gives each transaction another session.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn through_a_pooler_of_transactions() {
    let mut options = tokio::task::spawn_blocking(|| Cluster::shared().database())
        .await
        .unwrap();
    let pooler = Pooler::start(&options.database);
    options.servers = vec![ServerAddress::Socket(pooler.0.clone(), 6432)];
    let mut stores = Vec::new();
    for _ in 0..2 {
        stores.push(Arc::new(
            PostgresStore::open(options.clone(), 4).await.unwrap(),
        ));
    }
    project(&*stores[0], "p", capped(20)).await;
    let lives = (0..30u64).map(|n| {
        let store = Arc::clone(&stores[n as usize % 2]);
        tokio::spawn(async move {
            let admitted = store.admit(launch(n, "p")).await.unwrap();
            let new = matches!(admitted, crate::ports::Admitted::New { .. });
            if new {
                apply(&*store, step(n, Step::Run(placement()), 9_000)).await;
            }
            store.runner(id(n)).await.unwrap();
            u32::from(new)
        })
    });
    let mut admitted = 0;
    for life in lives.collect::<Vec<_>>() {
        admitted += life.await.unwrap();
    }
    assert_eq!((admitted, live(&*stores[1], "p").await), (20, 20));
    for store in &stores {
        conformance::assert_contiguous(&events(&**store).await);
        store.close().await;
    }
}

struct Pooler(PathBuf, std::process::Child);

impl Pooler {
    fn start(database: &str) -> Self {
        let cluster = Cluster::shared();
        let folder = cluster.folder.join(format!("pooler-{database}"));
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("pgbouncer.ini");
        let at = cluster.folder.display();
        std::fs::write(
            &file,
            format!(
                "[databases]\n* = host={at} port=5432\n[pgbouncer]\nunix_socket_dir = {0}\nlisten_port = 6432\nlisten_addr =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 3\nserver_tls_sslmode = disable\nmax_client_conn = 50\n",
                folder.display()
            ).replace("[databases]\n*", &format!("[databases]\n{database}")).replace("port=5432", "port=5432 user=owner"),
        )
        .unwrap();
        let mut command = super::cluster::unprivileged("pgbouncer".into());
        super::cluster::give(&folder);
        let child = command
            .arg("-q")
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("pgbouncer is needed: tests/setup.sh test installs it");
        let socket = folder.join(".s.PGSQL.6432");
        let begun = std::time::Instant::now();
        while !socket.exists() {
            assert!(begun.elapsed().as_secs() < 60, "pgbouncer does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(folder, child)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.1.kill();
        let _ = self.1.wait();
    }
}

/// A store, and a way to change it behind its back.
async fn with_a_back_door() -> (PostgresStore, impl AsyncFn(String)) {
    let options = tokio::task::spawn_blocking(|| Cluster::shared().database());
    let options = options.await.unwrap();
    let database = options.database.clone();
    let sql = async move |sql: String| {
        let database = database.clone();
        let run = move || Cluster::shared().sql(&database, &sql);
        tokio::task::spawn_blocking(run).await.unwrap();
    };
    (PostgresStore::open(options, 4).await.unwrap(), sql)
}

/// Rows that nobody can read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_row_costs_only_those_it_is_about() {
    let (store, sql) = with_a_back_door().await;
    conformance::damage::costs_only_those_it_is_about(Arc::new(store), sql).await;
    let (store, sql) = with_a_back_door().await;
    conformance::damage::what_a_lost_host_held_is_given_back(Arc::new(store), sql).await;
    let (store, sql) = with_a_back_door().await;
    let past_the_rules =
        async |damage| sql(format!("SET session_replication_role = replica; {damage}")).await;
    conformance::damage::is_passed_over_by_the_relay(Arc::new(store), past_the_rules, &[]).await;
}
