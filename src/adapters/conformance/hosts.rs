//! Hosts: joining, leases, fencing, and what a lost one held. No case waits: a lease that lasts no
//! time has run out at once.

use super::*;
use crate::domain::event::EventType;
use crate::domain::host::{Cordon, Host, Load, Registration, Standing};
use crate::ports::{Beat, Writer};
use std::sync::Arc;

pub(crate) const MINUTE: u64 = 60_000_000;

pub(crate) fn about(host: &str, boot: &str) -> Registration {
    Registration {
        host: host.to_owned(),
        name: format!("name-of-{host}"),
        boot_id: boot.to_owned(),
        labels: [("disk".to_owned(), "ssd".to_owned())].into(),
        max_runners: Some(7_000),
        version: "1".to_owned(),
        advertise: "web:9791".to_owned(),
    }
}

pub(crate) fn beat(ttl: u64, fenced_after: Option<u64>) -> Beat {
    Beat {
        ttl,
        fenced_after,
        load: Load {
            memory_total: 1 << 40,
            pressure: [Some(1), None, Some(3)],
            cpus: 64,
            ..Load::default()
        },
    }
}

pub(crate) async fn join(store: &impl Store, host: &str, boot: &str, ttl: u64) -> Writer {
    let (writer, events) = store
        .join(about(host, boot), beat(ttl, None))
        .await
        .unwrap();
    if ttl == u64::MAX {
        assert!(events.is_empty(), "it is alone: {events:?}");
        return writer;
    }
    assert_eq!(events[0].draft.kind, EventType::HostJoined);
    assert_eq!(events[0].draft.subject, format!("host/{host}"));
    writer
}

async fn host(store: &impl Store, id: &str) -> Host {
    let (_, hosts) = store.hosts().await.unwrap();
    hosts.into_iter().find(|h| h.about.host == id).unwrap()
}

fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(|e| e.draft.kind.short()).collect()
}

fn on(mut new: NewRunner, host: &str) -> NewRunner {
    new.host = host.to_owned();
    new
}

pub(crate) async fn joining_and_coming_back(store: Arc<impl Store + 'static>) {
    assert_eq!(store.hosts().await.unwrap().1, []);
    let first = join(&*store, "b", "boot-1", MINUTE).await;
    let (now, hosts) = store.hosts().await.unwrap();
    let [known] = &hosts[..] else {
        panic!("{hosts:?}")
    };
    assert_eq!(known.about, about("b", "boot-1"));
    assert_eq!(known.load, beat(0, None).load);
    assert_eq!((known.standing, known.epoch), (Standing::Up, first.epoch));
    assert_eq!(known.lease_until, known.renewed_at.plus_usec(MINUTE));
    assert!(
        known.joined_at <= now && known.is_up(now),
        "{known:?} {now:?}"
    );
    // The daemon starts again, then the machine.
    let second = join(&*store, "b", "boot-1", MINUTE).await;
    store.renew(&second, beat(0, None)).await.unwrap();
    let third = join(&*store, "b", "boot-2", MINUTE).await;
    assert!(first.epoch < second.epoch && second.epoch < third.epoch);
    let known = host(&*store, "b").await;
    assert_eq!(
        (known.epoch, &known.former_boots[..]),
        (third.epoch, &["boot-1".to_owned()][..])
    );
    join(&*store, "a", "boot-9", MINUTE).await;
    let (_, hosts) = store.hosts().await.unwrap();
    let names: Vec<&str> = hosts.iter().map(|h| h.about.name.as_str()).collect();
    assert_eq!(names, ["name-of-a", "name-of-b"]);
    assert_contiguous(&events(&*store).await);
}

