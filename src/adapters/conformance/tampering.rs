//! The audit chain under real tampering: each verdict once, and the work goes on.

#![expect(private_bounds, reason = "the cases look into the store by hand")]

use super::audit::{HOST, all, by_hand, filled, key, prepared, put_back, texts, verdict, verify};
use super::*;
use crate::adapters::sql::{Base, SqlStore};
use crate::domain::audit::verify::Verdict;
use crate::ports::Audit;
use std::sync::Arc;

pub(crate) async fn each_verdict<B: Base>(store: Arc<SqlStore<B>>) {
    let store = &*store;
    filled(store, 8).await;
    let entries = all(store, HOST).await;
    assert_eq!(entries.len(), 10);
    prepared(store).await;
    let remembered = store.kept().unwrap();
    assert_eq!((remembered.n, remembered.mac), (10, entries[9].mac));
    for (sql, expected) in [
        ("", Verdict::Whole),
        (
            "UPDATE audit SET entry = replace(entry, 'alice', 'bobby') WHERE n = 5",
            Verdict::Changed { n: 5 },
        ),
        (
            "UPDATE audit SET at = at + 1 WHERE n = 10",
            Verdict::Changed { n: 10 },
        ),
        (
            "UPDATE audit SET entry = replace(entry, 'begun', 'began') WHERE n = 1",
            Verdict::Changed { n: 1 },
        ),
        (
            "UPDATE audit SET mac = (SELECT k.mac FROM kept k WHERE k.n = 2) WHERE n = 7",
            Verdict::Changed { n: 7 },
        ),
        (
            "UPDATE audit SET mac = 'x' WHERE n = 7",
            Verdict::Changed { n: 7 },
        ),
        (
            "DELETE FROM audit WHERE n IN (4, 5, 8)",
            Verdict::Removed { from: 4, to: 5 },
        ),
        (
            "DELETE FROM audit WHERE n < 3",
            Verdict::Removed { from: 1, to: 2 },
        ),
        (
            "DELETE FROM audit WHERE n = 4; UPDATE audit SET n = n - 1 WHERE n = 5; UPDATE audit SET n = n - 1 WHERE n = 6",
            Verdict::Changed { n: 4 },
        ),
        (
            "INSERT INTO audit SELECT host, 11, at, entry, mac FROM kept WHERE n = 3",
            Verdict::Changed { n: 11 },
        ),
        (
            "DELETE FROM audit WHERE n > 7",
            Verdict::Cut { last: 7, head: 10 },
        ),
        (
            "DELETE FROM audit WHERE n > 7; UPDATE audit_heads SET n = 7, mac = (SELECT mac FROM kept WHERE n = 7)",
            Verdict::Short {
                last: 7,
                anchor: 10,
            },
        ),
        (
            "DELETE FROM audit_heads",
            Verdict::HeadDiffers { head: 0, last: 10 },
        ),
        (
            "UPDATE audit_heads SET n = 9, mac = (SELECT mac FROM kept WHERE n = 9)",
            Verdict::HeadDiffers { head: 9, last: 10 },
        ),
        (
            "UPDATE audit_heads SET mac = (SELECT mac FROM kept WHERE n = 9)",
            Verdict::HeadDiffers { head: 10, last: 10 },
        ),
        (
            "DELETE FROM audit; DELETE FROM audit_heads",
            Verdict::Short {
                last: 0,
                anchor: 10,
            },
        ),
    ] {
        by_hand(store, sql).await;
        assert_eq!(verdict(store).await, expected, "{sql}");
        put_back(store).await;
    }
    // Who was not there knows by an anchor alone.
    store.keep_audit("h2".to_owned(), vec![key(0)]);
    project(store, "q", ProjectSettings::default()).await;
    by_hand(
        store,
        "DELETE FROM audit WHERE host = 'h1' AND n > 7;
         UPDATE audit_heads SET n = 7, mac = (SELECT mac FROM kept WHERE n = 7) WHERE host = 'h1'",
    )
    .await;
    assert_eq!(verdict(store).await, Verdict::Whole);
    let report = verify(store, &[remembered]).await;
    assert_eq!(
        report.verdict,
        Verdict::Short {
            last: 7,
            anchor: 10
        }
    );
    store.keep_audit("h2".to_owned(), vec![key(9)]);
    let needed = key(0).id().to_owned();
    assert_eq!(
        verdict(store).await,
        Verdict::WrongKey { key: needed, n: 1 }
    );
    let none = store.verify("h3", Vec::new()).await.unwrap();
    assert_eq!(none.verdict, Verdict::Empty);
}

