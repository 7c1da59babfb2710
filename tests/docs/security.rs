//! The page on security: who may want what, what each can and cannot do, and the tests that show it. Every test that is
//! named here is looked for.

use super::roff::Page;
use stratavore::domain::{admission, hold, inputs, name, order, spec};
use stratavore::{api, engine, seqpacket, wire};

const ABOUT: &str = "\
What Stratavore protects, against whom, and how far. After each claim stands the test that shows it; make test runs all of
them, those of hosts:: on booted hosts with the shipped units, D-Bus policy and polkit rules.";

const ASSETS: &str = "\
Root on the host. The accounts of the users runners run as, with their files. The running work, and the truth about how it
ended. Caps and budgets. Commands, folders, labels and output of runners; values of -E and credentials before all. The
record of who did what. The password of the store and the key of the audit.";

/// Who, what they can do, what they cannot, and what shows it.
const ACTORS: [(&str, &str, &str, &[&str]); 7] = [
    (
        "A local user",
        "May see that runners are there, whose, and how they fare. Owners control their own. More is what root's polkit rules say, by verb, \
project, owner and host: shipped are stratavore-users (view, launch as themselves) and stratavore-admins (everything). Without polkit there \
are root and owners.",
        "Can't see commands, labels or output of others, act as another user, exceed a cap, or keep others from being served: what a \
caller controls is bounded (LIMITS). Can't speak to the agent: its socket is root's and the daemon's, and the agent looks at the uid besides.",
        &[
            "hosts::access::the_matrix",
            "hosts::access::a_role_may_be_of_one_project",
            "hosts::access::without_polkit_there_are_root_and_owners",
            "hosts::access::who_sees_the_command",
            "hosts::access::who_sees_why_a_launch_failed",
            "hosts::logs::who_reads_what",
            "api::hostile::bad_input_gets_its_named_error_and_leaves_nothing",
            "api::rights::one_user_does_not_hold_up_the_others",
            "hosts::hostile::nobody_can_hold_up_the_agent",
        ],
    ),
    (
        "A compromised runner",
        "Can do all that its user can do: signal and trace the user's other processes, read the user's credentials of other runners, \
launch and stop as that user. It can report tokens for itself.",
        "Can't leave its limits, move its own processes out of its scope, become another user, touch its shim (root's; with --user it can), outlive its stop, report for \
others, or change how its ending is told. It inherits nothing of daemon or agent: no descriptor, no variable, no sandbox that would be in \
its way. What it has others start (its user's systemd, cron, a container daemon, ssh) is no child of it: that is not limited, counted or stopped. \
Whether a program of the user's may gain privileges (sudo) is for the host to say; Stratavore sets no no_new_privs.",
        &[
            "hosts::launch::a_runner_is_born_clean",
            "hosts::limits::limits_hold_on_a_kernel_with_every_controller",
            "hosts::limits::a_limit_the_kernel_does_not_hold_is_refused",
            "hosts::endings::a_killed_shim_ends_as_supervisor_lost",
            "hosts::credentials::with_the_users_rights_alone",
            "hosts::budget::a_report_of_another_user_in_the_scope",
        ],
    ),
    (
        "A compromised stratavored",
        "Can launch as every user that root's agent.toml allows (by default every account with a uid from 1000 to 60000), within its ceilings: \
it can act as any of them, touch their files and processes, and become root where one of them can without a password (sudo, docker). Set \
allowed_users to accounts that can't. Can read what runners print, stop and freeze them, and lie to callers, about budgets too. Can read and write its store with its own password, and write \
the audit anew with its key; what was anchored elsewhere before shows that. Can keep the agent busy.",
        "Can't itself become root or a user that agent.toml does not allow, exceed a ceiling, lead the agent to another file, unit or process by any \
text it sends, or stop it from answering by frames, floods, silence or descriptors that can't be closed. It has no capability, no right on \
systemd, and reaches only this host's addresses unless a drop-in says more.",
        &[
            "hosts::hostile::a_compromised_daemon_gets_no_more_than_root_allows",
            "hosts::hostile::no_text_of_an_order_leads_elsewhere",
            "hosts::hostile::nobody_can_hold_up_the_agent",
            "hosts::access::the_agents_own_rules",
            "hosts::access::the_units_are_sound",
        ],
    ),
    (
        "A peer host of the fleet",
        "Whoever is root on a host of a fleet, or has its daemon, can do with the shared store what the store's role may: write \
orders in any name to stop, kill, freeze, thaw and limit every runner of the fleet (a host looks at the actor only of an order that claims to be \
the owner's; one by the right to control any runner is obeyed as it stands, and its name is then in events and in the target's audit), spend quotas and budgets, claim to be another host where all hosts share one role. What it can \
have launched elsewhere is what as_users of the agent.toml there says, and by default nothing.",
        "Can't launch where root has not accepted it, or as a user that root has not named, and can't change entries of another host's audit \
unseen: each host has a key and a chain of its own.",
        &[
            "hosts::placed::only_what_root_there_accepts",
            "hosts::peers::whose_a_runner_of_another_host_is",
            "hosts::peers::a_row_that_claims_any_right_is_obeyed",
            "hosts::audit::hosts_of_a_fleet_keep_chains_of_their_own",
        ],
    ),
    (
        "The operator of the database",
        "Can read and change every row: commands, folders and labels, not values of -E (but for launches placed through the store, until they are taken). \
With --request-id there is a SHA-256 of the launch with these values, without a salt: who knows the rest can try values, so what could be guessed is given by \
--load-credential. Can do with runners what a peer host can, in any name. Can take the store away: then nothing is launched, and running work goes on.",
        "Can't have anything run on a host that accepts no placed launches, get at credentials, or change the audit unseen without the hosts' keys.",
        &[
            "hosts::placed::only_what_root_there_accepts",
            "engine::queue::what_runs_in_the_end_is_what_was_asked_for",
            "hosts::peers::a_row_that_claims_any_right_is_obeyed",
            "hosts::launch::a_secret_in_the_environment_goes_nowhere_else",
            "hosts::audit::what_is_done_is_in_the_audit_and_tampering_shows",
            "hosts::fleet::postgres_dies_under_load",
        ],
    ),
    (
        "The operator of the broker",
        "Can read events (no command, folder or variable is in them, no value of a label but for the one that a hold is about, and the \
reason of a hold or a cordon, which is free text), keep them back and forge them towards consumers.",
        "Can't make a host do anything: nothing is read from the broker.",
        &[
            "hosts::access::who_sees_why_a_launch_failed",
            "hosts::relay::the_daemon_is_killed_at_each_step_of_the_drain",
        ],
    ),
    (
        "The network",
        "Sees that a host talks to its store, broker or webhooks, can cut it off, and, where root lets it in, can read \
/metrics (names of projects, numbers) and /sd (ids, names, states, addresses and labels of the fleet's hosts that advertise an address).",
        "Can't read or change what goes to a Postgres elsewhere (TLS with the certificate checked is the default; sslmode in store.url can say less), to a broker \
with amqps:// or to a webhook with https://, or order anything: no port takes orders. amqp:// and http:// are not encrypted: over them password, \
events and messages can be read and changed; --check-config and doctor warn of amqp:// to another host. A webhook's messages are signed where notify-NAME-secret is given.",
        &[
            "hosts::harness::three_hosts_and_a_postgres_on_one_network",
            "postgres::tls::certificates_and_passwords",
            "broker::tls::certificates_are_checked_and_say_who_we_are",
            "hosts::notify::a_failure_is_told_once_and_signed",
        ],
    ),
];