pub(crate) async fn a_cloned_machine_id(store: Arc<impl Store + 'static>) {
    join(&*store, "h1", "one", 0).await;
    join(&*store, "h1", "two", MINUTE).await;
    let before = host(&*store, "h1").await;
    let again = store.join(about("h1", "one"), beat(MINUTE, None)).await;
    let said = refused(again, ErrorKind::Conflict);
    assert!(said.contains("same machine-id"), "{said}");
    assert_eq!(host(&*store, "h1").await, before);
    // The second one has an id of its own by now, and an operator says so.
    let second = Writer {
        host: "h1".to_owned(),
        epoch: before.epoch,
    };
    store.renew(&second, beat(0, None)).await.unwrap();
    let again = store.join(about("h1", "one"), beat(MINUTE, None)).await;
    refused(again, ErrorKind::Conflict);
    store.forget("h1", Actor::host()).await.unwrap();
    join(&*store, "h1", "one", MINUTE).await;
    let back = host(&*store, "h1").await;
    assert_eq!(
        (back.about.boot_id.as_str(), back.standing),
        ("one", Standing::Up)
    );
}

/// The clone is refused, and the original does not even notice.
pub(crate) async fn a_living_machine_is_not_taken_over(store: Arc<impl Store + 'static>) {
    let original = join(&*store, "b", "boot-1", MINUTE).await;
    let clone = store.join(about("b", "boot-2"), beat(MINUTE, None)).await;
    let said = refused(clone, ErrorKind::Conflict);
    assert!(
        said.contains("has a lease for") && said.contains("systemd-machine-id-setup"),
        "{said}"
    );
    store.renew(&original, beat(0, None)).await.unwrap();
    // Its lease has run out: now it is a machine that was booted.
    join(&*store, "b", "boot-2", MINUTE).await;
}

pub(crate) async fn a_boot_that_was_over_in_good_order(store: Arc<impl Store + 'static>) {
    let first = join(&*store, "b", "boot-1", MINUTE).await;
    store.end_boot(&first).await.unwrap();
    // Its lease still holds; what it does at the very end is done.
    store.renew(&first, beat(MINUTE, None)).await.unwrap();
    join(&*store, "b", "boot-2", MINUTE).await;
    assert!(matches!(
        store.end_boot(&first).await,
        Err(StoreError::Fenced)
    ));
    let now = host(&*store, "b").await;
    assert_eq!(now.about.boot_id, "boot-2");
    assert_eq!(now.former_boots, ["boot-1"]);
    // Others are kept out as before.
    let clone = store.join(about("b", "boot-3"), beat(MINUTE, None)).await;
    refused(clone, ErrorKind::Conflict);
}

pub(crate) async fn leases(store: Arc<impl Store + 'static>) {
    let writer = join(&*store, "h1", "boot", 0).await;
    let renewed = store.renew(&writer, beat(MINUTE, Some(5))).await.unwrap();
    assert_eq!(renewed, [], "nobody has noticed");
    let known = host(&*store, "h1").await;
    assert_eq!(known.fenced_after, Some(5));
    assert_eq!(known.lease_until, known.renewed_at.plus_usec(MINUTE));
    assert!(known.renewed_at > known.joined_at);

    store.renew(&writer, beat(0, None)).await.unwrap();
    assert_eq!(
        kinds(&store.tidy(MINUTE).await.unwrap()),
        ["host.unreachable"]
    );
    let renewed = store.renew(&writer, beat(MINUTE, None)).await.unwrap();
    assert_eq!(kinds(&renewed), ["host.returned"]);
    assert_eq!(host(&*store, "h1").await.standing, Standing::Up);

    let other = Writer {
        epoch: writer.epoch + 1,
        ..writer.clone()
    };
    let stranger = Writer {
        host: "h2".to_owned(),
        ..writer
    };
    for nobody in [other, stranger] {
        let renewed = store.renew(&nobody, beat(MINUTE, None)).await;
        assert!(matches!(renewed, Err(StoreError::Fenced)), "{renewed:?}");
    }
    assert_contiguous(&events(&*store).await);
}

