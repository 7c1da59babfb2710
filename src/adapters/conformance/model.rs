//! Random lives against a simple model in memory: the store and the model must give the same
//! answers to the same questions, whatever is done in whatever order.

use super::*;
use crate::domain::State;
use crate::domain::event::EventType;
use crate::domain::project::ProjectChange;
use crate::ports::Pruned;
use proptest::prelude::*;

/// One thing to do to both.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Create(u8, Option<u32>),
    Set(u8, Option<u32>),
    Remove(u8),
    /// Project, host, request id with digest.
    Admit(u8, u8, Option<(u8, u8)>),
    /// The nth runner so far, and what happens to it.
    Step(u8, Step),
    Prune(u8),
}

const PROJECTS: [&str; 3] = ["alpha", "b", "gamma-3"];
const HOSTS: [&str; 2] = ["h1", "h2"];
const HOST_MAX: u32 = 5;

pub(crate) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let steps = prop_oneof![
        3 => Just(Step::Run(placement())),
        1 => Just(Step::Freeze(None)),
        1 => Just(Step::Thaw),
        1 => Just(Step::Stop),
        1 => Just(Step::Limit(Limits { memory_max: Some(9 << 20), ..Limits::default() }, Vec::new())),
        3 => Just(end()),
    ];
    let cap = || proptest::option::of(0u32..4);
    let op = prop_oneof![
        2 => (0u8..3, cap()).prop_map(|(p, max)| Op::Create(p, max)),
        1 => (0u8..3, cap()).prop_map(|(p, max)| Op::Set(p, max)),
        1 => (0u8..3).prop_map(Op::Remove),
        8 => (0u8..3, 0u8..2, proptest::option::of((0u8..6, 0u8..2))).prop_map(|(p, h, r)| Op::Admit(p, h, r)),
        12 => (any::<u8>(), steps).prop_map(|(n, s)| Op::Step(n, s)),
        1 => any::<u8>().prop_map(Op::Prune),
    ];
    proptest::collection::vec(op, 1..80)
}

/// The same rules, in as few words as possible.
#[derive(Default)]
struct Model {
    now: u64,
    launches: u64,
    projects: BTreeMap<ProjectName, Option<u32>>,
    runners: BTreeMap<RunnerId, Runner>,
    requests: BTreeMap<u8, (u8, RunnerId)>,
    /// Type, subject, time.
    events: Vec<(EventType, String, Timestamp)>,
    denied: BTreeMap<(ProjectName, &'static str), Timestamp>,
}

/// An answer without what the model does not know.
#[derive(Debug, PartialEq)]
enum Answer {
    Runner(Box<Runner>),
    Repeated(RunnerId),
    Denied(&'static str),
    Project(Option<u32>),
    Pruned(Pruned),
    Done,
    No(ErrorKind),
}

impl Model {
    fn live(&self, of: impl Fn(&Runner) -> bool) -> u32 {
        self.runners
            .values()
            .filter(|r| r.state().is_live() && of(r))
            .count() as u32
    }

    fn told(&mut self, kind: EventType, subject: String) {
        self.events.push((kind, subject, at(self.now)));
    }

