//! The table: which members the data of each type has.

use super::Of::{Flag, Hex, Id, List, Number, Object, Text, Words};
use super::Unit::{Bytes, Count, PerSecond, Percent, Span, Time, Tokens};
use super::{Member, always, or_null, sometimes};
use crate::domain::admission::GATES;
use crate::domain::budget::OnExhausted;
use crate::domain::event::EventType;
use crate::domain::exit::Cause;
use crate::domain::limits::OomPolicy;
use crate::domain::period::Period;
use crate::domain::runner::State;

/// The members of the data of events of this type, without [`actor`].
pub fn members(kind: EventType) -> Vec<Member> {
    match kind {
        EventType::RunnerQueued => runner([always("gate", gates(), "The gate that is shut.")]),
        EventType::RunnerStarting
        | EventType::RunnerFrozen
        | EventType::RunnerThawed
        | EventType::RunnerStopping => runner([]),
        EventType::RunnerRunning => runner([
            always("unit", Text, "Its scope."),
            always(
                "invocation_id",
                Hex(32),
                "systemd's id of this invocation of the scope.",
            ),
            always(
                "warnings",
                List(Box::new(Text)),
                "Limits that are not held, where the configuration allows that.",
            ),
        ]),
        EventType::RunnerEnded => runner([
            always("exit", Object(exit()), "How it ended."),
            or_null(
                "usage",
                Object(usage()),
                "What all its processes used; null where nobody could count it, as for one that never ran.",
            ),
        ]),
        EventType::ProjectCreated | EventType::ProjectChanged | EventType::ProjectRemoved => vec![
            always("project", Text, "Its name."),
            always(
                "settings",
                Object(settings()),
                "All its settings as they are now, or were when it was removed.",
            ),
        ],
        EventType::BudgetThreshold => budget(always(
            "percent",
            Number(Percent),
            "The share of the limit that is reached.",
        )),
        EventType::BudgetExceeded => budget(always(
            "on_exhausted",
            Words(OnExhausted::ALL.map(OnExhausted::as_str).to_vec()),
            "The policy: what becomes of launches and of what runs.",
        )),
        EventType::HoldSet => vec![
            held(),
            or_null(
                "until",
                Number(Time),
                "When it ends by itself; null = never.",
            ),
            always("freeze", Flag, "Whether what runs is frozen."),
            always("reason", Text, "Why; may be empty."),
        ],
        EventType::HoldReleased => vec![held()],
        EventType::HostCordoned => host([
            always("reason", Text, "Why; may be empty."),
            or_null(
                "drain_until",
                Number(Time),
                "When what runs there is stopped; null = it is left alone.",
            ),
        ]),
        EventType::HostJoined
        | EventType::HostUnreachable
        | EventType::HostLost
        | EventType::HostReturned
        | EventType::HostLeft
        | EventType::HostUncordoned => host([]),
        EventType::FleetChanged => vec![or_null(
            "max_runners",
            Number(Count),
            "Most live runners in the fleet; null = no cap.",
        )],
        EventType::AdmissionDenied => denied(),
        EventType::AuditAnchored => anchored(),
    }
}

fn with<const N: usize>(mut shared: Vec<Member>, own: [Member; N]) -> Vec<Member> {
    shared.extend(own);
    shared
}

fn gates() -> super::Of {
    Words(GATES.to_vec())
}

fn runner<const N: usize>(own: [Member; N]) -> Vec<Member> {
    let states = || Words(State::ALL.map(State::as_str).to_vec());
    let shared = vec![
        always("runner", Id, "Its id."),
        always("project", Text, "Its project."),
        always("host", Text, "Id of the host that it is on."),
        or_null("name", Text, "Its name; null = it has none."),
        always("uid", Number(Count), "The uid that it runs as."),
        always("user", Text, "The name of that user."),
        always("state", states(), "The state it is in now."),
        or_null("old_state", states(), "The state before; null = it is new."),
    ];
    with(shared, own)
}

fn exit() -> Vec<Member> {
    vec![
        always(
            "cause",
            Words(Cause::ALL.map(Cause::as_str).to_vec()),
            "The first cause that applies.",
        ),
        or_null(
            "code",
            Number(Count),
            "Exit status of the main process; null = it did not exit.",
        ),
        or_null(
            "signal",
            Text,
            "Signal that killed the main process, as SIGKILL; null = none did.",
        ),
        always("message", Text, "A sentence for a person."),
    ]
}

/// What the kernel does not say is null.
fn usage() -> Vec<Member> {
    vec![
        or_null("cpu_usec", Number(Span), "CPU time, user and system."),
        or_null("memory_peak_bytes", Number(Bytes), "Highest memory use."),
        or_null("io_read_bytes", Number(Bytes), "Read from block devices."),
        or_null("io_write_bytes", Number(Bytes), "Written to block devices."),
        or_null(
            "tasks_peak",
            Number(Count),
            "Most processes and threads at a time.",
        ),
        or_null(
            "oom_kills",
            Number(Count),
            "Processes killed for lack of memory.",
        ),
    ]
}