pub(crate) async fn an_epoch_that_is_over(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(2)).await;
    let writer = join(&*store, "h1", "boot", 0).await;
    admit(&*store, launch(1, "p")).await;
    // This store goes on as the one of h1, which is given up, by itself even.
    store.forget("h1", alice()).await.unwrap();
    let told = events(&*store).await.len();
    let fenced = |what: &str, result: Result<(), StoreError>| {
        assert!(
            matches!(result, Err(StoreError::Fenced)),
            "{what}: {result:?}"
        );
    };
    fenced("admit", store.admit(launch(2, "p")).await.map(drop));
    fenced("apply", store.apply(step(1, Step::Stop, 5)).await.map(drop));
    fenced("check", store.check().await);
    let made = store
        .create_project(name("q"), capped(1), alice(), at(9))
        .await;
    fenced("create", made.map(drop));
    fenced(
        "renew",
        store.renew(&writer, beat(MINUTE, None)).await.map(drop),
    );
    assert_eq!(events(&*store).await.len(), told, "nothing was written");
    assert_eq!(store.project(&name("q")).await.unwrap(), None);
    // A storm at that moment: each of them hears it, and none is admitted.
    let storm = (10..30).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.admit(launch(n, "p")).await })
    });
    for one in storm.collect::<Vec<_>>() {
        fenced("storm", one.await.unwrap().map(drop));
    }
    let next = join(&*store, "h1", "boot", MINUTE).await;
    assert!(next.epoch > writer.epoch);
    admit(&*store, launch(3, "p")).await;
    assert_eq!(live(&*store, "p").await, 1);
}

pub(crate) async fn who_is_away_and_who_is_lost(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(3)).await;
    join(&*store, "armed", "a", MINUTE).await;
    let armed = store
        .join(about("armed", "a"), beat(0, Some(0)))
        .await
        .unwrap()
        .0;
    join(&*store, "bare", "b", 0).await;
    join(&*store, "h1", "c", MINUTE).await;
    admit(&*store, on(launch(1, "p"), "armed")).await;
    admit(&*store, on(launch(2, "p"), "bare")).await;
    admit(&*store, launch(3, "p")).await;

    let told = store.tidy(MINUTE).await.unwrap();
    assert_eq!(
        kinds(&told),
        ["host.unreachable"; 2],
        "the time is not over"
    );
    assert_eq!(kinds(&store.tidy(MINUTE).await.unwrap()), [""; 0]);
    assert_eq!(live(&*store, "p").await, 3, "all stay charged");

    // Whoever tidies up, and however many do: each thing happens once.
    let tidying = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.tidy(0).await.unwrap() })
    });
    let mut told = Vec::new();
    for one in tidying.collect::<Vec<_>>() {
        told.extend(one.await.unwrap());
    }
    let mut words = kinds(&told);
    words.sort_unstable();
    assert_eq!(words, ["host.lost", "runner.ended"]);
    assert_eq!(host(&*store, "armed").await.standing, Standing::Lost);
    assert_eq!(host(&*store, "bare").await.standing, Standing::Unreachable);
    assert_eq!(host(&*store, "h1").await.standing, Standing::Up);
    let ended = store.runner(id(1)).await.unwrap().unwrap();
    let exit = ended.exit.unwrap();
    assert_eq!(
        (exit.cause, exit.code, exit.signal),
        (Cause::HostLost, None, None)
    );
    assert_eq!(live(&*store, "p").await, 2);
    assert_eq!(host(&*store, "armed").await.live, 0);

    let away = store.renew(&armed, beat(MINUTE, None)).await;
    assert!(matches!(away, Err(StoreError::Fenced)), "{away:?}");
    join(&*store, "armed", "a", MINUTE).await;
    assert_eq!(host(&*store, "armed").await.standing, Standing::Up);
    let (_, back) = store
        .join(about("bare", "b"), beat(MINUTE, None))
        .await
        .unwrap();
    assert_eq!(kinds(&back), ["host.joined", "host.returned"]);
    assert_contiguous(&events(&*store).await);
}

