//! The audit chain: what is in it, and what becomes of it under real tampering.

#![expect(private_bounds, reason = "the cases look into the store by hand")]

use super::*;
use crate::adapters::sql::fail::Fail;
use crate::adapters::sql::link::Link;
use crate::adapters::sql::{Base, SqlStore, Work};
use crate::domain::audit::verify::{Report, Verdict};
use crate::domain::audit::{Act, Anchor, Entry, Key};
use crate::domain::budget::{Budget, Counts, OnExhausted};
use crate::domain::event::EventType;
use crate::domain::period::Period;
use crate::ports::{Audit, Policies};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

pub(crate) const HOST: &str = "h1";

pub(crate) fn key(n: u8) -> Key {
    Key::new(&(n..n + 32).collect::<Vec<u8>>()).unwrap()
}

/// Somebody with access to the database.
#[derive(Debug)]
struct ByHand(String);

#[async_trait::async_trait]
impl Work for ByHand {
    type Done = ();

    async fn run(&mut self, on: &mut Link) -> Result<(), Fail> {
        Ok(on.say_text(self.0.clone()).await?)
    }
}

pub(crate) async fn by_hand<B: Base>(store: &SqlStore<B>, sql: &str) {
    store.write(ByHand(sql.to_owned())).await.unwrap();
}

/// Who tampers does away with what is in the way, and keeps a copy.
pub(crate) async fn prepared<B: Base>(store: &SqlStore<B>) {
    let sql = match store.base.doubts_commit() {
        false => "DROP TRIGGER audit_changed",
        true => "DROP TRIGGER audit_changed ON audit",
    };
    by_hand(store, sql).await;
    by_hand(
        store,
        "CREATE TABLE kept AS SELECT * FROM audit; CREATE TABLE kept_heads AS SELECT * FROM audit_heads",
    )
    .await;
}

pub(crate) async fn put_back<B: Base>(store: &SqlStore<B>) {
    by_hand(
        store,
        "DELETE FROM audit; INSERT INTO audit SELECT * FROM kept;
         DELETE FROM audit_heads; INSERT INTO audit_heads SELECT * FROM kept_heads",
    )
    .await;
}

pub(crate) async fn all(store: &impl Store, host: &str) -> Vec<Entry> {
    store.entries(host, 0, u64::MAX, 10_000).await.unwrap()
}

pub(crate) async fn texts(store: &impl Store) -> Vec<Value> {
    let entries = all(store, HOST).await;
    let texts = entries.iter().map(|e| serde_json::from_str(&e.entry));
    texts.collect::<Result<_, _>>().unwrap()
}

pub(crate) async fn verify(store: &impl Store, anchors: &[Anchor]) -> Report {
    store.verify(HOST, anchors.to_vec()).await.unwrap()
}

pub(crate) async fn verdict(store: &impl Store) -> Verdict {
    verify(store, &[]).await.verdict
}

/// Some entries: 1 begins the chain, 2 makes the project, then launches.
pub(crate) async fn filled<B: Base>(store: &SqlStore<B>, launches: u64) {
    store.keep_audit(HOST.to_owned(), vec![key(0)]);
    project(store, "p", ProjectSettings::default()).await;
    for n in 1..=launches {
        admit(store, launch(n, "p")).await;
    }
}

