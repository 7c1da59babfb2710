//! Lists and their filters.

use super::*;
use crate::domain::State;
use crate::domain::event::EventType;
use std::sync::Arc;

/// 30 runners: every third has ended, two projects, three users, labels, names, two hosts.
async fn fill(store: &impl Store) {
    project(store, "p", ProjectSettings::default()).await;
    project(store, "q", ProjectSettings::default()).await;
    for n in 0..30u64 {
        let mut new = launch(n, if n % 2 == 0 { "p" } else { "q" });
        new.spec.uid = 1000 + (n % 3) as u32;
        new.host = if n < 20 { "h1" } else { "h2" }.to_owned();
        new.spec.labels.insert(
            "team".to_owned(),
            if n % 5 == 0 { "red" } else { "blue" }.to_owned(),
        );
        if n % 10 == 0 {
            new.spec.labels.insert("ten".to_owned(), "%".to_owned());
        }
        new.spec.name = (n % 4 == 0).then(|| format!("job{}", n % 8));
        admit(store, new).await;
        if n % 3 == 0 {
            apply(store, step(n, end(), n * 1_000 + 500)).await;
        } else if n % 3 == 1 {
            apply(store, step(n, Step::Run(placement()), n * 1_000 + 500)).await;
        }
    }
}

async fn list(store: &impl Store, filter: RunnerFilter) -> Vec<u64> {
    let found = store.runners(filter).await.unwrap();
    found
        .iter()
        .map(|r| (r.created_at.0 - at(0).0) / 1_000)
        .collect()
}

fn expected(keep: impl Fn(u64) -> bool) -> Vec<u64> {
    (0..30).rev().filter(|n| keep(*n)).collect()
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

pub(crate) async fn filters(store: Arc<impl Store + 'static>) {
    fill(&*store).await;
    type OfState = fn(u64) -> bool;
    let lists: [(&[State], OfState); 4] = [
        (&[], |n| n % 3 != 0),
        (&State::ALL, |_| true),
        (&[State::Ended], |n| n % 3 == 0),
        (&[State::Running, State::Ended], |n| n % 3 != 2),
    ];
    // Each filter with each choice of states, since another index may serve each.
    for (states, of_state) in lists {
        let filter = || RunnerFilter {
            states: states.to_vec(),
            ..RunnerFilter::default()
        };
        let check = async |filter: RunnerFilter, keep: &dyn Fn(u64) -> bool| {
            assert_eq!(
                list(&*store, filter.clone()).await,
                expected(|n| of_state(n) && keep(n)),
                "{filter:?}"
            );
        };
        check(filter(), &|_| true).await;
        check(
            RunnerFilter {
                host: Some("h2".to_owned()),
                ..filter()
            },
            &|n| n >= 20,
        )
        .await;
        check(
            RunnerFilter {
                project: Some(name("q")),
                ..filter()
            },
            &|n| n % 2 == 1,
        )
        .await;
        check(
            RunnerFilter {
                project: Some(name("other")),
                ..filter()
            },
            &|_| false,
        )
        .await;
        check(
            RunnerFilter {
                uid: Some(1001),
                ..filter()
            },
            &|n| n % 3 == 1,
        )
        .await;
        check(
            RunnerFilter {
                hidden: vec![(name("q"), 1001), (name("other"), 1000)],
                ..filter()
            },
            &|n| !(n % 2 == 1 && n % 3 == 1),
        )
        .await;
        check(
            RunnerFilter {
                hidden: vec![(name("q"), 1001)],
                labels: labels(&[("team", "red")]),
                ..filter()
            },
            &|n| n % 5 == 0 && !(n % 2 == 1 && n % 3 == 1),
        )
        .await;
        check(
            RunnerFilter {
                name: Some("job4".to_owned()),
                ..filter()
            },
            &|n| n % 8 == 4,
        )
        .await;
        check(
            RunnerFilter {
                labels: labels(&[("team", "red")]),
                ..filter()
            },
            &|n| n % 5 == 0,
        )
        .await;
        check(
            RunnerFilter {
                labels: labels(&[("team", "red"), ("ten", "%")]),
                ..filter()
            },
            &|n| n % 10 == 0,
        )
        .await;
        check(
            RunnerFilter {
                labels: labels(&[("ten", "5")]),
                ..filter()
            },
            &|_| false,
        )
        .await;
        check(
            RunnerFilter {
                since: Some(at(7_000)),
                ..filter()
            },
            &|n| n >= 7,
        )
        .await;
        check(
            RunnerFilter {
                until: Some(at(7_000)),
                ..filter()
            },
            &|n| n < 7,
        )
        .await;
        check(
            RunnerFilter {
                after: Some(id(9)),
                ..filter()
            },
            &|n| n < 9,
        )
        .await;
        check(
            RunnerFilter {
                id_prefix: Some(id(9).to_string()),
                ..filter()
            },
            &|n| n == 9,
        )
        .await;
        let all = RunnerFilter {
            project: Some(name("p")),
            uid: Some(1000),
            name: Some("job0".to_owned()),
            labels: labels(&[("team", "blue")]),
            since: Some(at(1_000)),
            until: Some(at(29_000)),
            after: Some(id(28)),
            id_prefix: Some(id(0).to_string()[..3].to_owned()),
            ..filter()
        };
        check(all, &|n| n == 24).await;
    }
}

pub(crate) async fn pages(store: Arc<impl Store + 'static>) {
    fill(&*store).await;
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store
            .runners(RunnerFilter {
                states: State::ALL.to_vec(),
                after,
                limit: 7,
                ..RunnerFilter::default()
            })
            .await
            .unwrap();
        assert!(page.len() <= 7);
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.iter().map(|r| r.id));
    }
    assert_eq!(seen, (0..30).rev().map(id).collect::<Vec<_>>());
    let unlimited = RunnerFilter {
        states: State::ALL.to_vec(),
        limit: u32::MAX,
        ..RunnerFilter::default()
    };
    assert_eq!(store.runners(unlimited).await.unwrap().len(), 30);
}

