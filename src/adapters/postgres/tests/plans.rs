//! How Postgres finds what the relay asks for: by an index, and no more of it than it answers, however many events
//! are kept and however much waits. The server itself tells how it has carried out each statement of the store, with
//! its transaction's settings and with the plan that its connection has kept.

use super::*;
use crate::domain::relay::{Settlement, Why};
use crate::domain::{ProjectName, Timestamp};
use crate::ports::{Outbox, Rows};
use serde_json::Value;

/// Events that were published and are kept.
const KEPT: u64 = 100_000;
/// Rows in the outbox of one host: to be published, and parked.
const PENDING: u64 = 20_000;
const PARKED: u64 = 8_000;
/// Of a page, as the tests ask for it.
const LIMIT: u32 = 100;
/// What a statement may read of tables and indexes for each row it is about, and the most rows one is about.
const ROWS_EACH: u64 = 5;
const BUFFERS_EACH: u64 = 25;
const MOST: u64 = 1_000;

/// The count of what waits.
const COUNTS: &str = "(SELECT count(*) FROM outbox WHERE host = $1 AND parked IS NULL)";

/// As many rounds as it takes until a connection has made its plans for good, and then some.
const ROUNDS: usize = 8;

const EXPLAINS: [&str; 9] = [
    "session_preload_libraries = 'auto_explain'",
    "auto_explain.log_min_duration = 0",
    "auto_explain.log_analyze = on",
    "auto_explain.log_buffers = on",
    "auto_explain.log_timing = off",
    "auto_explain.log_nested_statements = on",
    "auto_explain.log_format = json",
    // What the planner knows of the tables is up to the test.
    "autovacuum = off",
    "shared_buffers = 256MB",
];

/// Puts events there that were published, and rows of these hosts that were not: a third of them in one subject. What is
/// there already is of lower positions.
fn fill(cluster: &Cluster, database: &str, kept: u64, pending: u64, parked: u64) {
    let event = |from: String, subject: &str, seq: &str| {
        format!(
            "INSERT INTO events (position, at, type, project, subject, seq, actor, data)
             SELECT {from} + n, {from} + n, 'project.changed', 'p', {subject}, {seq}, '{{\"uid\":null,\"user\":null}}',
                    '{{\"project\":\"p\",\"settings\":{{\"limits\":{{}}}}}}'"
        )
    };
    let mut sql = format!(
        "SET auto_explain.log_min_duration = -1; SET session_replication_role = replica;
         CREATE TEMP TABLE base AS SELECT coalesce(max(position), 0) + 1 AS at FROM events;
         {} FROM generate_series(1, {kept}) AS n;",
        event(
            "(SELECT at FROM base)".to_owned(),
            "'runner/' || (SELECT at FROM base) || '-' || n / 4",
            "n % 4 + 1"
        )
    );
    for (host, pending, parked) in [
        ("h1", pending, parked),
        ("h2", pending / 4, 0),
        ("h3", 0, parked),
        ("", pending / 4, 0),
    ] {
        let all = pending + parked;
        let subject = format!(
            "'project/' || (SELECT at FROM base) || '{host}' || CASE WHEN n % 3 = 0 THEN 0 ELSE n % 300 END"
        );
        sql += &format!(
            "UPDATE base SET at = (SELECT max(position) + 1 FROM events);
             {} FROM generate_series(1, {all}) AS n;
             INSERT INTO outbox (subject, seq, position, host, source, epoch, parked)
             SELECT subject, seq, position, '{host}', 'h2', 1,
                    CASE WHEN position > (SELECT at FROM base) + {parked} THEN NULL
                         WHEN seq % 10 = 1 THEN 'unroutable' ELSE 'follows' END
               FROM events WHERE position > (SELECT at FROM base);",
            event("(SELECT at FROM base)".to_owned(), &subject, "n")
        );
    }
    sql += "INSERT INTO hosts (host, epoch, standing) VALUES ('h1', 1, 'up'), ('h2', 1, 'lost'), ('h3', 1, 'up') ON CONFLICT DO NOTHING;";
    cluster.sql(database, &sql);
}