pub(crate) async fn all_that_is_done_is_written_down<B: Base>(store: Arc<SqlStore<B>>) {
    let store = &*store;
    store.keep_audit(HOST.to_owned(), vec![key(0)]);
    project(store, "p", capped(1)).await;
    admit(store, launch(1, "p")).await;
    for n in 2..5 {
        let mut one_more = launch(n, "p");
        // All within one second: they are one denial.
        one_more.at = at(5_000_000);
        assert!(matches!(
            store.admit(one_more).await,
            Ok(Admitted::Denied { .. })
        ));
    }
    apply(store, step(1, Step::Run(placement()), 6_000_000)).await;
    let limits = Limits {
        tasks_max: Some(7),
        ..Limits::default()
    };
    apply(store, step(1, Step::Limit(limits, Vec::new()), 6_000_001)).await;
    let twice = store
        .create_project(name("p"), ProjectSettings::default(), alice(), at(9))
        .await;
    refused(twice, ErrorKind::AlreadyExists);
    let budget = Budget {
        scope: "project:p".parse().unwrap(),
        period: Period::Day,
        limit: 100,
        timezone: "UTC".to_owned(),
        on_exhausted: OnExhausted::Deny,
        counts: Counts::default(),
        created_at: at(1),
    };
    let scope = budget.scope.clone();
    store.set_budget(budget, alice()).await.unwrap();
    store
        .remove_budget(scope.clone(), Period::Day, alice())
        .await
        .unwrap();
    let again = store.remove_budget(scope, Period::Day, alice()).await;
    refused(again, ErrorKind::NoSuchBudget);
    apply(store, step(1, end(), 7_000_000)).await;

    let texts = texts(store).await;
    let kinds: Vec<_> = texts.iter().map(|t| t["kind"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "audit.begun",
            "project.created",
            "runner.starting",
            "admission.denied",
            "runner.running",
            "act.set-limits",
            "act.set-budget",
            "act.remove-budget",
            "runner.ended"
        ]
    );
    assert_eq!(texts[1]["actor"]["user"], "alice");
    assert_eq!(texts[3]["result"], "refused");
    assert_eq!(texts[5]["data"]["limits"]["tasks_max"], 7);
    assert_eq!(texts[6]["subject"], "budget/project:p/day");
    assert_eq!(texts[8]["data"]["exit"]["signal"], "SIGKILL");
    // What was asked for is nobody's business.
    assert!(texts.iter().all(|t| !t.to_string().contains("\"sleep\"")));
    // Every event is an entry.
    for event in events(store).await {
        let draft = &event.draft;
        assert!(
            texts
                .iter()
                .any(|t| t["subject"] == *draft.subject && t["seq"] == draft.seq),
            "{draft:?}"
        );
    }
    let report = verify(store, &[]).await;
    assert_eq!((report.verdict, report.entries), (Verdict::Whole, 9));
}

pub(crate) async fn keys_follow_each_other<B: Base>(store: Arc<SqlStore<B>>) {
    let store = &*store;
    filled(store, 2).await;
    store.keep_audit(HOST.to_owned(), vec![key(1), key(0)]);
    admit(store, launch(3, "p")).await;
    let report = verify(store, &[]).await;
    assert_eq!((&report.verdict, report.entries), (&Verdict::Whole, 6));
    assert!(report.unsigned_keys.is_empty());
    assert_eq!(texts(store).await[4]["data"]["key"], key(1).id());
    store.keep_audit(HOST.to_owned(), vec![key(1)]);
    admit(store, launch(4, "p")).await;
    let needed = Verdict::WrongKey {
        key: key(0).id().to_owned(),
        n: 1,
    };
    assert_eq!(verdict(store).await, needed);
    // That one is lost, and another begins.
    store.keep_audit(HOST.to_owned(), vec![key(2)]);
    admit(store, launch(5, "p")).await;
    store.keep_audit(HOST.to_owned(), vec![key(2), key(1), key(0)]);
    let report = verify(store, &[]).await;
    assert_eq!(
        (report.verdict, report.unsigned_keys),
        (Verdict::Whole, vec![8])
    );
}