pub(crate) async fn forgetting(store: Arc<impl Store + 'static>) {
    project(&*store, "p", capped(1)).await;
    join(&*store, "gone", "g", MINUTE).await;
    admit(&*store, on(launch(1, "p"), "gone")).await;
    let writer = join(&*store, "gone", "g", MINUTE).await;
    let said = refused(store.forget("gone", alice()).await, ErrorKind::Conflict);
    assert!(said.contains("name-of-gone is up"), "{said}");
    refused(store.forget("never", alice()).await, ErrorKind::NoSuchHost);
    assert_eq!(live(&*store, "p").await, 1);

    store.renew(&writer, beat(0, None)).await.unwrap();
    join(&*store, "h1", "c", MINUTE).await;
    let told = store.forget("gone", alice()).await.unwrap();
    assert_eq!(kinds(&told), ["host.left", "runner.ended"]);
    assert!(told.iter().all(|e| e.draft.actor == alice()), "{told:?}");
    let again = store.forget("gone", alice()).await.unwrap();
    assert_eq!(again, [], "it is forgotten already");
    assert_eq!(kinds(&store.tidy(0).await.unwrap()), [""; 0]);
    admit(&*store, launch(2, "p")).await;
    assert_eq!(host(&*store, "gone").await.standing, Standing::Left);
    assert_contiguous(&events(&*store).await);
}

pub(crate) async fn who_is_back_is_told(store: Arc<impl Store + 'static>) {
    join(&*store, "h1", "c", MINUTE).await;
    let about_h2 = || about("h2", "d");
    join(&*store, "h2", "d", 0).await;
    store.forget("h2", alice()).await.unwrap();
    let (writer, back) = store.join(about_h2(), beat(0, None)).await.unwrap();
    assert_eq!(kinds(&back), ["host.joined", "host.returned"]);
    // A daemon that starts again was never away.
    store.renew(&writer, beat(MINUTE, None)).await.unwrap();
    let (_, again) = store.join(about_h2(), beat(MINUTE, None)).await.unwrap();
    assert_eq!(kinds(&again), ["host.joined"]);
}

