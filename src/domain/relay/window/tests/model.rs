//! The made-up world.

use super::super::*;
use proptest::prelude::*;

pub(super) const LIMITS: Limits = Limits {
    rows: 12,
    window: 4,
    batch: 6,
};

/// Two subjects share a project.
const PROJECTS: usize = 2;

/// What may happen next at one of the hosts.
#[derive(Debug, Clone)]
pub(super) enum Turn {
    /// A page of so many rows is asked for: that is how they are now.
    Ask(u8),
    /// It arrives.
    Read,
    Rescan,
    Publish,
    /// The broker takes so many of those under way and its word arrives.
    Confirm(u8),
    /// One queue has taken it, perhaps, and another one is full.
    Refuse(bool),
    Again,
    /// The connection breaks after the broker has taken so many whose word is lost.
    Cut(u8),
    /// The store is told of what is settled now, and does it (or not), and its answer arrives (or not).
    Tell,
    Told {
        done: bool,
        heard: bool,
    },
    Crash,
    /// It is started with the other setting of `events.unroutable`.
    Restart(bool),
    Bind(u8),
    Retry,
    LetGo,
    /// The first host is given up, and goes on because it does not know.
    Adopt,
}

pub(super) fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        5 => (1u8..8).prop_map(Turn::Ask),
        6 => Just(Turn::Read),
        1 => Just(Turn::Rescan),
        12 => Just(Turn::Publish),
        8 => (1u8..5).prop_map(Turn::Confirm),
        1 => any::<bool>().prop_map(Turn::Refuse),
        1 => Just(Turn::Again),
        1 => (0u8..5).prop_map(Turn::Cut),
        5 => Just(Turn::Tell),
        5 => prop::bool::weighted(0.8).prop_flat_map(|done| {
            prop::bool::weighted(0.8).prop_map(move |heard| Turn::Told { done, heard })
        }),
        1 => Just(Turn::Crash),
        1 => any::<u8>().prop_map(Turn::Bind),
        1 => Just(Turn::Retry),
        1 => Just(Turn::LetGo),
    ]
}

#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) position: u64,
    pub(super) subject: u8,
    pub(super) seq: u64,
    pub(super) host: usize,
    pub(super) parked: Option<Why>,
}

pub(super) struct Host {
    pub(super) window: Window<u64>,
    park: bool,
    cursor: u64,
    page: Option<Vec<Row>>,
    restart: bool,
    telling: Option<Settlement>,
    /// At the broker, in the order of publishing.
    wire: VecDeque<u64>,
}

impl Host {
    pub(super) fn new(park: bool) -> Self {
        Self {
            window: Window::new(LIMITS, park),
            park,
            cursor: 0,
            page: None,
            restart: false,
            telling: None,
            wire: VecDeque::new(),
        }
    }

    pub(super) fn rescan(&mut self) {
        self.cursor = 0;
        self.restart = self.page.is_some();
    }
}

pub(super) struct World {
    pub(super) outbox: Vec<Stored>,
    pub(super) hosts: [Host; 2],
    pub(super) all: HashMap<u64, (u8, u64)>,
    pub(super) bound: HashSet<u8>,
    /// What a consumer got; of what nobody wanted, what it would have got.
    pub(super) log: Vec<(u8, u64)>,
    faults: usize,
    nacked: usize,
}

impl World {
    /// Each event with its subject and the host that wrote it.
    pub(super) fn new(events: &[(u8, bool)], bound: &[u8], park: [bool; 2]) -> Self {
        let mut next: HashMap<u8, u64> = HashMap::new();
        let mut outbox = Vec::new();
        for (n, (subject, other)) in events.iter().enumerate() {
            let seq = next.entry(*subject).or_default();
            *seq += 1;
            outbox.push(Stored {
                position: n as u64 + 1,
                subject: *subject,
                seq: *seq,
                host: usize::from(*other),
                parked: None,
            });
        }
        // Hosts hand out positions without a lock: of one subject they may stand the other way round.
        let swapped: Vec<_> = outbox
            .windows(2)
            .enumerate()
            .filter(|(n, pair)| n % 3 == 0 && pair[0].subject == pair[1].subject)
            .map(|(n, _)| n)
            .collect();
        for n in swapped {
            let position = outbox[n].position;
            outbox[n].position = outbox[n + 1].position;
            outbox[n + 1].position = position;
            outbox.swap(n, n + 1);
        }
        Self {
            all: outbox
                .iter()
                .map(|s| (s.position, (s.subject, s.seq)))
                .collect(),
            outbox,
            hosts: park.map(Host::new),
            bound: bound.iter().copied().collect(),
            log: Vec::new(),
            faults: 0,
            nacked: 0,
        }
    }