pub(crate) async fn prefixes_are_not_patterns(store: Arc<impl Store + 'static>) {
    fill(&*store).await;
    let of = async |prefix: &str| {
        let filter = RunnerFilter {
            states: State::ALL.to_vec(),
            id_prefix: Some(prefix.to_owned()),
            limit: 1_000,
            ..RunnerFilter::default()
        };
        list(&*store, filter).await.len()
    };
    let whole = id(3).to_string();
    assert_eq!(of(&whole).await, 1);
    assert_eq!(of("").await, 30);
    assert_eq!(of(&whole[..8]).await, 30);
    for hostile in [
        "%",
        "_",
        "0%",
        "' OR 1 --",
        "\u{10ffff}",
        "g",
        &format!("{whole}0"),
        &whole.to_uppercase()[..36],
    ] {
        let expected = usize::from(hostile == whole);
        assert_eq!(of(hostile).await, expected, "{hostile}");
    }
}

pub(crate) async fn events_by_filter(store: Arc<impl Store + 'static>) {
    fill(&*store).await;
    let all = events(&*store).await;
    assert_eq!(all.len(), 2 + 30 + 20);
    let of = async |filter: EventFilter| store.events(filter).await.unwrap();
    let only =
        |keep: &dyn Fn(&Event) -> bool| all.iter().filter(|e| keep(e)).cloned().collect::<Vec<_>>();
    let any = EventFilter::default;
    assert_eq!(
        of(EventFilter {
            project: Some(name("p")),
            ..any()
        })
        .await,
        only(&|e| e.draft.project == "p")
    );
    assert_eq!(
        of(EventFilter {
            kind: Some(EventType::RunnerEnded),
            ..any()
        })
        .await,
        only(&|e| e.draft.kind == EventType::RunnerEnded)
    );
    let subject = format!("runner/{}", id(4));
    assert_eq!(
        of(EventFilter {
            runner: Some(id(4)),
            ..any()
        })
        .await,
        only(&|e| e.draft.subject == subject)
    );
    assert_eq!(
        of(EventFilter {
            after: all[10].position,
            limit: 5,
            ..any()
        })
        .await,
        all[11..16]
    );
    assert_eq!(
        of(EventFilter {
            after: u64::MAX,
            ..any()
        })
        .await,
        []
    );
    let endings = only(&|e| e.draft.kind == EventType::RunnerEnded);
    assert_eq!(
        of(EventFilter {
            kind: Some(EventType::RunnerEnded),
            limit: 3,
            newest: true,
            ..any()
        })
        .await,
        endings[endings.len() - 3..]
    );
    assert_eq!(
        of(EventFilter {
            after: all[48].position,
            limit: 5,
            newest: true,
            ..any()
        })
        .await,
        all[49..]
    );
    let both = EventFilter {
        project: Some(name("q")),
        kind: Some(EventType::RunnerRunning),
        ..any()
    };
    assert_eq!(
        of(both).await,
        only(&|e| e.draft.project == "q" && e.draft.kind == EventType::RunnerRunning)
    );
}

pub(crate) async fn live_of_a_host(store: Arc<impl Store + 'static>) {
    fill(&*store).await;
    let on = async |host: &str| {
        store
            .live(host)
            .await
            .unwrap()
            .iter()
            .map(|r| r.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        on("h1").await,
        (0..20).filter(|n| n % 3 != 0).map(id).collect::<Vec<_>>()
    );
    assert_eq!(
        on("h2").await,
        (20..30).filter(|n| n % 3 != 0).map(id).collect::<Vec<_>>()
    );
    assert_eq!(on("h3").await, []);
}
