//! What is said in the journal: each kind of happening with its fixed `MESSAGE_ID=` and what the
//! catalog (`journalctl -x`) says of it.
//!
//! An id never changes its meaning and is never used again: people filter and alert by it. A new
//! kind gets a new random id (`systemd-id128 new`), then `UPDATE_GOLDEN=1 cargo test --test rules`
//! writes the catalog anew.

use super::exit::Cause;

/// A kind of happening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Its name in the source.
    pub name: &'static str,
    /// `MESSAGE_ID=`: 128 bits in hex.
    pub id: &'static str,
    /// One line for the catalog.
    pub subject: &'static str,
    /// What happened and what to do; `@FIELD@` stands for a field of the line.
    pub text: &'static str,
}

macro_rules! kinds {
    ($($name:ident = $id:literal, $subject:literal, $text:literal;)+) => {
        $(#[doc = $subject] pub const $name: Kind = Kind {
            name: stringify!($name), id: $id, subject: $subject, text: $text,
        };)+
        /// All of them, in the catalog's order.
        pub const ALL: &[Kind] = &[$($name),+];
    };
}

kinds! {
    READY = "7b689f947e4148a2bc92d5ef47c9a8eb",
        "@SYSLOG_IDENTIFIER@ is ready",
        "It has started, knows what runs on this host and serves calls. Runners do not notice that it was away.";
    STOPPING = "1e357858e53f499f9831b1202b3ec3cf",
        "@SYSLOG_IDENTIFIER@ is stopping",
        "It was asked to stop. Runners go on; who ends meanwhile leaves a record, which is read at the next start.";
    FAILED = "617585cf892e4303aa6163d61f1d1ed3",
        "@SYSLOG_IDENTIFIER@ ends with a failure",
        "It could not start or go on; the line says why. Runners go on. systemd starts it again by itself, unless it says that\na person has to look (status 78): mend what it names, then\n\n    systemctl restart stratavored stratavore-agent";
    CONFIGURATION_ERROR = "40136f80dfe94b2bb50f2fe25dd19bf5",
        "The configuration is wrong",
        "The line names the file, the line in it and the key. Runners go on. Mend it, and see whether it is right:\n\n    stratavored --check-config\n    /usr/libexec/stratavore/stratavore-agent --check-config\n\nThen: systemctl reload-or-restart stratavored stratavore-agent";
    CONFIGURATION_READ = "158a98666744405bb7cc2cebaf13bc94",
        "The configuration was read again",
        "The line says what was taken over, and what is in force only after a restart (stratavored --print-config shows which\nkeys those are). Runners do not notice.";
    WEDGED = "edd7d5d0340b40baaa35afd5e41f5341",
        "stratavored makes no progress",
        "Its engine or its bus connection has not come round for 20 s, so it gives systemd no more signs of life and is started\nagain. Runners go on. If it happens again, look for a bus or a disk that hangs, and report it with this journal.";
    LINES_DROPPED = "1dd8063824594d449373c10b193868a2",
        "@STRATAVORE_LINES_DROPPED@ lines of @SYSLOG_IDENTIFIER@ are missing from the journal",
        "The journal did not take lines for a while, and the queue was full. The work went on; every ending and every event is\nin the store (stratavorectl events). See: systemctl status systemd-journald, and the disk below /var/log/journal.";
    STORE_AWAY = "59cb140a219448a890cc46791a057355",
        "The store does not answer",
        "Nothing can be launched until it is back; running work goes on, and endings are kept as records in\n/var/lib/stratavore/exits. The line says why: make room on the disk, or mend what it names. Nothing has to be restarted.";
    STORE_BACK = "0dc145f4b792495aafb5f8abee7c0b15",
        "The store answers again",
        "What had to wait is written now, and launches are possible.";
    STORE_FAULT = "db860b3c074f4648990fb953b5702e5e",
        "The store holds or refuses something that should not be",
        "A row can't be read, a transaction was lost or a step was refused. Other runners are not touched. If the disk is\nsound, this is a fault of Stratavore: report it with this journal.";
    FENCE_HASTY = "8226f82720ad49338591911ced451f61",
        "Running work may be stopped because the agent is away for a moment",
        "fleet.stop_on_disconnect_after is shorter than stratavore-agent may need to come back by itself. Make it longer, or\nknow that a slow restart of the agent stops all runners of this host.";
    AGENT_AWAY = "6394c06fb1a243e1884f617d1b5ee99c",
        "The connection to stratavore-agent is gone",
        "Until it is back nothing can be launched or stopped. Running work goes on; only where fleet.stop_on_disconnect_after is\nset it stops by itself after that time, as if the store were away: the line says when. systemd starts the agent by\nitself. If it stays away, see:\n\n    systemctl status stratavore-agent";
    AGENT_BACK = "ed665836d31a4da88dc640e1c8243313",
        "stratavore-agent is connected",
        "stratavored now compares its rows with what really runs.";
    BROKER_UP = "5f2c68c810fe4949abf77ad80d678932",
        "The broker takes events",
        "What waited in the outbox is published now, in order. Nothing has to be done.";
    BROKER_DOWN = "3b44d67a0d4e471a9b0b0bcdae465f21",
        "The broker is not reached",
        "Events wait in the store until it is back, however long that takes; launches and running work do not notice.\nThe line says why. It is tried again by itself, less and less often, and every half a minute at last.\nSee: stratavorectl outbox show.";
    BROKER_BLOCKED = "4b1dcfb0fe8747c9b6339beba1ce7e2e",
        "The broker takes no events for now",
        "It has run short of memory or disk and says so; events wait in the store until it takes them again.\nGive the broker room, or read its queues empty.";
    EVENTS_PARKED = "a948be8d1a524dfda6ab3e8d418ff75a",
        "Events are parked",
        "No queue is bound at the exchange for them, so nobody would get them. They are kept, with the later events of the\nsame subjects. Bind a queue, then: stratavorectl outbox retry. Where nobody has to see every event, set\nevents.unroutable = \"accept\".";
    EVENTS_REFUSED = "84f332d171f746fbaafd87f99512beac",
        "The broker refuses events",
        "A queue that is bound for them is full and rejects what does not fit (x-overflow reject-publish). They are kept, and a\nfew are tried again now and then; other projects' events go on. Another queue bound for them has got those already: it\nsees them more than once. Read the queue empty, or raise its limit.";
    EVENTS_DROPPED = "b00b6979e38c4c8b8b17610951818ae9",
        "Events were removed that were never published",
        "They were parked because no queue was bound for them, or left over from when a broker was configured, for longer than\nstore.retention. Consumers will miss their numbers. Bind a queue for everything, or set events.unroutable = \"accept\".";
    EVENTS_LEFT = "f60080ec326c4a66971c518f75994825",
        "Events are left that were to be published",
        "At a stop: the broker was not reached, or took too long; they go out after the next start. At a start: no broker is\nconfigured any more. They are published by another host of the fleet that has one, or if one is configured\nagain within store.retention; then they are removed.";
    EVENTS_ADOPTED = "00e9d9a620d84ecea4b861d1144f8dfe",
        "Events of a lost host are published by this one",
        "Their host was given up by the fleet before it could publish them. Nothing has to be done.";
    RECONCILIATION_FAILED = "c8c72f05ec584a3f9450abdf8ae92424",
        "Rows and runners could not be compared",
        "Store or agent failed meanwhile; the line says which. It is tried again by itself.";
    RECONCILIATION_ASKED = "e3f8509998d34000b14a48782de8946a",
        "Somebody had rows and runners compared",
        "As at the start and every minute, what the store says was compared with what runs here, and what differed was set\nright: stratavorectl reconcile. The line says which uid asked.";
    HOST_JOINED = "7c412647b50441dfb522b79fc81705c2",
        "This host has joined its fleet",
        "The line names its epoch: with each joining it goes up, and whatever was sent before with an earlier one is refused.";
    HOST_FENCED = "68bd86afe0b7481eb92af6cafaa0db9c",
        "This host was given up by its fleet",
        "It was away for too long, or an operator has forgotten it, and what it held may have been given to others. It launches\nnothing until it has joined again. Runners that the store has ended meanwhile are stopped here; the others go on.";
    HOST_NOT_JOINED = "a3082fa799da4e7e8519afe7692e847f",
        "This host can't join its fleet",
        "The line says why. Nothing is launched here until it can; running work goes on. It is tried again by itself.";
    LEASE_RUN_OUT = "503207434ad041baafa60426c1a79c62",
        "The lease of this host has run out",
        "It has not reached the fleet's store for fleet.lease_ttl, so its peers may call it unreachable. Nothing is launched here\nuntil it reaches the store; running work goes on unless fleet.stop_on_disconnect_after is set. See why the store is away.";
    LEASE_BACK = "317d478a7ba548bf8feb53099abbdb7f",
        "The lease of this host is renewed again",
        "It had run out; launches are taken again.";
    FENCE_NOT_KEPT = "c7723feab87d486f8182937eb7043ce4",
        "Not every runner of this host would stop by itself",
        "With fleet.stop_on_disconnect_after each runner is to stop when this host loses its store. The line says which would not,\nand why. As long as that is so, peers are told that nobody knows when this host's runners are gone: should it stay away,\ntheir slots stay taken until it is back, has booted anew, or an operator has forgotten it.";
    ENDED_MEANWHILE = "d53de2286d734c01b38a8d5cd2404a86",
        "Runner @STRATAVORE_RUNNER@ was ended in the store while this host was given up",
        "Its slot was given back. If it still runs it is stopped; how it ended here is in the line, and the store keeps what it has.";
    PEERS_TIDIED = "f727c959cbb04fceb6a5a9be2f43aa55",
        "A host of the fleet is unreachable, lost or back",
        "The line says which. Slots of an unreachable host stay taken. See: stratavorectl events --type host.unreachable.";
    POLICY_APPLIED = "c04bcbfc027b4a239cdd9db855eddd88",
        "A hold or budget has frozen, stopped or thawed runner @STRATAVORE_RUNNER@",
        "The line says which. What a hold or budget froze goes on by itself when that is over:\n\n    stratavorectl hold list\n    stratavorectl budget list";
    POLICY_SET = "bcd5fd869b674e1580b2e57b0aa411ff",
        "A hold or budget was set, released or removed",
        "The line says which, and which uid asked.\n\n    stratavorectl hold list\n    stratavorectl budget list";
    HOST_CHANGED = "c9e02003ec2b43caa1a2ef42681d2e92",
        "A host was cordoned, drained or forgotten, or the cap of the fleet was set",
        "The line says which, and who asked.\n\n    stratavorectl host list";
    HOST_DRAINED = "7fdc6d5f25674e86a4e5065abd8d8e1c",
        "Runner @STRATAVORE_RUNNER@ of project @STRATAVORE_PROJECT@ is stopped because its host is drained",
        "Somebody wants this host empty; the line says who. It takes new runners again after: stratavorectl host uncordon HOST.";
    ADOPTED = "4eff674d795342ad92b966ecfdcba2a4",
        "Runners were adopted",
        "stratavore-agent has started and found runners of an earlier one. They did not notice.";
    RUNNER_LAUNCHED = "4772f5abed4b459ab53c0b2e6f02a0cb",
        "Runner @STRATAVORE_RUNNER@ of project @STRATAVORE_PROJECT@ runs",
        "Its command was exec'd with all its limits in force.\n\n    stratavorectl show @STRATAVORE_RUNNER@\n    journalctl -u 'stratavore-@STRATAVORE_RUNNER@.scope'";
    RUNNER_QUEUED = "313d3092fdc347669166fde55df127ff",
        "Runner @STRATAVORE_RUNNER@ of project @STRATAVORE_PROJECT@ waits for its turn",
        "It was launched with --queue, and something is in its way. What, and how many come before it:\n\n    stratavorectl why @STRATAVORE_RUNNER@\n\nIt starts by itself. To take it out of the queue:\n\n    stratavorectl stop @STRATAVORE_RUNNER@";
    RUNNER_LAUNCH_FAILED = "ba6d28c3575e44a8a729ec1605c45dd7",
        "Runner @STRATAVORE_RUNNER@ of project @STRATAVORE_PROJECT@ could not be started",
        "Nothing of it ran. What exactly failed is told to its owner and to who may view:\n\n    stratavorectl show @STRATAVORE_RUNNER@";
    RUNNER_SUCCEEDED = "1aac8bb1221c46869d01c4b9dbe64208",
        "Runner @STRATAVORE_RUNNER@ of project @STRATAVORE_PROJECT@ succeeded",
        "Its main process exited with status 0, and nothing of it is left.\n\n    stratavorectl show @STRATAVORE_RUNNER@";
    RUNNER_FAILED = "f3bc35cac53541109cb52c5c6c9d53e1",
        "Runner @STRATAVORE_RUNNER@ of project @STRATAVORE_PROJECT@ failed",
        "Its main process exited with another status than 0 or was killed by a signal that Stratavore did not send. Its own last\nwords:\n\n    journalctl -u 'stratavore-@STRATAVORE_RUNNER@.scope'";
    RUNNER_STOPPED = "2ba73093ca46491bb875973d16ed1380",
        "Runner @STRATAVORE_RUNNER@ of project @STRATAVORE_PROJECT@ was stopped",
        "Somebody asked for it, or the host was shut down. Who asked:\n\n    stratavorectl show @STRATAVORE_RUNNER@";
    RUNNER_TIMEOUT = "82e74c2914cc4625b775ec63c1a07f8a",
        "Runner @STRATAVORE_RUNNER@ of project @STRATAVORE_PROJECT@ reached its runtime limit",
        "It was stopped because runtime-max had passed. Launch it with a longer one, or see why it took so long:\n\n    stratavorectl show @STRATAVORE_RUNNER@";
    ORDER_FROM_HOST = "83ddf270cc7944bf95c0bfd4384b2d8b",
        "Another host of the fleet asked for something",
        "Somebody asked for it there, with the right to; the line names who, and the host. What came of it was told to whoever\nasked, and is in the runner's story:\n\n    stratavorectl show @STRATAVORE_RUNNER@";
    RUNNER_OVER_BUDGET = "23428822e2b94b3481aecd533ab6f5a6",
        "Runner @STRATAVORE_RUNNER@ used up a token budget and was stopped",
        "The policy of the budget is to stop what has used it up. Its story:\n\n    stratavorectl why @STRATAVORE_RUNNER@";
    RUNNER_OOM = "d917d557253e40fb871761a24b0d0c9d",
        "Runner @STRATAVORE_RUNNER@ of project @STRATAVORE_PROJECT@ ran out of memory",
        "The kernel killed it at a memory limit: its own, its project's or that of stratavore.slice. Compare its peak with its\nlimits, and launch it with a higher memory-max, or with less to do:\n\n    stratavorectl show @STRATAVORE_RUNNER@";
    RUNNER_LOST = "30d269f8026943be9052cd2f1100cda5",
        "Nobody saw how runner @STRATAVORE_RUNNER@ of project @STRATAVORE_PROJECT@ ended",
        "Its shim was killed, the host went down without a shutdown, or its record can't be read. Its processes are gone, its\nstatus is unknown. Shims are killed by root, by systemd-oomd where it watches, and with --user by whatever that user\nruns: see who did it, or the kernel's lines of that time.";
    RUNNER_HOST_LOST = "d19f8e7ddf3a40598e849d3b2b524efe",
        "Runner @STRATAVORE_RUNNER@ of project @STRATAVORE_PROJECT@ ended because its host had lost the store",
        "Its host could not reach the fleet's store for longer than fleet.stop_on_disconnect_after. Its shim then stopped it by\nitself, so that other hosts may take its place. See why the store was away; then launch it again.";
    FENCE_PASSED = "6e6ff54a095d4798a686ccec92fa2bc6",
        "The store was away for too long: the runners of this host stop",
        "stratavored has not renewed the lease of this host for fleet.stop_on_disconnect_after, so other hosts may soon take the\nslots of its runners. Each is stopped by its own shim. See whether stratavored runs and why it does not reach the store.";
    RUNNER_EMPTY = "1ad97a3f43604620a917c3eaff3c2799",
        "All processes of runner @STRATAVORE_RUNNER@ have ended",
        "The shim has written down how it ended; stratavored takes that into its store and then says it there.\n\n    stratavorectl show @STRATAVORE_RUNNER@";
    RUNNER_SIGNALLED = "fd624ccadbf94a9882eafc866b5889de",
        "A signal was sent to runner @STRATAVORE_RUNNER@ on request",
        "All its processes got it.";
    ADMISSION_DENIED = "f6513f77c01943988b5a273f873227be",
        "A launch in project @STRATAVORE_PROJECT@ was denied",
        "A cap on live runners was reached; the line says which, its value and what to do. Such lines come at most once a\nsecond for each project and cap.";
    LIMIT_WARNING = "ec062b7ae316428c94fc2dc3774ed577",
        "A limit is not held by this host",
        "The kernel lacks the controller, and limits.unenforced = \"warn\" lets the runner start nevertheless. See which\ncontrollers there are: cat /sys/fs/cgroup/cgroup.controllers";
    ZOMBIE_STOPPED = "5c1c5466767347b285c7553d9e9e3924",
        "A scope whose runner has ended was alive, and is stopped",
        "The store says that runner @STRATAVORE_RUNNER@ has ended, so nobody watches over what runs there. Most likely the store\nwas put back from a copy.";
    STRANGER_SEEN = "75ca1f6f82c34bc99c44ba522d3c7ac3",
        "A runner is alive that the store knows nothing about",
        "It is left alone. Most likely the store was put back from an older copy, or removed. Look at it and stop it yourself:\n\n    systemctl status stratavore-@STRATAVORE_RUNNER@.scope\n    systemctl stop stratavore-@STRATAVORE_RUNNER@.scope";
    ORDER_FAILED = "a8f335bba0b347c98c18a13a1cc9c45a",
        "An order to a runner could not be carried out",
        "The line says why. It is given again by itself.";
    LOG_ENDED_EARLY = "7491aed66edf4faa8b17adf7648088dd",
        "The output of a runner could not be read to its end",
        "Whoever asked for it got less than there is; the line names the runner and says why. The journal still has it: ask again.";
    SLICE_STALE = "3008e8f9f72b402c890bc15bd6ddba25",
        "The slice of project @STRATAVORE_PROJECT@ is not as its settings say",
        "Its limits could not be changed. They are set at the next launch in the project, or by repeating\n\n    stratavorectl project set @STRATAVORE_PROJECT@ …";
    SHIM_UNREACHABLE = "1b586ba6af2443e9a43b6c653bbbfcde",
        "The shim of runner @STRATAVORE_RUNNER@ does not answer as it should",
        "It may be frozen, starved or of another release. The agent goes on trying, and kills what is left where a stop has to\ncome to its end.";
    SHIM_LOST = "3cfd919d6a214b5787af1a764287eb3c",
        "The shim of runner @STRATAVORE_RUNNER@ is gone",
        "It was killed, so nobody would see the runner's end: the agent stops the scope. Root can kill it, and\nsystemd-oomd where it watches; with --user whatever that user runs.";
    SCOPE_NOT_EMPTY = "c184d5572ff64f96be2478ff1363405e",
        "Processes of runner @STRATAVORE_RUNNER@ do not go",
        "They were killed and are still there: in uninterruptible sleep (a disk or network file system that hangs), or forking\nfaster than they are killed. The agent goes on. See: systemd-cgls -u stratavore-@STRATAVORE_RUNNER@.scope";
    RECORD_FAULT = "114edbf779b54a0cb9f94cb1509d2682",
        "The exit record of runner @STRATAVORE_RUNNER@ can't be written or read",
        "Is the disk of /var/lib/stratavore/exits full or broken? The shim goes on trying for as long as it lives.";
    LOG_FILE_FAULT = "1dacd658462e4e078969f789b0775b74",
        "The log file of runner @STRATAVORE_RUNNER@ can't be written",
        "Output is thrown away until it can be written again; the runner goes on. Its log says where how much is missing, and so\ndoes its ending. A log leaves the last 5 % of the disk (1 GiB at most) to others: make room in /var/lib/stratavore, or\nlaunch with a smaller log-file-max.\n\n    stratavorectl logs @STRATAVORE_RUNNER@\n    df /var/lib/stratavore/logs";
    LIMITS_NOT_RESTORED = "d8c92de56f0540aaa68e8b482c3a7d9b",
        "A runner's former limits could not be put back",
        "A change of its limits was refused half-way. See what is in force:\n\n    systemctl show stratavore-@STRATAVORE_RUNNER@.scope";
    PEER_REFUSED = "3a6a5d4ebe014873ae1efee0b1a87d5a",
        "Somebody who may not tried to connect to stratavore-agent",
        "Only root and the user stratavore may. The line names the uid.";
    PEER_CONNECTED = "d54d466d9e8641e18cd64007edb30e6c",
        "A daemon has connected to stratavore-agent",
        "The line names its release.";
    PEER_TROUBLE = "6acad845ca3945aa87ad165e65fb3d6b",
        "A connection between Stratavore's programs had to be given up, or something on it was not understood",
        "After an upgrade of one of them, restart both: systemctl restart stratavore-agent stratavored";
    SYSTEMD = "d0a3db39b6b64c2cbc7a777cfd731ccf",
        "systemd has reloaded, or does not answer as it should",
        "Runners go on. If systemd does not answer: systemctl list-jobs";
    SETUP_LACKING = "d69c53ed34bc43b09c6b9a81c2673da6",
        "Something on this host is not as Stratavore needs it",
        "The line says what, what follows from it, and what mends it.";
    METRICS_SERVED = "853eba76a0f745018fb8a871ca85fcd0",
        "Metrics are served on @STRATAVORE_ADDRESS@",
        "/metrics, /healthz, /readyz and /sd are there. stratavored.service lets in this host alone: to be scraped from\nelsewhere it needs a drop-in (systemctl edit stratavored) with the scraper's address:\n\n    [Service]\n    IPAddressAllow=192.0.2.0/24";
    METRICS_NOT_SERVED = "7066e459dfea49c4a108a91b3ac02e9e",
        "Metrics can't be served on @STRATAVORE_ADDRESS@",
        "It is tried again every 10 s; all else works. If another program has the port (ss -ltnp), give another one as\nmetrics.listen in /etc/stratavore/stratavored.toml, or \"\" for none.";
    BUS_FAULT = "70297b779be8428d9f85399855e67abf",
        "Objects or signals on the bus fell behind",
        "They are brought up to date by themselves. Whoever follows signals should look again at what there is.";
    AUDIT_ANCHORED = "c0c8182f9f4b4b4299fa2c11616c476c",
        "The end of this host's audit chain",
        "Entry @STRATAVORE_AUDIT_N@ has the MAC @STRATAVORE_AUDIT_MAC@. Whoever keeps this line can tell later whether the\nchain was cut off or written anew since:\n\n    journalctl -o json MESSAGE_ID=@MESSAGE_ID@ >anchors\n    stratavorectl audit verify --anchor anchors";
    AUDIT_BROKEN = "28ecccb5ab3a4d8cbdb12acc7ccc822c",
        "An audit chain is not whole",
        "Entries that were written are missing or are others now; the line says of which host. Somebody with access to the store\nhas changed it, or a store was put back from a backup. Nothing of it is removed. See what is missing:\n\n    stratavorectl audit verify";
    AUDIT_OFF = "6456a286786746b897579ca4b9f1eb49",
        "No audit is kept",
        "There is no key for it. Make one, and restart the daemon:\n\n    head -c 32 /dev/urandom | install -D -m 600 /dev/stdin /etc/credstore/stratavore.audit-key\n    systemctl restart stratavored";
    AUDIT_INCOMPLETE = "262fd5a933864413b73848c63377e171",
        "Something that was done is not in the audit",
        "The line says what. The store was away for so long that too much of what is no event waited to be written down.";
    NOTIFY_FAILED = "76a662e116f540bfa46db65ee6e68b7b",
        "Messages of notification rule @STRATAVORE_NOTIFY_RULE@ do not arrive",
        "The line says why. Each message is tried five times within some minutes and then given up; the event itself is kept\n(stratavorectl events). Nothing else is affected. See how the rule fares, and try it:\n\n    stratavorectl notify show @STRATAVORE_NOTIFY_RULE@\n    stratavorectl notify test @STRATAVORE_NOTIFY_RULE@\n\nstratavored.service reaches nothing but this host: a receiver elsewhere wants IPAddressAllow= in a drop-in.";
    NOTIFY_MISSED = "6c4a76271017416fa8bdb0286672e074",
        "Notifications have missed events",
        "So much happened at once that they could not follow; the line says how many changes they were not told of. Which rules\nwould have told of them is not known, and no receiver is to blame. The events themselves are kept: stratavorectl events.";
    NOTIFY_BACK = "c9d224dbb98c4b0cb8e65ba9fdd97136",
        "Messages of notification rule @STRATAVORE_NOTIFY_RULE@ arrive again",
        "Those that were given up meanwhile are not told later; the events are kept: stratavorectl events.";
}