    fn take(&mut self, op: &Op) -> Answer {
        let key = |p: &u8| name(PROJECTS[usize::from(*p)]);
        match op {
            Op::Create(p, max) => {
                if self.projects.contains_key(&key(p)) {
                    return Answer::No(ErrorKind::AlreadyExists);
                }
                self.projects.insert(key(p), *max);
                self.told(EventType::ProjectCreated, format!("project/{}", key(p)));
                Answer::Project(*max)
            }
            Op::Set(p, max) => {
                let Some(cap) = self.projects.get_mut(&key(p)) else {
                    return Answer::No(ErrorKind::NoSuchProject);
                };
                *cap = *max;
                self.told(EventType::ProjectChanged, format!("project/{}", key(p)));
                Answer::Project(*max)
            }
            Op::Remove(p) => {
                if !self.projects.contains_key(&key(p)) {
                    return Answer::No(ErrorKind::NoSuchProject);
                }
                if self.live(|r| r.spec.project == key(p)) > 0 {
                    return Answer::No(ErrorKind::Conflict);
                }
                self.projects.remove(&key(p));
                self.told(EventType::ProjectRemoved, format!("project/{}", key(p)));
                Answer::Done
            }
            Op::Admit(p, host, request) => {
                self.admit(&new(self.launches, self.now, *p, *host, *request), *request)
            }
            Op::Step(n, step) => {
                let (id, when) = (nth(*n, self.launches), at(self.now));
                let Some(runner) = self.runners.get_mut(&id) else {
                    return Answer::No(ErrorKind::NoSuchRunner);
                };
                if let Err(error) = runner.apply(step, when) {
                    return Answer::No(error.kind);
                }
                let kind = EventType::of_step(step);
                runner.seq += u64::from(kind.is_some());
                let answer = Answer::Runner(Box::new(runner.clone()));
                if let Some(kind) = kind {
                    self.told(kind, format!("runner/{id}"));
                }
                answer
            }
            Op::Prune(age) => {
                let before = at(self.now).minus_usec(u64::from(*age) * 40_000);
                let (runners, events) = (self.runners.len(), self.events.len());
                self.runners
                    .retain(|_, r| r.state().is_live() || r.ended_at >= before);
                self.requests
                    .retain(|_, (_, id)| self.runners.contains_key(id));
                self.events.retain(|(.., at)| *at >= before);
                Answer::Pruned(Pruned {
                    runners: (runners - self.runners.len()) as u64,
                    events: (events - self.events.len()) as u64,
                    unpublished: 0,
                })
            }
        }
    }