const CAPABILITIES: &str = "\
stratavored has none, in a full sandbox: systemd-analyze security puts its exposure at 1.2 at most.

stratavore-agent is root, because it makes processes of other users and has units of systemd's started. What a process
restricts for itself its runners would inherit, so its unit has no such setting, only those that are tied to its cgroup
(IPAddressDeny=any, DevicePolicy=closed, MemoryMax=, TasksMax=). The agent keeps two capabilities:
CAP_KILL, to signal the processes of a frozen runner, which are other users', and CAP_SYS_PTRACE, to see in which cgroup a process is where /proc
is mounted with hidepid=. Its shims get the others back when they are executed, from the bounding set.

stratavore-shim is root until its command is started: CAP_SETUID and CAP_SETGID to become the user, CAP_SYS_RESOURCE for
oom_score_adj and limits, CAP_SYS_ADMIN for the folder of credentials. Then it keeps CAP_KILL (to stop the tree), CAP_CHOWN
and CAP_DAC_OVERRIDE (to write the record, and to remove credentials and socket).

Agent and shims are not dumpable, and stratavored has LimitCORE=0: no core dump has secrets in it. What kills them for lack
of memory comes to them late (OOMScoreAdjust=, ManagedOOMPreference=omit).";

const PREDECESSOR: &str = "\
Bearer tokens and API keys: there are none. A caller is whom the bus says, by the kernel's credentials; nothing has to be kept,
sent or revoked. Programs on other hosts come by ssh, as with systemctl -H.