    pub(super) fn of_one(subjects: &[u8], bound: &[u8], park: bool) -> Self {
        let events: Vec<_> = subjects.iter().map(|subject| (*subject, false)).collect();
        Self::new(&events, bound, [park; 2])
    }

    pub(super) fn ask(&mut self, at: usize, most: u8) {
        let host = &mut self.hosts[at];
        if host.page.is_some() {
            return;
        }
        host.window.asking();
        let most = usize::from(most).min(host.window.room());
        let mine = |s: &&Stored| s.host == at && s.position > host.cursor && s.parked.is_none();
        let row = |stored: &Stored| {
            let before = |s: &&Stored| s.subject == stored.subject && s.seq < stored.seq;
            let before = self.outbox.iter().filter(before);
            Row {
                position: stored.position,
                subject: stored.subject.to_string().into(),
                // Two subjects share a project.
                project: (stored.subject / 2).to_string().into(),
                seq: stored.seq,
                behind: before.clone().map(|s| s.seq).max(),
                behind_unroutable: before.clone().any(|s| s.parked == Some(Why::Unroutable)),
            }
        };
        let page = self.outbox.iter().filter(mine).take(most).map(row);
        host.page = Some(page.collect());
    }

    /// Whether something was taken.
    pub(super) fn read(&mut self, at: usize) -> bool {
        let host = &mut self.hosts[at];
        let Some(page) = host.page.take() else {
            return false;
        };
        if std::mem::take(&mut host.restart) {
            return false;
        }
        let mut taken = false;
        for row in page {
            let position = row.position;
            host.cursor = position;
            taken |= host.window.offer(row, || position) == Offer::Taken;
        }
        taken
    }

    pub(super) fn publish(&mut self, at: usize) -> bool {
        let host = &mut self.hosts[at];
        let Some((position, what)) = host.window.take() else {
            return false;
        };
        assert_eq!(position, *what);
        host.wire.push_back(position);
        true
    }

    /// The broker takes the next one.
    fn broker(&mut self, at: usize) -> Option<(u64, Outcome)> {
        let position = self.hosts[at].wire.pop_front()?;
        let (subject, seq) = self.all[&position];
        let routed = self.bound.contains(&subject);
        if routed || !self.hosts[at].park {
            self.log.push((subject, seq));
        }
        let outcome = if routed {
            Outcome::Confirmed
        } else {
            Outcome::Returned
        };
        Some((position, outcome))
    }

    /// As the store does it: what is another host's by now is left alone. Whether it found everything.
    fn write(&mut self, at: usize, settlement: &Settlement) -> bool {
        let before = self.outbox.len();
        let mine = |s: &Stored| s.host == at && s.parked.is_none();
        self.outbox
            .retain(|s| !(mine(s) && settlement.done.contains(&s.position)));
        let mut found = before - self.outbox.len();
        for (position, why) in &settlement.parked {
            let of = |s: &&mut Stored| s.position == *position && mine(s);
            for stored in self.outbox.iter_mut().filter(of) {
                stored.parked = Some(*why);
                found += 1;
            }
        }
        found == settlement.done.len() + settlement.parked.len()
    }

    fn told(&mut self, at: usize, done: bool, heard: bool) {
        let Some(settlement) = self.hosts[at].telling.take() else {
            return;
        };
        let whole = done && self.write(at, &settlement);
        let host = &mut self.hosts[at];
        if done && heard {
            host.window.settled(&settlement);
            if !whole {
                host.window.doubt();
                host.rescan();
            }
        }
    }

    pub(super) fn let_go(&mut self, at: usize) {
        let unroutable = self.outbox.clone();
        for stored in self.outbox.iter_mut().filter(|s| s.host == at) {
            let held = unroutable.iter().any(|s| {
                s.subject == stored.subject
                    && s.seq < stored.seq
                    && s.parked == Some(Why::Unroutable)
            });
            let accepted = !self.hosts[at].park;
            if accepted || (stored.parked == Some(Why::Follows) && !held) {
                stored.parked = None;
            }
        }
        self.hosts[at].rescan();
    }

