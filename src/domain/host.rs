//! Hosts of a fleet: how one joins, when it counts as away, and when what it held may be given
//! to others. All times are the store's clock, never a host's.

use super::error::{Error, ErrorKind};
use super::event::Actor;
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many former boot ids are remembered to tell a cloned machine-id.
const FORMER_BOOTS_MAX: usize = 8;

/// What the store has written down about a host's whereabouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It renews its lease.
    Up,
    /// Its lease has run out. What it held stays charged: its runners may be alive.
    Unreachable,
    /// It is known that nothing of it runs any more; what it held was given back.
    Lost,
    /// An operator has said that it does not come back.
    Left,
}

impl Standing {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Up, Self::Unreachable, Self::Lost, Self::Left];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Unreachable => "unreachable",
            Self::Lost => "lost",
            Self::Left => "left",
        }
    }

    /// The standing named `text`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// Nothing new starts on a cordoned host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordon {
    /// Why, for people.
    pub reason: String,
    /// Who.
    pub actor: Actor,
    /// Since when.
    pub at: Timestamp,
    /// It is to be empty by then: what still runs is stopped. `None` = only cordoned.
    #[serde(default)]
    pub drain_until: Option<Timestamp>,
}

/// What a host says about itself with each renewal of its lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Memory of the machine, in bytes.
    pub memory_total: u64,
    /// Memory promised to live runners by their limits, in bytes.
    pub memory_promised: u64,
    /// Share of time some task waited for memory, CPU, IO in the last 10 s (`avg10` of PSI), in hundredths of a
    /// percent; `None` = this kernel does not say.
    pub pressure: [Option<u32>; 3],
    /// Processors.
    pub cpus: u32,
    /// It can launch nothing just now: its agent is away, or it does not know yet what runs.
    pub away: bool,
}

/// What a host brings along when it joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its id, from its machine-id.
    pub host: String,
    /// Its name.
    pub name: String,
    /// The kernel's boot id; of a host in the store behind a mark where that boot was over in good order.
    pub boot_id: String,
    /// `host.labels`.
    pub labels: BTreeMap<String, String>,
    /// `host.max_runners`.
    pub max_runners: Option<u32>,
    /// Its release.
    pub version: String,
    /// Where it is scraped and reached.
    pub advertise: String,
}

impl Registration {
    /// Its boot id, whether or not that boot is over.
    pub fn boot(&self) -> &str {
        self.boot_id.trim_start_matches(OVER)
    }
}

/// A host as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// What it said when it joined.
    pub about: Registration,
    /// Raised by each joining and when it is given up; every write carries it.
    pub epoch: u64,
    /// Boot ids it had before.
    pub former_boots: Vec<String>,
    /// Live runners charged to it.
    pub live: u32,
    /// Its runners that wait.
    pub queued: u32,
    /// Written down whereabouts; see [`Host::standing_at`].
    pub standing: Standing,
    /// Nothing new starts here.
    pub cordon: Option<Cordon>,
    /// When it joined last.
    pub joined_at: Timestamp,
    /// When it renewed its lease last.
    pub renewed_at: Timestamp,
    /// How long that holds.
    pub lease_until: Timestamp,
    /// All its runners stop by themselves so long after the last renewal, in µs, shutting down
    /// included; `None` = they go on for ever.
    pub fenced_after: Option<u64>,
    /// How loaded it is.
    pub load: Load,
}

impl Host {
    /// Where it is at this moment: what is written down, or `unreachable` when the lease has run
    /// out meanwhile.
    pub fn standing_at(&self, now: Timestamp) -> Standing {
        match self.standing {
            Standing::Up if now >= self.lease_until => Standing::Unreachable,
            standing => standing,
        }
    }

    /// Whether what it held may be given to others now, without anybody's word: its runners have
    /// stopped by themselves, and it was away for longer than `lost_after` µs.
    pub fn is_lost(&self, now: Timestamp, lost_after: u64) -> bool {
        let away = |usec: u64| now >= self.renewed_at.plus_usec(usec);
        matches!(self.standing, Standing::Up | Standing::Unreachable)
            && now >= self.lease_until
            && away(lost_after)
            && self.fenced_after.is_some_and(away)
    }

    /// Whether launches may be decided for it.
    pub fn is_up(&self, now: Timestamp) -> bool {
        self.standing_at(now) == Standing::Up
    }
}

#[cfg(test)]
impl Host {
    /// One that is up at 0 and about which nothing is known.
    pub(crate) fn sample(id: &str, name: &str) -> Self {
        Self {
            about: Registration {
                host: id.to_owned(),
                name: name.to_owned(),
                boot_id: String::new(),
                labels: BTreeMap::new(),
                max_runners: None,
                version: String::new(),
                advertise: String::new(),
            },
            epoch: 1,
            former_boots: Vec::new(),
            live: 0,
            queued: 0,
            standing: Standing::Up,
            cordon: None,
            joined_at: Timestamp(1),
            renewed_at: Timestamp(1),
            lease_until: Timestamp(1),
            fenced_after: None,
            load: Load::default(),
        }
    }
}

/// Stands before the boot id of a boot that was over in good order.
const OVER: char = '-';

/// The boot id of a host that is being shut down.
pub fn over(boot_id: &str) -> String {
    format!("{OVER}{boot_id}")
}