Roles (admin, user, service): rules of polkit's on the actions org.stratavore1.*, with the details project, owner, runner and
host. An admin is in stratavore-admins, a user in stratavore-users, a service is a user with a rule of its own; org.stratavore1(5) lists the actions. A
change holds at once for what is done, and for what is read within a minute.

Join tokens: a host joins by what its store asks of it, see HOSTS.

Rate limits per address: bounds per user, of which no user can take another's.";

/// Text and statements in turn. The statements are run as they stand here:
/// `src/adapters/postgres/tests/roles.rs` takes them from the page.
const ENROLMENT: [(&str, &str); 5] = [
    (
        "\
A host belongs to a fleet when it has a role in the fleet's Postgres. Give each its own, so that each can be revoked, and a
certificate where the server asks for one. Once, as an administrator of the database, where stratavore is the role that owns the schema (README, A fleet) and
one daemon was started under its name:",
        "\
CREATE ROLE fleet NOLOGIN;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO fleet;
ALTER DEFAULT PRIVILEGES FOR ROLE stratavore IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO fleet;",
    ),
    (
        "For each host, and on it store.url = \"postgres://web1@...\" with the credentials store-password, or store-cert and store-key, and store-ca:",
        "CREATE ROLE web1 LOGIN PASSWORD '...' IN ROLE fleet;",
    ),
    (
        "\
Roles of their own tell hosts apart for revocation and in the server's log; in the rows each can still claim to be any host.

To revoke one: stratavorectl host drain where its daemon still obeys, and on the host systemctl disable --now stratavored. Then in the database,
and with it revoke its certificate:",
        "\
ALTER ROLE web1 NOLOGIN;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'web1';",
    ),
    (
        "\
From then on nothing of it is written: its daemon launches nothing and says that it is not let in, what runs there goes on and keeps its slots. \
When its lease is over (fleet.lease_ttl), stratavorectl host forget ends what was left of it as host-lost and gives its slots to others; stop what runs there \
first. A host that was forgotten joins anew only if its role may log in. Its webhooks, audit key and broker user are its own and are withdrawn where they were given. \
Nothing is the role's, so in the end:",
        "DROP ROLE web1;",
    ),
    ("A host that comes back gets a role as a new one does.", ""),
];