    fn admit(&mut self, new: &NewRunner, request: Option<(u8, u8)>) -> Answer {
        self.launches += 1;
        let project = &new.spec.project;
        if let Some((digest, id)) = request.and_then(|(r, _)| self.requests.get(&r)) {
            let same = request.is_some_and(|(_, d)| d == *digest);
            return if same {
                Answer::Repeated(*id)
            } else {
                Answer::No(ErrorKind::Conflict)
            };
        }
        let Some(max) = self.projects.get(project).copied() else {
            return Answer::No(ErrorKind::NoSuchProject);
        };
        let gate = if max.is_some_and(|m| self.live(|r| r.spec.project == *project) >= m) {
            "project-runners"
        } else if self.live(|r| r.host == new.host) >= HOST_MAX {
            "host-runners"
        } else {
            let mut runner = Runner::admitted(new.id, new.spec.clone(), new.host.clone(), new.at);
            runner.seq = 1;
            self.runners.insert(new.id, runner.clone());
            if let Some((r, digest)) = request {
                self.requests.insert(r, (digest, new.id));
            }
            self.told(EventType::RunnerStarting, format!("runner/{}", new.id));
            return Answer::Runner(Box::new(runner));
        };
        let last = self
            .denied
            .entry((project.clone(), gate))
            .or_insert(Timestamp(0));
        if last.plus_usec(1_000_000) <= new.at {
            *last = new.at;
            self.told(EventType::AdmissionDenied, format!("admission/{project}"));
        }
        Answer::Denied(gate)
    }
}

fn nth(n: u8, launches: u64) -> RunnerId {
    id(u64::from(n) % (launches + 1))
}

fn new(n: u64, now: u64, project: u8, host: u8, request: Option<(u8, u8)>) -> NewRunner {
    let mut new = launch(n, PROJECTS[usize::from(project)]);
    new.at = at(now);
    new.host = HOSTS[usize::from(host)].to_owned();
    new.host_max = Some(HOST_MAX);
    new.spec.labels.insert("host".to_owned(), new.host.clone());
    match request {
        Some((r, digest)) => requested(new, 1000, &r.to_string(), &digest.to_string()),
        None => new,
    }
}

async fn ask(store: &impl Store, model: &Model, op: &Op) -> Answer {
    let key = |p: &u8| name(PROJECTS[usize::from(*p)]);
    let now = at(model.now);
    let answer = match op {
        Op::Create(p, max) => {
            let settings = ProjectSettings {
                max_runners: *max,
                ..ProjectSettings::default()
            };
            let made = store.create_project(key(p), settings, alice(), now).await;
            made.map(|(p, _)| Answer::Project(p.settings.max_runners))
        }
        Op::Set(p, max) => {
            let change = ProjectChange {
                max_runners: Some(*max),
                ..ProjectChange::default()
            };
            let set = store.set_project(key(p), change, alice(), now).await;
            set.map(|(p, _)| Answer::Project(p.settings.max_runners))
        }
        Op::Remove(p) => store
            .remove_project(key(p), alice(), now)
            .await
            .map(|_| Answer::Done),
        Op::Admit(p, host, request) => {
            let admitted = store
                .admit(new(model.launches, model.now, *p, *host, *request))
                .await;
            admitted.map(|a| match a {
                Admitted::New { runner, .. } => Answer::Runner(Box::new(runner)),
                Admitted::Repeated(runner) => Answer::Repeated(runner.id),
                Admitted::Denied { gate, .. } => Answer::Denied(gate.name),
                Admitted::Queued { .. } => Answer::Denied("queued"),
            })
        }
        Op::Step(n, step) => {
            let change = Change {
                id: nth(*n, model.launches),
                step: step.clone(),
                actor: Actor::host(),
                at: now,
            };
            store
                .apply(change)
                .await
                .map(|a| Answer::Runner(Box::new(a.runner)))
        }
        Op::Prune(age) => {
            let before = now.minus_usec(u64::from(*age) * 40_000);
            store.prune(before, 10_000).await.map(Answer::Pruned)
        }
    };
    match answer {
        Ok(answer) => answer,
        Err(StoreError::Refused(error)) => Answer::No(error.kind),
        Err(error) => panic!("{op:?}: {error}"),
    }
}

/// Does it all to an empty store and to the model.
pub(crate) async fn same_answers(store: &impl Store, ops: &[Op]) {
    let mut model = Model::default();
    for op in ops {
        model.now += 70_000;
        let said = ask(store, &model, op).await;
        assert_eq!(said, model.take(op), "{op:?}");
    }
    same_rows(store, &model).await;
}

async fn same_rows(store: &impl Store, model: &Model) {
    let filter = RunnerFilter {
        states: State::ALL.to_vec(),
        limit: 1_000,
        ..RunnerFilter::default()
    };
    let rows = store.runners(filter).await.unwrap();
    assert_eq!(
        rows,
        model.runners.values().rev().cloned().collect::<Vec<_>>()
    );
    for host in HOSTS {
        let expected: Vec<Runner> = model
            .runners
            .values()
            .filter(|r| r.host == host && r.state().is_live())
            .cloned()
            .collect();
        assert_eq!(store.live(host).await.unwrap(), expected);
        let labels = BTreeMap::from([("host".to_owned(), host.to_owned())]);
        let found = store
            .runners(RunnerFilter {
                labels,
                limit: 1_000,
                ..RunnerFilter::default()
            })
            .await
            .unwrap();
        assert_eq!(found.into_iter().rev().collect::<Vec<_>>(), expected);
    }
    let projects: Vec<_> = store
        .projects()
        .await
        .unwrap()
        .into_iter()
        .map(|p| (p.name, p.settings.max_runners, p.live))
        .collect();
    let expected: Vec<_> = model
        .projects
        .iter()
        .map(|(n, max)| (n.clone(), *max, model.live(|r| r.spec.project == *n)))
        .collect();
    assert_eq!(projects, expected);
    for (project, max) in &model.projects {
        let gates = gates(store, project.as_str(), Some(HOST_MAX))
            .await
            .unwrap();
        assert_eq!(gates[0].limit, max.map(u64::from));
        assert_eq!(gates[1].used, u64::from(model.live(|r| r.host == "h1")));
    }
    let told: Vec<_> = events(store)
        .await
        .into_iter()
        .map(|e| (e.draft.kind, e.draft.subject, e.draft.at))
        .collect();
    assert_eq!(told, model.events);
}