    pub(super) fn turn(&mut self, at: usize, turn: &Turn) {
        for host in &self.hosts {
            let parked = host.window.settlement().parked.len();
            assert_eq!(
                host.window.parked(),
                parked,
                "a retry waits for this to be none"
            );
        }
        match turn {
            Turn::Ask(most) => self.ask(at, *most),
            Turn::Read => drop(self.read(at)),
            Turn::Rescan => self.hosts[at].rescan(),
            Turn::Publish => drop(self.publish(at)),
            Turn::Confirm(most) => {
                for _ in 0..*most {
                    let Some((position, outcome)) = self.broker(at) else {
                        return;
                    };
                    self.hosts[at].window.outcome(position, outcome);
                }
            }
            Turn::Refuse(taken) => {
                if *taken {
                    self.nacked += usize::from(!self.hosts[at].wire.is_empty());
                    if let Some((position, _)) = self.broker(at) {
                        self.hosts[at].window.outcome(position, Outcome::Refused);
                    }
                } else if let Some(position) = self.hosts[at].wire.pop_front() {
                    self.hosts[at].window.outcome(position, Outcome::Refused);
                }
            }
            Turn::Again => self.hosts[at].window.again(2),
            Turn::Cut(most) => {
                for _ in 0..*most {
                    self.broker(at);
                }
                self.hosts[at].wire.clear();
                self.hosts[at].window.lost();
                self.faults += 1;
            }
            Turn::Tell => {
                let host = &mut self.hosts[at];
                let settlement = host.window.settlement();
                if host.telling.is_none() && !settlement.is_empty() {
                    host.telling = Some(settlement);
                }
            }
            Turn::Told { done, heard } => self.told(at, *done, *heard),
            Turn::Crash => {
                let park = self.hosts[at].park;
                self.turn(at, &Turn::Restart(park));
            }
            Turn::Restart(park) => {
                self.broker(at);
                self.hosts[at] = Host::new(*park);
                self.faults += 1;
            }
            Turn::Bind(subject) => drop(self.bound.insert(subject % 4)),
            Turn::Retry => {
                // As the relay does: what is in hand is written first.
                self.told(at, true, true);
                self.turn(at, &Turn::Tell);
                self.told(at, true, true);
                let mine = self.outbox.iter_mut().filter(|s| s.host == at);
                mine.for_each(|s| s.parked = None);
                self.hosts[at].rescan();
            }
            Turn::LetGo => self.let_go(at),
            Turn::Adopt => {
                let all = self.outbox.iter_mut().filter(|s| s.host == 0);
                all.for_each(|s| s.host = 1);
                // What it has under way or not told, and what the other one repeats of it.
                self.faults += 2;
            }
        }
        let host = &self.hosts[at];
        // What was refused takes no room from others, and keeps its place when it is tried again.
        assert!(host.window.rows.len() <= LIMITS.rows + PROJECTS * REFUSED_KEPT);
        assert!(host.wire.len() <= LIMITS.window);
        assert_eq!(host.window.under_way(), host.wire.len());
        let flagged = host.window.rows.values().filter(|e| e.refused).count();
        assert_eq!(host.window.refused(), flagged);
        assert!(!host.window.full.values().any(|kept| *kept == 0));
    }

    /// Without faults to the end.
    pub(super) fn drain(&mut self) {
        for _ in 0..2_000 {
            let idle = self.hosts.iter().all(|host| host.window.is_empty());
            if idle && self.outbox.iter().all(|s| s.parked.is_some()) {
                return;
            }
            for at in 0..2 {
                self.read(at);
                self.ask(at, 8);
                if !self.read(at) {
                    self.hosts[at].cursor = 0;
                }
                self.hosts[at].window.again(2);
                while self.publish(at) {}
                self.turn(at, &Turn::Confirm(9));
                self.told(at, true, true);
                self.turn(at, &Turn::Tell);
                self.told(at, true, true);
                if self.hosts[at].window.is_empty() {
                    self.let_go(at);
                }
            }
        }
        panic!("it does not come to an end: {:?}", self.outbox);
    }

    /// Every event arrived, none before its predecessor, and no more came twice than faults explain.
    pub(super) fn check(&self) -> Result<(), TestCaseError> {
        let mut last: HashMap<u8, u64> = HashMap::new();
        let mut twice = 0;
        for (subject, seq) in &self.log {
            let last = last.entry(*subject).or_default();
            if *seq <= *last {
                twice += 1;
                continue;
            }
            prop_assert_eq!(*seq, *last + 1, "a gap in {}: {:?}", subject, self.log);
            *last = *seq;
        }
        prop_assert_eq!(self.log.len() - twice, self.all.len());
        let most = self.faults * LIMITS.batch + self.nacked;
        prop_assert!(twice <= most, "{} after {} faults", twice, self.faults);
        Ok(())
    }
}