/// Each question and each change of the relay, and the pruning.
async fn round(store: &PostgresStore) {
    let page = store.page("h1", Rows::Pending, 0, LIMIT).await.unwrap();
    assert!(page.unreadable == 0 && page.last.is_some(), "{page:?}");
    let at: Vec<u64> = page.rows.iter().map(|row| row.event.position).collect();
    let (done, rest) = at.split_at(at.len() / 2);
    let why = |n: usize| match n % 2 {
        0 => Why::Unroutable,
        _ => Why::Follows,
    };
    let parked = rest.iter().enumerate().map(|(n, at)| (*at, why(n)));
    let settlement = Settlement {
        done: done.to_vec(),
        parked: parked.collect(),
    };
    let settled = store.settle("h1", &settlement).await.unwrap();
    assert_eq!(settled as usize, at.len());
    let after = page.last.unwrap_or_default();
    store.page("h1", Rows::Pending, after, LIMIT).await.unwrap();
    let parked = store.page("h1", Rows::Parked, 0, LIMIT).await.unwrap();
    store.backlog("h1").await.unwrap();
    store.let_go("h1", false, 0, LIMIT).await.unwrap();
    let after = parked.last.unwrap_or_default();
    store.let_go("h1", true, after, LIMIT).await.unwrap();
    let other: ProjectName = "other".parse().unwrap();
    assert_eq!(store.retry("h1", Some(&other)).await.unwrap(), 0);
    // What is nobody's, or of the host that was given up; and what a host has that has only parked ones.
    store.adopt("h1", LIMIT).await.unwrap();
    store.leave("h1", LIMIT).await.unwrap();
    store.leave("h3", LIMIT).await.unwrap();
    let before = store.expired(0).await.unwrap();
    assert!(before > Timestamp(0));
    store.prune(before, 2 * LIMIT).await.unwrap();
}

/// One statement as it was carried out.
struct Explained {
    sql: String,
    plan: Value,
}

impl Explained {
    /// The scans of its plan, with how often each was done.
    fn scans(&self) -> Vec<&Value> {
        fn below<'a>(node: &'a Value, found: &mut Vec<&'a Value>) {
            let of = ["Relation Name", "Index Name"];
            let kind = node["Node Type"].as_str().unwrap_or_default();
            if kind.ends_with("Scan") && of.iter().any(|of| node.get(of).is_some()) {
                found.push(node);
            }
            let inner = node["Plans"].as_array();
            inner.into_iter().flatten().for_each(|n| below(n, found));
        }
        let mut found = Vec::new();
        below(&self.plan, &mut found);
        found
    }

    /// Rows that were looked at, also those of no use.
    fn rows(&self) -> u64 {
        let read = |scan: &&Value| {
            let of = [
                "Actual Rows",
                "Rows Removed by Filter",
                "Rows Removed by Index Recheck",
            ];
            let rows = of.iter().filter_map(|of| scan[of].as_f64());
            (rows.sum::<f64>() * scan["Actual Loops"].as_f64().unwrap_or(1.0)) as u64
        };
        self.scans().iter().map(read).sum()
    }

    fn buffers(&self) -> u64 {
        let of = ["Shared Hit Blocks", "Shared Read Blocks"];
        of.iter().filter_map(|of| self.plan[of].as_u64()).sum()
    }
}

/// What the server has told since.
fn explained(log: &str) -> Vec<Explained> {
    let mut texts: Vec<String> = Vec::new();
    let mut inside = false;
    for line in log.lines() {
        match line.strip_prefix('\t') {
            Some(more) if inside => texts.last_mut().unwrap().push_str(more),
            _ => {
                inside = line.contains("LOG:  duration: ") && line.ends_with("plan:");
                texts.extend(inside.then(String::new));
            }
        }
    }
    let explained = texts.iter().map(|text| {
        let mut told: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        Explained {
            sql: told["Query Text"].as_str().unwrap().to_owned(),
            plan: told["Plan"].take(),
        }
    });
    explained.collect()
}

/// What it says of itself that it reads more than it is about.
fn faults(one: &Explained) -> Vec<String> {
    let mut faults = Vec::new();
    // To count is to look at what is counted, and at nothing else.
    let counts = one.sql.contains(COUNTS);
    for scan in one.scans() {
        let few = ["hosts", "meta", "fleet", "writers"];
        let table = scan["Relation Name"].as_str().unwrap_or_default();
        let may = few.contains(&table) || (counts && table == "outbox");
        if scan["Node Type"] == "Seq Scan" && !may {
            faults.push(format!("all of {table}"));
        }
    }
    let (rows, buffers) = (one.rows(), one.buffers());
    let about = match counts {
        true => 4 * (PENDING + PARKED),
        false => MOST * ROWS_EACH,
    };
    if rows > about {
        faults.push(format!("{rows} rows"));
    }
    let most = BUFFERS_EACH * if counts { MOST } else { rows.max(LIMIT.into()) };
    if buffers > most {
        faults.push(format!("{buffers} pages for {rows} rows"));
    }
    faults
}

