//! What every store must do, whatever it keeps its rows in. A store's tests call
//! [`suite!`] with a way to open an empty one; each case becomes a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub(crate) mod admission;
pub(crate) mod audit;
pub(crate) mod away;
pub(crate) mod budgets;
pub(crate) mod churn;
pub(crate) mod damage;
pub(crate) mod holds;
pub(crate) mod hosts;
pub(crate) mod ledger;
pub(crate) mod life;
pub(crate) mod listing;
pub(crate) mod model;
pub(crate) mod orders;
pub(crate) mod outbox;
pub(crate) mod projects;
pub(crate) mod queue;
#[path = "../../tests/schema/mod.rs"]
pub(crate) mod schema;
pub(crate) mod tampering;
pub(crate) mod told;

use crate::domain::admission::Gate;
use crate::domain::event::{Actor, Event};
use crate::domain::exit::{Cause, Exit, Usage};
use crate::domain::project::ProjectSettings;
use crate::domain::runner::{Change, Placement, Step};
use crate::domain::{ErrorKind, Limits, ProjectName, Runner, RunnerId, RunnerSpec, Timestamp};
use crate::ports::{
    Admitted, Applied, EventFilter, NewRunner, RequestKey, RunnerFilter, Store, StoreError,
};
use std::collections::BTreeMap;

/// Makes a test of each case; `$open` is an async function that gives a guard and an empty store.
macro_rules! suite {
    ($open:path) => {
        $crate::adapters::conformance::suite!(@ $open,
            projects: [create_show_list, create_twice, change, unknown_names, remove, counts_go_on_after_removal, lowering_the_cap];
            admission: [caps_hold, host_cap_holds, many_callers_many_slots, a_burst_on_a_small_cap, numbers_of_the_gates,
                request_ids, request_id_race, a_denial_keeps_no_request_id, an_id_is_used_once, denials_are_bounded];
            life: [every_step_from_every_state, a_life_is_told_in_events, events_are_contiguous_under_load, limits_change_without_event,
                unknown_runner, racing_endings, dropped_callers, pruning, check_and_close];
            budgets: [set_change_remove, reports_are_totals, thresholds_are_told_once, racing_reports,
                an_ending_that_makes_room_is_told, who_waits_uses_nothing, what_never_fits_holds_up_nobody];
            holds: [set_list_release, one_for_each_scope, it_goes_with_its_project, they_end_by_themselves, there_are_only_so_many,
                who_froze_it_is_kept];
            orders: [one_that_expires_is_in_the_audit, orders_are_taken_once_and_answered, orders_are_taken_as_they_were_asked, an_order_nobody_takes_is_withdrawn,
                nobody_takes_all_places, a_launch_is_begun_once, a_launch_that_was_taken_and_not_begun];
            hosts: [joining_and_coming_back, a_cloned_machine_id, a_living_machine_is_not_taken_over, a_boot_that_was_over_in_good_order, leases, an_epoch_that_is_over, who_is_away_and_who_is_lost,
                forgetting, who_is_back_is_told, many_are_given_back, cordons, cordon_and_cap_refuse, the_whole_fleet, the_only_host];
            queue: [who_waits_is_neither_live_nor_lost, priority_then_age_fair_between_projects, there_is_only_so_much_room,
                a_session_has_one_live_runner, every_gate_with_its_numbers, a_hold_stops_admission,
                many_that_are_held_hide_nobody];
            away: [it_holds_up_nobody];
            ledger: [a_storm_of_everything, budgets_hold_in_a_storm];
            audit: [all_that_is_done_is_written_down, keys_follow_each_other, old_entries_make_room,
                a_clock_that_was_behind_removes_nothing_young, heads_beyond_an_event_are_told_in_the_next,
                without_a_key_there_is_none, a_storm_is_one_chain, acts_that_are_no_events];
            outbox: [rows_are_written_with_their_events_and_settled, what_follows_nothing_is_let_go, parked_ones_are_tried_again_by_project,
                what_a_host_leaves_is_taken_over, what_a_lost_host_had_is_left, what_is_parked_goes_with_its_age, what_is_held_hides_nothing_from_pruning];
            tampering: [each_verdict, a_head_put_back_stays_known, tampering_stops_no_work];
            told: [every_type];
            listing: [filters, pages, prefixes_are_not_patterns, events_by_filter, live_of_a_host];
        );
    };
    (@ $open:path, $($group:ident: [$($case:ident),* $(,)?];)*) => {
        $(mod $group {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                let (_guard, store) = $open().await;
                let store = std::sync::Arc::new(store);
                $crate::adapters::conformance::$group::$case(store.clone()).await;
                $crate::adapters::conformance::as_told(&*store).await;
            })*
        })*
    };
}
pub(crate) use suite;

/// 2026-01-01, the moment 0 of these tests.
const EPOCH: u64 = 1_767_225_600_000_000;

/// So many µs after the beginning.
pub(crate) fn at(usec: u64) -> Timestamp {
    Timestamp(EPOCH + usec)
}

/// The `n`th id, a UUIDv7 made `n` ms after the beginning.
pub(crate) fn id(n: u64) -> RunnerId {
    let ms = u128::from(EPOCH / 1_000 + n);
    RunnerId::from_uuid(uuid::Uuid::from_u128(
        ms << 80 | 7 << 76 | 2 << 62 | u128::from(n),
    ))
}