impl Kind {
    /// The kind of an ending.
    pub fn ended(cause: Cause) -> Self {
        match cause {
            Cause::LaunchFailed => RUNNER_LAUNCH_FAILED,
            Cause::Success => RUNNER_SUCCEEDED,
            Cause::ExitCode | Cause::Signal | Cause::CoreDump => RUNNER_FAILED,
            Cause::Stopped | Cause::Cancelled | Cause::HostShutdown => RUNNER_STOPPED,
            Cause::Timeout => RUNNER_TIMEOUT,
            Cause::OverBudget => RUNNER_OVER_BUDGET,
            Cause::OomKill => RUNNER_OOM,
            Cause::HostLost => RUNNER_HOST_LOST,
            Cause::HostRebooted | Cause::SupervisorLost | Cause::Unknown => RUNNER_LOST,
        }
    }
}

/// The journal's catalog of all kinds, as `journalctl --update-catalog` takes it.
pub fn catalog() -> String {
    let mut out = "# SPDX-License-Identifier: Apache-2.0 OR MIT\n# Made from src/domain/kinds.rs by: UPDATE_GOLDEN=1 cargo test --test rules\n".to_owned();
    for kind in ALL {
        out.push_str(&format!(
            "\n-- {}\nSubject: {}\nDefined-By: Stratavore\nDocumentation: man:stratavored(8)\n\n{}\n",
            kind.id, kind.subject, kind.text
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_valid_and_unique() {
        let ids: BTreeSet<_> = ALL.iter().map(|k| k.id).collect();
        assert_eq!(ids.len(), ALL.len());
        for kind in ALL {
            let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            assert!(kind.id.len() == 32 && kind.id.chars().all(hex), "{kind:?}");
            // Of random ids, as RFC 9562 marks them: nobody has made one up.
            assert_eq!(&kind.id[12..13], "4", "{kind:?}");
            assert!(!kind.subject.contains('\n') && !kind.text.is_empty());
            assert!(!kind.text.lines().any(|l| l.starts_with("-- ")), "{kind:?}");
        }
    }

    #[test]
    fn each_cause_has_its_kind() {
        let kinds: BTreeSet<_> = Cause::ALL.map(|c| Kind::ended(c).name).into();
        assert_eq!(kinds.len(), 9, "{kinds:?}");
    }
}