/// Each looked up what it is about, and read no more; of each there was one.
fn look_over(when: &str, log: &str) -> Vec<String> {
    let all = explained(log);
    let mut wrong = std::collections::BTreeMap::new();
    for one in &all {
        for fault in faults(one) {
            let Explained { sql, plan } = one;
            let said = format!("{when}: {fault} are read by {sql}: {plan:#}");
            wrong.entry(sql.as_str()).or_insert(said);
        }
    }
    for (what, is) in [
        (
            "a page",
            [
                "string_agg(concat_ws(",
                "position > $2 AND parked IS NULL ORDER BY",
            ],
        ),
        (
            "a page of parked ones",
            ["string_agg(concat_ws(", "parked IS NOT NULL ORDER BY"],
        ),
        (
            "settled",
            ["DELETE FROM outbox WHERE host", "json_array_elements_text"],
        ),
        (
            "parked",
            ["UPDATE outbox SET parked = $3", "position = ANY"],
        ),
        (
            "counted",
            ["SELECT count(*) FROM outbox WHERE host", "min(position)"],
        ),
        (
            "looked at again",
            ["SELECT o.position, o.parked", "o.parked IS NOT NULL"],
        ),
        (
            "let go",
            ["UPDATE outbox SET parked = NULL", "position = ANY"],
        ),
        (
            "found with others",
            ["SELECT g.host FROM", "UNION ALL SELECT ''"],
        ),
        ("given up", ["SELECT g.host FROM", "h.standing IN"]),
        (
            "handed over",
            ["UPDATE outbox SET host = $1", "o.parked IS NULL"],
        ),
        (
            "handed over parked",
            ["UPDATE outbox SET host = $1", "o.parked IS NOT NULL"],
        ),
        (
            "found by age",
            ["(e.at, e.position) > ($2, $3)", "LIMIT $4"],
        ),
        (
            "pruned",
            [
                "DELETE FROM events WHERE position IN",
                "FOR UPDATE SKIP LOCKED",
            ],
        ),
        (
            "pruned of the outbox",
            ["DELETE FROM outbox o WHERE o.subject", "OLD.seq"],
        ),
    ] {
        let seen = all
            .iter()
            .any(|one| is.iter().all(|part| one.sql.contains(part)));
        assert!(seen, "{when}: nothing was {what}");
    }
    wrong.into_values().collect()
}

/// Past the store.
async fn outside(
    cluster: &Arc<Cluster>,
    database: &str,
    work: impl FnOnce(&Cluster, &str) + Send + 'static,
) {
    let (cluster, database) = (Arc::clone(cluster), database.to_owned());
    let work = tokio::task::spawn_blocking(move || work(&cluster, &database));
    work.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_reads_no_more_than_it_asks_for() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::new(&EXPLAINS));
    let cluster = Arc::new(cluster.await.unwrap());
    let options = cluster.database();
    let database = &options.database;
    let log = cluster.folder.join("log");
    let length = || std::fs::metadata(&log).unwrap().len() as usize;
    let since = |at: usize| String::from_utf8(std::fs::read(&log).unwrap().split_off(at)).unwrap();
    // One connection that writes and one that reads: what one statement is planned like, it is planned like for good.
    let open = async || PostgresStore::open(options.clone(), 2).await.unwrap();

    let store = open().await;
    let small = u64::from(LIMIT) * ROUNDS as u64;
    outside(&cluster, database, move |cluster, database| {
        fill(cluster, database, 10, small, 20);
        cluster.sql(database, "ANALYZE");
    })
    .await;
    for _ in 0..ROUNDS {
        round(&store).await;
    }
    outside(&cluster, database, |cluster, database| {
        fill(cluster, database, KEPT, PENDING, PARKED);
    })
    .await;
    let at = length();
    round(&store).await;
    store.close().await;
    let mut wrong = look_over("planned when there was little", &since(at));

    let (at, store) = (length(), open().await);
    for _ in 0..ROUNDS {
        round(&store).await;
    }
    store.close().await;
    wrong.extend(look_over("with the statistics of little", &since(at)));

    outside(&cluster, database, |cluster, database| {
        cluster.sql(database, "VACUUM ANALYZE");
    })
    .await;
    let (at, store) = (length(), open().await);
    for _ in 0..ROUNDS {
        round(&store).await;
    }
    store.close().await;
    wrong.extend(look_over("with fresh statistics", &since(at)));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