pub(crate) async fn old_entries_make_room<B: Base>(store: Arc<SqlStore<B>>) {
    let store = &*store;
    filled(store, 10).await;
    let entries = all(store, HOST).await;
    let early = Anchor {
        host: HOST.to_owned(),
        n: 4,
        mac: entries[3].mac,
    };
    assert_eq!(store.prune_chain(at(0), 100).await.unwrap(), 0);
    // 1 and 2 are of moment 0, the launches of 1 ms, 2 ms ….
    assert_eq!(store.prune_chain(at(3_500), 4).await.unwrap(), 4);
    assert_eq!(store.prune_chain(at(3_500), 4).await.unwrap(), 1);
    assert_eq!(store.prune_chain(at(3_500), 4).await.unwrap(), 0);
    let report = verify(store, &[early]).await;
    assert_eq!(report.verdict, Verdict::Whole);
    assert_eq!((report.first, report.last, report.entries), (6, 12, 7));
    // A checkpoint is not for everybody to make.
    prepared(store).await;
    by_hand(
        store,
        "UPDATE audit_heads SET checkpoint = replace(checkpoint, '\"n\":5', '\"n\":6'); DELETE FROM audit WHERE n = 6",
    )
    .await;
    assert_eq!(verdict(store).await, Verdict::CheckpointChanged { n: 6 });
    put_back(store).await;
    by_hand(store, "UPDATE audit_heads SET checkpoint = NULL").await;
    assert_eq!(verdict(store).await, Verdict::Removed { from: 1, to: 5 });
    put_back(store).await;
    // What is not whole is evidence, and stays.
    by_hand(
        store,
        "UPDATE audit SET entry = replace(entry, 'alice', 'bobby') WHERE n = 7",
    )
    .await;
    let why = unavailable(store.prune_chain(at(99_000), 100).await);
    assert!(why.contains("entry 7 is not as it was"), "{why}");
    assert_eq!(verdict(store).await, Verdict::Changed { n: 7 });
    put_back(store).await;
    // Nor is anything signed with a key that the chain does not know yet.
    store.keep_audit(HOST.to_owned(), vec![key(1), key(0)]);
    assert_eq!(store.prune_chain(at(99_000), 100).await.unwrap(), 0);
    store.keep_audit(HOST.to_owned(), vec![key(0)]);
    // One from a time when the clock was a hundred years ahead holds up nobody.
    let ahead = NewRunner {
        at: at(100 * 365 * 86_400_000_000),
        ..launch(50, "p")
    };
    admit(store, ahead).await;
    admit(store, launch(51, "p")).await;
    // The last one stays, to go on from.
    admit(store, launch(52, "p")).await;
    assert_eq!(store.prune_chain(at(99_000_000), 100).await.unwrap(), 9);
    admit(store, launch(99, "p")).await;
    let report = verify(store, &[]).await;
    assert_eq!(report.verdict, Verdict::Whole);
    assert_eq!((report.first, report.last), (15, 16));
}

/// A machine that begins each boot in 1970, until somebody tells it the time.
pub(crate) async fn a_clock_that_was_behind_removes_nothing_young<B: Base>(
    store: Arc<SqlStore<B>>,
) {
    let store = &*store;
    // 1 to 5, of moments from 0 to 3 ms; 6 of 10 ms, 7 from behind, 8 of 12 ms.
    filled(store, 3).await;
    admit(store, launch(10, "p")).await;
    let behind = NewRunner {
        at: Timestamp(1_000),
        ..launch(11, "p")
    };
    admit(store, behind).await;
    admit(store, launch(12, "p")).await;
    admit(store, launch(13, "p")).await;
    assert_eq!(store.prune_chain(at(3_500), 100).await.unwrap(), 5);
    assert_eq!(store.prune_chain(at(3_500), 100).await.unwrap(), 0);
    let report = verify(store, &[]).await;
    assert_eq!(report.verdict, Verdict::Whole);
    assert_eq!((report.first, report.last), (6, 9));
    // It goes with the one before it.
    assert_eq!(store.prune_chain(at(11_000), 100).await.unwrap(), 2);
    let report = verify(store, &[]).await;
    assert_eq!((report.verdict, report.first), (Verdict::Whole, 8));
}