pub(crate) async fn a_head_put_back_stays_known<B: Base>(store: Arc<SqlStore<B>>) {
    let store = &*store;
    filled(store, 4).await;
    prepared(store).await;
    by_hand(
        store,
        "DELETE FROM audit WHERE n > 3; UPDATE audit_heads SET n = 3, mac = (SELECT mac FROM kept WHERE n = 3)",
    )
    .await;
    // The work goes on, and so does the chain: with what it should have been.
    admit(store, launch(9, "p")).await;
    let expected = Verdict::Cut { last: 3, head: 6 };
    assert_eq!(verdict(store).await, expected);
    let kinds: Vec<_> = texts(store)
        .await
        .iter()
        .map(|t| t["kind"].to_string())
        .collect();
    assert_eq!(
        kinds[3..],
        ["\"audit.head-differed\"", "\"runner.starting\""]
    );
    admit(store, launch(10, "p")).await;
    assert_eq!(verdict(store).await, expected);
    // It was no launch of nobody's: the rows are all there.
    assert_eq!(live(store, "p").await, 6);
}

pub(crate) async fn tampering_stops_no_work<B: Base>(store: Arc<SqlStore<B>>) {
    let store = &*store;
    filled(store, 1).await;
    prepared(store).await;
    for (n, (sql, whole)) in (1u64..).zip([
        ("UPDATE audit_heads SET n = 2, mac = (SELECT a.mac FROM audit a WHERE a.host = 'H' AND a.n = 2) WHERE host = 'H'", true),
        ("UPDATE audit_heads SET mac = 'x' WHERE host = 'H'", true),
        ("UPDATE audit_heads SET n = -3 WHERE host = 'H'", true),
        ("UPDATE audit_heads SET n = 9223372036854775807 WHERE host = 'H'", true),
        ("INSERT INTO audit SELECT host, 9223372036854775806, at, entry, mac FROM audit WHERE host = 'H' AND n = 3", false),
        ("UPDATE audit_heads SET key = 'x' WHERE host = 'H'", true),
        ("UPDATE audit_heads SET checkpoint = 'x' WHERE host = 'H'", true),
        ("DELETE FROM audit_heads WHERE host = 'H'", true),
        ("UPDATE audit_heads SET n = 2 WHERE host = 'H'; DELETE FROM audit WHERE host = 'H' AND n = 3", false),
        ("INSERT INTO audit SELECT host, 4, at, entry, 'x' FROM audit WHERE host = 'H' AND n = 3", false),
        ("DELETE FROM audit WHERE host = 'H' AND n > 1", false),
        ("DELETE FROM audit WHERE host = 'H'; DELETE FROM audit_heads WHERE host = 'H'", false),
    ]) {
        let host = format!("c{n}");
        store.keep_audit(host.clone(), vec![key(0)]);
        admit(store, launch(n * 100, "p")).await;
        admit(store, launch(n * 100 + 1, "p")).await;
        let sql = sql.replace("'H'", &format!("'{host}'"));
        by_hand(store, &sql).await;
        // What was planted may be in the way once.
        if store.admit(launch(n * 100 + 2, "p")).await.is_err() {
            assert!(sql.starts_with("INSERT INTO audit SELECT host, 4"), "{sql}");
            admit(store, launch(n * 100 + 2, "p")).await;
        }
        admit(store, launch(n * 100 + 3, "p")).await;
        let report = store.verify(&host, Vec::new()).await.unwrap();
        assert_eq!(report.is_whole(), whole, "{sql}: {report:?}");
        assert!(report.last >= 4, "{sql}: {report:?}");
    }
}