fn settings() -> Vec<Member> {
    vec![
        sometimes("description", Text, "For people."),
        sometimes("max_runners", Number(Count), "Most live runners at a time."),
        sometimes(
            "max_queued",
            Number(Count),
            "Most runners that wait at a time.",
        ),
        sometimes(
            "default_tokens",
            Number(Tokens),
            "Tokens of a launch that does not say how many it may use.",
        ),
        always(
            "limits",
            Object(limits()),
            "Limits that all its runners share. 18446744073709551615 is infinity.",
        ),
    ]
}

fn limits() -> Vec<Member> {
    let policies = [OomPolicy::Continue, OomPolicy::Stop, OomPolicy::Kill];
    vec![
        sometimes("memory_max", Number(Bytes), "MemoryMax= of systemd."),
        sometimes("memory_high", Number(Bytes), "MemoryHigh=."),
        sometimes("memory_swap_max", Number(Bytes), "MemorySwapMax=."),
        sometimes("cpu_quota", Number(PerSecond), "CPUQuotaPerSecUSec=."),
        sometimes("cpu_weight", Number(Count), "CPUWeight=, 1 to 10000."),
        sometimes("io_weight", Number(Count), "IOWeight=, 1 to 10000."),
        sometimes("tasks_max", Number(Count), "TasksMax=."),
        sometimes("runtime_max", Number(Span), "RuntimeMaxSec=."),
        sometimes("stop_timeout", Number(Span), "TimeoutStopSec=."),
        sometimes(
            "oom_policy",
            Words(policies.map(OomPolicy::as_str).to_vec()),
            "OOMPolicy=.",
        ),
        sometimes("kill_signal", Number(Count), "KillSignal=."),
    ]
}

fn budget(own: Member) -> Vec<Member> {
    let shared = vec![
        always("scope", Text, "fleet, project:NAME or session:NAME."),
        always(
            "period",
            Words(Period::ALL.map(Period::as_str).to_vec()),
            "How often it begins anew.",
        ),
        always("limit", Number(Tokens), "What may be used in a period."),
        always("used", Number(Tokens), "What was used in this one."),
        always("period_start", Number(Time), "When this period began."),
    ];
    with(shared, [own])
}

fn held() -> Member {
    always(
        "scope",
        Text,
        "What it holds: fleet, project:NAME or label:KEY=VALUE.",
    )
}

fn host<const N: usize>(own: [Member; N]) -> Vec<Member> {
    let shared = vec![
        always("host", Text, "Its id."),
        always("name", Text, "Its name."),
        always(
            "epoch",
            Number(Count),
            "It grows whenever the host joins or is given up.",
        ),
        always(
            "live",
            Number(Count),
            "Live runners that are charged to it.",
        ),
    ];
    with(shared, own)
}

fn denied() -> Vec<Member> {
    vec![
        always("project", Text, "The project."),
        always("host", Text, "Id of the host that it would have run on."),
        always("gate", gates(), "The gate that is shut."),
        or_null(
            "limit",
            Number(Count),
            "The cap, in runners or, of a budget, in tokens; null = there is none.",
        ),
        always("used", Number(Count), "What is taken already."),
        always(
            "reserved",
            Number(Count),
            "What is promised to others and not used yet.",
        ),
        always("requested", Number(Count), "What the launch would add."),
        always(
            "count",
            Number(Count),
            "The refusals that this event stands for: of a project, a gate and a user one a second is written.",
        ),
        sometimes("budget", Text, "Which budget, where the gate is one."),
        sometimes(
            "note",
            Text,
            "Of a budget: what the launch did not say; may be empty.",
        ),
    ]
}

fn anchored() -> Vec<Member> {
    let end = || {
        vec![
            always("host", Text, "Whose chain: the id of a host."),
            always("n", Number(Count), "The number of its last entry."),
            always("mac", Hex(64), "That entry's MAC."),
        ]
    };
    with(
        end(),
        [
            always(
                "witnessed",
                List(Box::new(Object(end()))),
                "The ends of other hosts' chains that have grown since they were told.",
            ),
            always(
                "shrunk",
                List(Box::new(Text)),
                "Ids of hosts whose chains are not what they were.",
            ),
        ],
    )
}

/// Who did it: a member of the data of every event that is published. On the bus it stands beside the data.
pub fn actor() -> Member {
    let members = vec![
        or_null(
            "uid",
            Number(Count),
            "The uid of who asked; null = the host itself, as when a runner ends.",
        ),
        or_null("user", Text, "The name of that user, if there is one."),
        sometimes(
            "host",
            Text,
            "Id of the host where it was asked: elsewhere the same uid may be somebody else.",
        ),
    ];
    always("actor", Object(members), "Who did it.")
}