/// What no event has told is not taken for seen.
pub(crate) async fn heads_beyond_an_event_are_told_in_the_next<B: Base>(store: Arc<SqlStore<B>>) {
    let store = &*store;
    filled(store, 1).await;
    let mac = "0f".repeat(32);
    let heads = (0..300).map(|n| format!("('o{n:03}', 7, '{mac}', 'k')"));
    let heads = heads.collect::<Vec<_>>().join(", ");
    by_hand(
        store,
        &format!("INSERT INTO audit_heads (host, n, mac, key) VALUES {heads}"),
    )
    .await;
    let tell = async |usec: u64| {
        let told = store.anchor(at(usec)).await.unwrap().unwrap();
        assert!(told.shrunk.is_empty(), "{:?}", told.shrunk);
        let told = told.event.draft.data["witnessed"].clone();
        let hosts = told.as_array().unwrap().iter();
        let hosts = hosts.map(|head| head["host"].as_str().unwrap().to_owned());
        hosts.collect::<BTreeSet<String>>()
    };
    let first = tell(1).await;
    assert_eq!(first.len(), 256);
    for n in 0..300 {
        let host = format!("o{n:03}");
        let seen = store.chain(&host).await.unwrap().unwrap().witnessed;
        assert_eq!(!seen.is_empty(), first.contains(&host), "{host}");
    }
    // Those that were told grow on, and still the others come next.
    by_hand(store, "UPDATE audit_heads SET n = 8 WHERE host LIKE 'o%'").await;
    let second = tell(2).await;
    assert_eq!((second.len(), first.union(&second).count()), (256, 300));
    assert_eq!(tell(3).await.len(), 44);
    assert!(tell(4).await.is_empty());
}

pub(crate) async fn without_a_key_there_is_none<B: Base>(store: Arc<SqlStore<B>>) {
    let store = &*store;
    project(store, "p", ProjectSettings::default()).await;
    store.note(vec![act(1)]).await.unwrap();
    assert_eq!(store.kept(), None);
    assert_eq!(store.chain(HOST).await.unwrap(), None);
    assert_eq!(store.anchor(at(1)).await.unwrap(), None);
    assert_eq!(store.prune_chain(at(u64::MAX >> 20), 9).await.unwrap(), 0);
    assert_eq!(verdict(store).await, Verdict::Empty);
}

pub(crate) async fn a_storm_is_one_chain<B: Base>(store: Arc<SqlStore<B>>) {
    store.keep_audit(HOST.to_owned(), vec![key(0)]);
    project(&*store, "p", capped(40)).await;
    let all_of_them = (1..=120).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            if let Ok(Admitted::New { runner, .. }) = store.admit(launch(n, "p")).await {
                let change = step(n, Step::Run(placement()), n * 1_000 + 1);
                store.apply(change).await.unwrap();
                assert_eq!(runner.id, id(n));
            }
            if n % 10 == 0 {
                store.note(vec![act(n)]).await.unwrap();
            }
        })
    });
    futures_util::future::join_all(all_of_them).await;
    let told = store.anchor(at(1)).await.unwrap().unwrap();
    assert_eq!(told.event.draft.kind, EventType::AuditAnchored);
    assert!(told.shrunk.is_empty());
    let (report, events) = (verify(&*store, &[]).await, events(&*store).await);
    assert_eq!(report.verdict, Verdict::Whole);
    // The beginning and twelve acts are no events.
    assert_eq!(report.entries, events.len() as u64 + 13);
    assert_eq!(report.entries, report.last);
    assert!(report.anchors >= 2, "{report:?}");
}

fn act(n: u64) -> Act {
    Act {
        at: at(n),
        kind: "act.kill",
        project: "p".to_owned(),
        subject: format!("runner/{}", id(n)),
        actor: alice(),
        result: "ok".to_owned(),
        data: json!({ "signal": 9, "text": "\u{0}é\n\"" }),
    }
}

pub(crate) async fn acts_that_are_no_events<B: Base>(store: Arc<SqlStore<B>>) {
    let store = &*store;
    store.keep_audit(HOST.to_owned(), vec![key(0)]);
    store.note(vec![act(1), act(2)]).await.unwrap();
    let texts = texts(store).await;
    assert_eq!(texts[2]["subject"], format!("runner/{}", id(2)));
    assert_eq!(texts[2]["data"]["text"], "\u{0}é\n\"");
    assert_eq!(verdict(store).await, Verdict::Whole);
    assert!(events(store).await.is_empty());
}