/// What a joining host becomes: the boot ids to remember. An error if another machine has the same id.
///
/// A machine that boots has a boot id nobody has seen before. One that comes back with a boot id
/// that was *followed by another* can only be a second machine with the same machine-id. Which of both
/// is the host an operator has to say: `host forget` forgets the boot ids as well.
///
/// A known boot id that is marked ([`over`]) is that of a boot that was over in good order: any other may follow.
pub fn join(known: Option<&Host>, new: &Registration) -> Result<Vec<String>, Error> {
    let Some(known) = known else {
        return Ok(Vec::new());
    };
    let before = known.about.boot();
    if before == new.boot_id {
        return Ok(known.former_boots.clone());
    }
    if known.former_boots.contains(&new.boot_id) {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "Two machines have the same machine-id: “{}” and “{}” take turns as host {host}. Give the cloned one an id of its own: rm /etc/machine-id && systemd-machine-id-setup, then reboot it. Then, for the other one to come back: stratavorectl host forget {host}",
                known.about.name,
                new.name,
                host = new.host
            ),
        ));
    }
    let mut former = known.former_boots.clone();
    former.push(before.to_owned());
    if former.len() > FORMER_BOOTS_MAX {
        former.remove(0);
    }
    Ok(former)
}

/// A machine that is alive is not taken over: one with another boot id joins when the lease of the
/// one before has run out. A host that crashed and boots faster than that waits for the rest of it; one that
/// was shut down has said so.
pub fn refuse_second(known: &Host, new: &Registration, now: Timestamp) -> Result<(), Error> {
    match known.about.boot_id.starts_with(OVER) {
        true => Ok(()),
        false => refuse_living(known, new, now),
    }
}

/// The same for one that was kept out before: it was there while the other one lived, and is not its next boot.
pub fn refuse_living(known: &Host, new: &Registration, now: Timestamp) -> Result<(), Error> {
    let before = known.about.boot();
    if before == new.boot_id || !known.is_up(now) {
        return Ok(());
    }
    let rest = known
        .lease_until
        .0
        .saturating_sub(now.0)
        .div_ceil(1_000_000);
    Err(Error::new(
        ErrorKind::Conflict,
        format!(
            "Host {} (“{}”) has a lease for {rest} s more, from before its last boot or from another machine. If it was only booted, this passes by itself. If there are two machines with the same machine-id, give the cloned one an id of its own: rm /etc/machine-id && systemd-machine-id-setup, then reboot it.",
            known.about.host, known.about.name
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn registration(boot: &str) -> Registration {
        Registration {
            host: "h".to_owned(),
            name: "web".to_owned(),
            boot_id: boot.to_owned(),
            labels: BTreeMap::new(),
            max_runners: None,
            version: String::new(),
            advertise: String::new(),
        }
    }

    fn host(boot: &str, former: &[&str]) -> Host {
        Host {
            about: registration(boot),
            epoch: 1,
            former_boots: former.iter().map(|b| (*b).to_owned()).collect(),
            live: 0,
            queued: 0,
            standing: Standing::Up,
            cordon: None,
            joined_at: Timestamp(1),
            renewed_at: Timestamp(100),
            lease_until: Timestamp(160),
            fenced_after: None,
            load: Load::default(),
        }
    }

    #[test]
    fn a_machine_that_boots_is_no_clone_and_one_that_alternates_is() {
        assert_eq!(join(None, &registration("a")), Ok(vec![]));
        assert_eq!(
            join(Some(&host("a", &[])), &registration("a")),
            Ok(vec![]),
            "a daemon that starts again"
        );
        let former = join(Some(&host("a", &[])), &registration("b"));
        assert_eq!(former, Ok(vec!["a".to_owned()]));
        let error = join(Some(&host("b", &["a"])), &registration("a")).map_err(|e| e.kind);
        assert_eq!(error, Err(ErrorKind::Conflict));
    }

    #[test]
    fn a_living_machine_is_not_taken_over() {
        let (old, now) = (host("a", &[]), Timestamp(150));
        assert_eq!(refuse_second(&old, &registration("a"), now), Ok(()));
        let error = refuse_second(&old, &registration("b"), now).map_err(|e| e.kind);
        assert_eq!(error, Err(ErrorKind::Conflict));
        assert_eq!(
            refuse_second(&old, &registration("b"), Timestamp(160)),
            Ok(())
        );
        // Its boot was over in good order, though its lease holds.
        let over = host(&over("a"), &["z"]);
        assert_eq!(refuse_second(&over, &registration("b"), now), Ok(()));
        let waits = refuse_living(&over, &registration("b"), now).map_err(|e| e.kind);
        assert_eq!(waits, Err(ErrorKind::Conflict), "it was kept out before");
        assert_eq!(
            join(Some(&over), &registration("a")),
            Ok(vec!["z".to_owned()])
        );
        assert_eq!(
            join(Some(&over), &registration("b")),
            Ok(vec!["z".to_owned(), "a".to_owned()])
        );
        let error = join(Some(&over), &registration("z")).map_err(|e| e.kind);
        assert_eq!(error, Err(ErrorKind::Conflict));
    }

    proptest! {
        #[test]
        fn nothing_is_given_away_that_may_be_alive(now in 0u64..2_000, lost in 0u64..1_000, fenced in proptest::option::of(0u64..1_000)) {
            let host = Host { fenced_after: fenced, ..host("a", &[]) };
            if host.is_lost(Timestamp(now), lost) {
                prop_assert!(fenced.is_some_and(|f| now >= 100 + f));
                prop_assert!(now >= 160 && now >= 100 + lost);
                prop_assert_eq!(host.standing_at(Timestamp(now)), Standing::Unreachable);
            }
        }
    }
}
