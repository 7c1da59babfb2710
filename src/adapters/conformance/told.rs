//! Every type of event once, so that none of their schemas is untested.

#![expect(private_bounds, reason = "the audit is kept by the stores of SQL")]

use super::audit::{HOST, key};
use super::budgets::{budget, tokens};
use super::holds::hold;
use super::hosts::{MINUTE, about, beat, join};
use super::queue::{denied, patient, turns, wait};
use super::*;
use crate::adapters::sql::{Base, SqlStore};
use crate::domain::event::EventType;
use crate::domain::period::Period;
use crate::domain::project::ProjectChange;
use crate::ports::{Audit, Hosts, Policies};
use std::collections::BTreeSet;
use std::sync::Arc;

pub(crate) async fn every_type<B: Base>(store: Arc<SqlStore<B>>) {
    let store = &*store;
    store.keep_audit(HOST.to_owned(), vec![key(0)]);
    join(store, "gone", "b", 0).await;
    join(store, "lost", "b", 0).await;
    // With a fence that is over.
    let again = store.join(about("lost", "b"), beat(0, Some(0)));
    again.await.unwrap();
    // The store goes on as the one of who joined last.
    let writer = join(store, HOST, "a", 0).await;
    store.tidy(MINUTE).await.unwrap();
    store.renew(&writer, beat(MINUTE, None)).await.unwrap();
    store.forget("gone", alice()).await.unwrap();
    store.tidy(0).await.unwrap();
    project(store, "p", capped(1)).await;
    let mut drain = Some(1);
    for _ in 0..2 {
        let cordoned = store.cordon(HOST, "disk".to_owned(), drain.take(), alice());
        cordoned.await.unwrap();
    }
    store.uncordon(HOST, alice()).await.unwrap();
    store.set_fleet_max(Some(9), alice()).await.unwrap();
    store.set_fleet_max(None, alice()).await.unwrap();

    admit(store, launch(2, "p")).await;
    wait(store, patient(3, "p")).await;
    wait(store, patient(4, "p")).await;
    denied(store, launch(5, "p")).await;
    let steps = [
        Step::Run(placement()),
        Step::Freeze(None),
        Step::Thaw,
        Step::Stop,
        end(),
    ];
    for (usec, taken) in (3_000..).zip(steps) {
        apply(store, step(2, taken, usec)).await;
    }
    assert_eq!(turns(store).await, [id(3)]);
    let cancelled = Exit {
        cause: Cause::Cancelled,
        code: None,
        signal: None,
        message: String::new(),
    };
    let unused = Usage::default();
    apply(store, step(4, Step::End(cancelled, unused), 4_000)).await;
    apply(store, step(3, Step::Run(placement()), 4_000)).await;
    let daily = budget("project:p", Period::Day, 100);
    store.set_budget(daily, alice()).await.unwrap();
    store
        .report(id(3), tokens(0, 101), at(5_000))
        .await
        .unwrap();
    denied(store, launch(6, "p")).await;
    let infinite = Limits {
        memory_max: Some(u64::MAX),
        kill_signal: Some(2),
        ..Limits::default()
    };
    let change = ProjectChange {
        description: Some("for people".to_owned()),
        max_queued: Some(Some(7)),
        default_tokens: Some(Some(7)),
        max_runners: Some(None),
        limits: infinite,
    };
    store
        .set_project(name("p"), change, alice(), at(6_000))
        .await
        .unwrap();
    denied(store, launch(7, "p")).await;
    store.set_hold(hold("fleet")).await.unwrap();
    store
        .release_hold("fleet".parse().unwrap(), alice(), at(7_000))
        .await
        .unwrap();
    apply(store, step(3, end(), 8_000)).await;
    store
        .remove_project(name("p"), alice(), at(9_000))
        .await
        .unwrap();
    store.anchor(at(9_000)).await.unwrap();

    let told = events(store).await;
    let there: BTreeSet<&str> = told.iter().map(|e| e.draft.kind.short()).collect();
    assert_eq!(there, EventType::ALL.map(EventType::short).into());
    assert_contiguous(&told);
}