/// What a caller controls, its bound, and the test that comes to it.
fn limits() -> Vec<(&'static str, String, &'static str)> {
    let kib = |bytes: usize| format!("{} KiB", bytes >> 10);
    vec![
        (
            "Calls under way of a connection, of a user",
            format!(
                "{}, {}; more are refused",
                api::CALLS_MAX,
                api::USER_CALLS_MAX
            ),
            "api::hostile::calls_over_the_limit_are_refused_and_the_others_go_on",
        ),
        (
            "Calls of a user that are worked on at a time",
            format!("{}; more wait for each other", api::USER_AT_WORK_MAX),
            "api::rights::one_user_does_not_hold_up_the_others",
        ),
        (
            "Runners of a user on a host: live, waiting and being launched",
            engine::USER_RUNNERS_MAX.to_string(),
            "engine::queue::one_user_has_only_so_many_runners",
        ),
        (
            "Launches through the store that wait for a host; of them of a user, on whichever hosts they ask",
            format!("{}, {}", order::LAUNCHES_MAX, order::OWN_LAUNCHES_MAX),
            "conformance::orders::nobody_takes_all_places",
        ),
        (
            "Launches through the store that a host carries out at a time; of them of a user, on whichever hosts they ask",
            format!(
                "{}, {}; more are refused",
                order::LAUNCHES_MAX,
                order::OWN_LAUNCHES_MAX
            ),
            "engine::placing::launches_that_take_long_leave_places_for_other_users",
        ),
        (
            "Runners that wait in a project",
            format!("{} unless max-queued says otherwise", admission::QUEUED_MAX),
            "conformance::queue::there_is_only_so_much_room",
        ),
        (
            "Arguments, and bytes of a command",
            format!("{}, {}", spec::ARGS_MAX, kib(spec::COMMAND_MAX)),
            "api::hostile::bad_input_gets_its_named_error_and_leaves_nothing",
        ),
        (
            "Variables, and their bytes",
            format!("{}, {}", spec::ENV_ENTRIES_MAX, kib(spec::ENV_MAX)),
            "api::hostile::bad_input_gets_its_named_error_and_leaves_nothing",
        ),
        (
            "Labels, bytes of a value",
            format!("{}, {}", spec::LABELS_MAX, name::LABEL_VALUE_MAX),
            "api::hostile::bad_input_gets_its_named_error_and_leaves_nothing",
        ),
        (
            "Credentials, their bytes; files of variables, bytes of each",
            format!(
                "{}, {}; {}, {}",
                inputs::CREDENTIALS_MAX,
                kib(inputs::CREDENTIALS_BYTES),
                inputs::FILES_MAX,
                kib(inputs::FILE_BYTES)
            ),
            "hosts::credentials::with_the_users_rights_alone",
        ),
        (
            "Entries of a page of a list",
            api::PAGE_MAX.to_string(),
            "api::hostile::bad_input_gets_its_named_error_and_leaves_nothing",
        ),
        (
            "Holds",
            hold::HOLDS_MAX.to_string(),
            "conformance::holds::there_are_only_so_many",
        ),
        (
            "Readings of output of a user at a time",
            "8".to_owned(),
            "hosts::logs::readers_are_bounded",
        ),
        (
            "A packet to the agent, its descriptors; a payload",
            format!(
                "{}, {}; {}",
                kib(wire::PACKET_MAX),
                seqpacket::FDS_MAX,
                kib(wire::PAYLOAD_MAX)
            ),
            "hosts::hostile::nobody_can_hold_up_the_agent",
        ),
    ]
}

pub fn page() -> String {
    let mut page = Page::new(
        "stratavore-security",
        7,
        "what Stratavore protects, against whom, and how far",
    );
    page.heading("DESCRIPTION");
    page.text(ABOUT);
    page.heading("ASSETS");
    page.text(ASSETS);
    page.heading("ACTORS");
    for (who, can, cannot, tests) in ACTORS {
        let shown = tests.join("\n\n");
        page.item(who, &format!("{can}\n\n{cannot}\n\nShown by:\n\n{shown}"));
    }
    page.heading("LIMITS");
    page.text("What is over a limit is refused with its name and value, and leaves nothing.");
    for (what, most, test) in limits() {
        page.item(what, &format!("{most}.\n\nShown by {test}"));
    }
    page.heading("PRIVILEGES");
    page.text(CAPABILITIES);
    page.heading("HOSTS");
    for (text, statements) in ENROLMENT {
        page.text(text);
        if !statements.is_empty() {
            page.example(statements);
        }
    }
    page.heading("FOR USERS OF THE EARLIER STRATAVORE");
    page.text(PREDECESSOR);
    page.see(&[
        ("stratavored", 8),
        ("stratavore-agent", 8),
        ("stratavored.toml", 5),
        ("agent.toml", 5),
        ("org.stratavore1", 5),
        ("stratavore-events", 7),
        ("polkit", 8),
    ])
}

/// Every test that the page names is there.
#[test]
fn what_shows_a_claim_is_a_test() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let actors = ACTORS.iter().flat_map(|(.., tests)| tests.iter().copied());
    let limits = limits();
    for test in actors.chain(limits.iter().map(|(.., test)| *test)) {
        let [suite, module, name] = test.split("::").collect::<Vec<_>>()[..] else {
            panic!("{test}");
        };
        let file = match suite {
            "conformance" => root.join(format!("src/adapters/conformance/{module}.rs")),
            "postgres" => root.join(format!("src/adapters/postgres/tests/{module}.rs")),
            suite => root.join(format!("tests/{suite}/{module}.rs")),
        };
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|e| panic!("{test}: {}: {e}", file.display()));
        assert!(text.contains(&format!("fn {name}(")), "there is no {test}");
    }
}