pub(crate) async fn many_are_given_back(store: Arc<impl Store + 'static>) {
    const MANY: u64 = 1_203;
    project(&*store, "p", ProjectSettings::default()).await;
    project(&*store, "q", ProjectSettings::default()).await;
    join(&*store, "gone", "g", 0).await;
    let all = (1..=MANY).map(|n| {
        let new = on(launch(n, if n % 3 == 0 { "q" } else { "p" }), "gone");
        let store = store.clone();
        tokio::spawn(async move { admit(&*store, new).await })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    join(&*store, "h1", "c", MINUTE).await;
    let told = store.forget("gone", alice()).await.unwrap();
    assert_eq!(told.len() as u64, MANY + 1);
    assert_eq!((live(&*store, "p").await, live(&*store, "q").await), (0, 0));
    assert_eq!(store.live("gone").await.unwrap(), []);
}

pub(crate) async fn cordons(store: Arc<impl Store + 'static>) {
    join(&*store, "h1", "c", 0).await;
    let why = "new disk; DROP TABLE hosts".to_owned();
    let set = store.cordon("h1", why.clone(), Some(MINUTE), alice()).await;
    let set = set.unwrap();
    assert_eq!(set.draft.kind, EventType::HostCordoned);
    assert_eq!(
        (&set.draft.actor, &set.draft.data["reason"]),
        (&alice(), &why.clone().into())
    );
    let cordon = Cordon {
        reason: why,
        actor: alice(),
        at: set.draft.at,
        drain_until: Some(set.draft.at.plus_usec(MINUTE)),
    };
    assert_eq!(host(&*store, "h1").await.cordon, Some(cordon.clone()));
    // It outlives the daemon and the machine.
    join(&*store, "h1", "d", MINUTE).await;
    assert_eq!(host(&*store, "h1").await.cordon, Some(cordon.clone()));
    assert_eq!(store.policy("h1").await.unwrap().cordon, Some(cordon));
    let policy = store.pulse("h1").await.unwrap().policy;
    let over = store.uncordon("h1", alice()).await.unwrap();
    assert_eq!(over.unwrap().draft.kind, EventType::HostUncordoned);
    assert_eq!(host(&*store, "h1").await.cordon, None);
    assert!(store.pulse("h1").await.unwrap().policy > policy);
    assert_eq!(store.uncordon("h1", alice()).await.unwrap(), None);
    refused(store.uncordon("h2", alice()).await, ErrorKind::NoSuchHost);
    let nobody = store.cordon("h2", String::new(), None, alice()).await;
    refused(nobody, ErrorKind::NoSuchHost);
    assert_contiguous(&events(&*store).await);
}

/// Whom a cordon and the cap of the fleet keep out, on whichever host is asked.
pub(crate) async fn cordon_and_cap_refuse(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    join(&*store, "h1", "c", MINUTE).await;
    join(&*store, "h2", "d", MINUTE).await;
    join(&*store, "h1", "c", MINUTE).await;
    admit(&*store, launch(1, "p")).await;
    let cordoned = store.cordon("h1", "new disk".to_owned(), None, alice());
    cordoned.await.unwrap();
    match store.admit(launch(2, "p")).await.unwrap() {
        Admitted::Denied { gate, error, .. } => {
            assert_eq!((gate.name, error.kind), ("cordon", ErrorKind::Cordoned));
            assert!(
                error.message.contains("name-of-h1 is cordoned (new disk)"),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
    admit(&*store, on(launch(3, "p"), "h2")).await;
    store.uncordon("h1", alice()).await.unwrap();
    admit(&*store, launch(4, "p")).await;

    let set = store.set_fleet_max(Some(3), alice()).await.unwrap();
    assert_eq!(set.draft.data["max_runners"], 3);
    for (n, host) in [(5, "h1"), (6, "h2")] {
        match store.admit(on(launch(n, "p"), host)).await.unwrap() {
            Admitted::Denied { gate, error, .. } => {
                assert_eq!(
                    (gate.name, error.kind),
                    ("fleet-runners", ErrorKind::QuotaExceeded)
                );
                assert_eq!((gate.limit, gate.used), (Some(3), 3));
            }
            other => panic!("{other:?}"),
        }
    }
    store.set_fleet_max(None, alice()).await.unwrap();
    admit(&*store, on(launch(7, "p"), "h2")).await;
    assert_contiguous(&events(&*store).await);
}

pub(crate) async fn the_whole_fleet(store: Arc<impl Store + 'static>) {
    let before = store.fleet().await.unwrap();
    assert_eq!(
        (before.max_runners, before.live, before.queued),
        (None, 0, 0)
    );
    project(&*store, "p", ProjectSettings::default()).await;
    admit(&*store, launch(1, "p")).await;
    admit(&*store, on(launch(2, "p"), "h2")).await;
    store.set_fleet_max(Some(9), alice()).await.unwrap();
    let after = store.fleet().await.unwrap();
    assert_eq!((after.max_runners, after.live), (Some(9), 2));
    store.set_fleet_max(None, alice()).await.unwrap();
    assert_eq!(store.fleet().await.unwrap().max_runners, None);
}

/// As the embedded store is joined.
pub(crate) async fn the_only_host(store: Arc<impl Store + 'static>) {
    project(&*store, "p", ProjectSettings::default()).await;
    join(&*store, "former-id", "a", u64::MAX).await;
    admit(&*store, on(launch(1, "p"), "former-id")).await;
    join(&*store, "h1", "a", u64::MAX).await;
    let (now, hosts) = store.hosts().await.unwrap();
    let ids: Vec<&str> = hosts.iter().map(|h| h.about.host.as_str()).collect();
    assert_eq!(ids, ["h1"]);
    assert!(hosts[0].is_up(now.plus_usec(100 * 365 * 86_400_000_000)));
    assert_eq!(kinds(&store.tidy(0).await.unwrap()), [""; 0]);
    assert_eq!(
        live(&*store, "p").await,
        1,
        "the reconciliation takes it over"
    );
    refused(store.forget("h1", alice()).await, ErrorKind::Conflict);
}