pub(crate) fn name(text: &str) -> ProjectName {
    text.parse().unwrap()
}

pub(crate) fn alice() -> Actor {
    Actor {
        uid: Some(1000),
        user: Some("alice".to_owned()),
        host: None,
        unit: None,
    }
}

pub(crate) fn capped(max: u32) -> ProjectSettings {
    ProjectSettings {
        max_runners: Some(max),
        ..ProjectSettings::default()
    }
}

/// A launch of the `n`th runner, made `n` ms after the beginning.
pub(crate) fn launch(n: u64, project: &str) -> NewRunner {
    NewRunner {
        id: id(n),
        spec: RunnerSpec {
            project: name(project),
            command: vec!["sleep".to_owned(), "inf".to_owned()],
            name: None,
            uid: 1000,
            user: "alice".to_owned(),
            working_directory: None,
            labels: BTreeMap::new(),
            limits: Limits {
                tasks_max: Some(u64::MAX),
                ..Limits::default()
            },
            log_file_max: None,
            priority: 0,
            tokens: None,
            session: None,
            placed: None,
        },
        host: "h1".to_owned(),
        host_max: None,
        request: None,
        queue: false,
        full: None,
        order: None,
        actor: alice(),
        at: at(n * 1_000),
    }
}

pub(crate) fn requested(mut new: NewRunner, uid: u32, id: &str, digest: &str) -> NewRunner {
    new.request = Some(RequestKey {
        uid,
        id: id.to_owned(),
        digest: digest.to_owned(),
    });
    new
}

pub(crate) fn placement() -> Placement {
    Placement {
        invocation_id: "0".repeat(32),
        boot_id: "b".to_owned(),
        shim_pid: 4711,
        shim_start: 99,
        warnings: vec!["io-weight".to_owned()],
        project_warnings: vec!["tasks-max".to_owned()],
    }
}

pub(crate) fn exit() -> Exit {
    Exit {
        cause: Cause::Signal,
        code: None,
        signal: Some(9),
        message: "The main process was killed by SIGKILL.".to_owned(),
    }
}

pub(crate) fn end() -> Step {
    Step::End(
        exit(),
        Usage {
            cpu_usec: Some(u64::MAX),
            oom_kills: Some(0),
            ..Usage::default()
        },
    )
}

pub(crate) fn step(n: u64, step: Step, usec: u64) -> Change {
    Change {
        id: id(n),
        step,
        actor: Actor::host(),
        at: at(usec),
    }
}

pub(crate) async fn project(store: &impl Store, project: &str, settings: ProjectSettings) {
    store
        .create_project(name(project), settings, alice(), at(0))
        .await
        .unwrap();
}

/// Admits it and expects that to work.
pub(crate) async fn admit(store: &impl Store, new: NewRunner) -> Runner {
    match store.admit(new).await {
        Ok(Admitted::New { runner, .. }) => runner,
        other => panic!("not admitted: {other:?}"),
    }
}

pub(crate) async fn apply(store: &impl Store, change: Change) -> Applied {
    store.apply(change).await.unwrap()
}

pub(crate) fn refused<T: std::fmt::Debug>(
    result: Result<T, StoreError>,
    kind: ErrorKind,
) -> String {
    match result {
        Err(StoreError::Refused(error)) if error.kind == kind => error.message,
        other => panic!("expected {kind:?}: {other:?}"),
    }
}

pub(crate) fn unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Unavailable(why)) => why,
        other => panic!("expected Unavailable: {other:?}"),
    }
}

pub(crate) async fn live(store: &impl Store, project: &str) -> u32 {
    store.project(&name(project)).await.unwrap().unwrap().live
}

/// Every gate of a plain launch.
pub(crate) async fn gates(
    store: &impl Store,
    project: &str,
    host_max: Option<u32>,
) -> Result<Vec<Gate>, StoreError> {
    let spec = launch(0, project).spec;
    store.explain(&spec, "h1", host_max, None).await
}

/// All events, page by page.
pub(crate) async fn events(store: &impl Store) -> Vec<Event> {
    let mut all: Vec<Event> = Vec::new();
    loop {
        let after = all.last().map_or(0, |e| e.position);
        let page = store
            .events(EventFilter {
                after,
                limit: 1_000,
                ..EventFilter::default()
            })
            .await
            .unwrap();
        if page.is_empty() {
            all.iter().for_each(schema::event);
            return all;
        }
        all.extend(page);
    }
}

/// What a case has left: each event is as its schema says.
pub(crate) async fn as_told(store: &impl Store) {
    match store.events(EventFilter::default()).await {
        Ok(_) => drop(events(store).await),
        // The case has closed it.
        Err(error) => assert!(store.check().await.is_err(), "{error:?}"),
    }
}

/// Positions grow, and each subject counts 1, 2, 3 ….
pub(crate) fn assert_contiguous(events: &[Event]) {
    let mut last = 0;
    let mut seqs: BTreeMap<&str, u64> = BTreeMap::new();
    for event in events {
        assert!(event.position > last, "{event:?}");
        last = event.position;
        let seq = seqs.entry(&event.draft.subject).or_default();
        *seq += 1;
        assert_eq!(event.draft.seq, *seq, "{event:?}");
    }
}
