//! Which host takes a launch that any host may take: a pure choice over what the hosts say of
//! themselves. It promises nothing; the host that is chosen decides when the launch reaches it.

use super::host::{Host, Standing};
use super::time::Timestamp;
use super::units::show_size;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What the launch asks of its host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Labels the host must have.
    pub labels: BTreeMap<String, String>,
    /// `memory-max` of the launch, in bytes: so much must not be promised to others yet.
    pub memory: Option<u64>,
}

/// A host, as a place for the launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its id.
    pub host: String,
    /// Its name.
    pub name: String,
    /// Whether it would take the launch.
    pub fits: bool,
    /// Why it does not, or what speaks for and against it, for people.
    pub why: String,
}

/// All hosts, the best first; those that would not take the launch come last.
///
/// The best is the one where the least waits (PSI, in three classes, so that noise decides
/// nothing), then the one with the fewest live runners for each processor, which the store counts
/// at once, then the one with the most memory left to promise.
pub fn rank(hosts: &[Host], now: Timestamp, wanted: &Wanted) -> Vec<Place> {
    let mut places: Vec<_> = hosts
        .iter()
        .map(|host| (unfit(host, now, wanted), host))
        .collect();
    places.sort_by_key(|(unfit, host)| {
        let cpus = u64::from(host.load.cpus.max(1));
        // Thousandths of a runner for each processor.
        let crowd = u64::from(host.live) * 1_000 / cpus;
        let free = Reverse(free_memory(host));
        (
            unfit.is_some(),
            pressed(host),
            crowd,
            free,
            &host.about.name,
            &host.about.host,
        )
    });
    let place = |(unfit, host): (Option<String>, &Host)| Place {
        host: host.about.host.clone(),
        name: host.about.name.clone(),
        fits: unfit.is_none(),
        why: unfit.unwrap_or_else(|| fit(host)),
    };
    places.into_iter().map(place).collect()
}

/// Why a host takes nothing of this kind.
fn unfit(host: &Host, now: Timestamp, wanted: &Wanted) -> Option<String> {
    match host.standing_at(now) {
        Standing::Up => {}
        standing => return Some(format!("it is {}", standing.as_str())),
    }
    if host.load.away {
        return Some(
            "it launches nothing now: its agent is away, or has just come back".to_owned(),
        );
    }
    if let Some(cordon) = &host.cordon {
        return Some(match cordon.reason.as_str() {
            "" => "it is cordoned".to_owned(),
            reason => format!("it is cordoned: {reason}"),
        });
    }
    let differs = |(key, value): &(&String, &String)| host.about.labels.get(*key) != Some(*value);
    if let Some((key, value)) = wanted.labels.iter().find(differs) {
        return Some(match host.about.labels.get(key) {
            Some(other) => format!("its label {key} is {other}, not {value}"),
            None => format!("it has no label {key}"),
        });
    }
    if let Some(max) = host.about.max_runners
        && host.live >= max
    {
        return Some(format!("all of its {max} places for runners are taken"));
    }
    let asked = wanted.memory?;
    let free = free_memory(host)?;
    (asked > free).then(|| {
        format!(
            "{} of its memory are not promised yet, and {} are asked for",
            show_size(free),
            show_size(asked)
        )
    })
}

/// What speaks for and against a host.
fn fit(host: &Host) -> String {
    let mut words = vec![match host.about.max_runners {
        Some(max) => format!("{} of {max} places taken", host.live),
        None => format!("{} live", host.live),
    }];
    if let Some(free) = free_memory(host) {
        let total = show_size(host.load.memory_total);
        words.push(format!(
            "{} of {total} memory not promised",
            show_size(free)
        ));
    }
    let names = ["memory", "CPU", "IO"];
    let worst = (0..names.len()).filter_map(|i| host.load.pressure[i].map(|p| (p, names[i])));
    if let Some((pressure, name)) = worst.max_by_key(|(p, _)| *p) {
        words.push(match pressure {
            0 => "no pressure".to_owned(),
            p => format!("{name} pressure {}.{:02} %", p / 100, p % 100),
        });
    }
    words.join(", ")
}

/// Memory that is not promised to a runner yet; `None` = the host does not say.
fn free_memory(host: &Host) -> Option<u64> {
    let load = &host.load;
    (load.memory_total > 0).then(|| load.memory_total.saturating_sub(load.memory_promised))
}

/// 0 = nothing to speak of waits, 1 = something does, 2 = it is overloaded.
fn pressed(host: &Host) -> u8 {
    match host.load.pressure.iter().flatten().max() {
        None | Some(0..500) => 0,
        Some(500..2_500) => 1,
        Some(_) => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::Actor;
    use super::super::host::{Cordon, Load};
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_000);
    const GIB: u64 = 1 << 30;

    fn host(name: &str, change: impl FnOnce(&mut Host)) -> Host {
        let mut host = Host::sample(&format!("id-of-{name}"), name);
        (host.renewed_at, host.lease_until) = (Timestamp(900), Timestamp(1_500));
        host.load = Load {
            memory_total: 64 * GIB,
            cpus: 4,
            ..Load::default()
        };
        change(&mut host);
        host
    }

    fn labels(words: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        words.iter().map(owned).collect()
    }

    #[test]
    fn each_reason_is_told_and_the_best_is_first() {
        let cordon = Cordon {
            reason: "new disk".to_owned(),
            actor: Actor::host(),
            at: NOW,
            drain_until: None,
        };
        let gpu = |h: &mut Host| h.about.labels = labels(&[("gpu", "yes")]);
        let hosts = [
            host("away", |h| (gpu(h), h.lease_until = NOW).0),
            host("cordoned", |h| (gpu(h), h.cordon = Some(cordon)).0),
            host("plain", |_| ()),
            host("dull", |h| (gpu(h), h.load.away = true).0),
            host("other", |h| h.about.labels = labels(&[("gpu", "no")])),
            host("full", |h| {
                gpu(h);
                (h.live, h.about.max_runners) = (3, Some(3));
            }),
            host("small", |h| {
                gpu(h);
                h.load.memory_promised = 60 * GIB;
            }),
            host("busy", |h| {
                gpu(h);
                h.load.pressure = [None, Some(2_600), None];
            }),
            host("good", |h| {
                gpu(h);
                (h.live, h.about.max_runners) = (2, Some(20));
                h.load.pressure = [Some(0), Some(123), None];
            }),
        ];
        let wanted = Wanted {
            labels: labels(&[("gpu", "yes")]),
            memory: Some(8 * GIB),
        };
        let ranked = rank(&hosts, NOW, &wanted);
        let told: Vec<_> = ranked
            .iter()
            .map(|p| (p.fits, p.name.as_str(), p.why.as_str()))
            .collect();
        assert_eq!(
            told[..2],
            [
                (
                    true,
                    "good",
                    "2 of 20 places taken, 64G of 64G memory not promised, CPU pressure 1.23 %"
                ),
                (
                    true,
                    "busy",
                    "0 live, 64G of 64G memory not promised, CPU pressure 26.00 %"
                ),
            ]
        );
        let mut rest = told[2..].to_vec();
        rest.sort_by_key(|t| t.1);
        assert_eq!(
            rest,
            [
                (false, "away", "it is unreachable"),
                (false, "cordoned", "it is cordoned: new disk"),
                (
                    false,
                    "dull",
                    "it launches nothing now: its agent is away, or has just come back"
                ),
                (false, "full", "all of its 3 places for runners are taken"),
                (false, "other", "its label gpu is no, not yes"),
                (false, "plain", "it has no label gpu"),
                (
                    false,
                    "small",
                    "4G of its memory are not promised yet, and 8G are asked for"
                ),
            ]
        );
    }

    #[test]
    fn launches_spread_over_equal_hosts() {
        let mut hosts = [
            host("a", |_| ()),
            host("b", |_| ()),
            host("c", |h| h.load.cpus = 8),
        ];
        for _ in 0..16 {
            let best = rank(&hosts, NOW, &Wanted::default()).remove(0);
            for host in &mut hosts {
                host.live += u32::from(host.about.host == best.host);
            }
        }
        assert_eq!(hosts.map(|h| h.live), [4, 4, 8]);
    }

    proptest! {
        #[test]
        fn nothing_unfit_is_before_anything_fit_and_nobody_is_forgotten(
            of in proptest::collection::vec((0u32..5, proptest::option::of(0u32..5), proptest::option::of(0u32..10_000), 0u64..100), 0..8),
            memory in proptest::option::of(0u64..100),
        ) {
            let hosts: Vec<Host> = of.iter().enumerate().map(|(i, (live, max, pressure, promised))| host(&i.to_string(), |h| {
                (h.live, h.about.max_runners) = (*live, *max);
                h.load.pressure[0] = *pressure;
                (h.load.memory_total, h.load.memory_promised) = (50, *promised);
            })).collect();
            let wanted = Wanted { memory, ..Wanted::default() };
            let ranked = rank(&hosts, NOW, &wanted);
            prop_assert_eq!(ranked.len(), hosts.len());
            prop_assert!(ranked.is_sorted_by_key(|p| !p.fits));
            for (host, (live, max, _, promised)) in hosts.iter().zip(&of) {
                let fits = ranked.iter().find(|p| p.host == host.about.host).is_some_and(|p| p.fits);
                let room = max.is_none_or(|m| *live < m) && memory.is_none_or(|m| m <= 50u64.saturating_sub(*promised));
                prop_assert_eq!(fits, room);
            }
        }
    }
}
