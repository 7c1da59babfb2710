//! What no code says: what the programs are for, and how to begin.

type Meanings = &'static [(&'static str, &'static str)];

pub const CTL: &str = "\
stratavorectl launches commands as runners of this host's stratavored, and shows and controls them. A runner is a
transient systemd scope of its own user, under limits that hold or are refused, and goes on whatever is restarted.

A runner is named by its id, a unique prefix of the id (from 4 characters), or its name. Options stand before or after
other words; what follows -- is the command.";

pub const CTL_STATUS: &str = "\
0 done, 1 failed, 2 wrong usage, 3 refused by a quota, budget, hold, cordon or a full queue, 4 not permitted, 5 no such
thing, 6 not as declared (diff). 130 after Ctrl-C. status exits with 1 while the store is down, doctor if there is a warning or a problem.

run --wait and run --pipe exit with the status of the command's main process, with 128+n if it was killed by signal n.
126: the command is not executable, 127: it was not found; it did not run. 125: it could not be launched (refusals, too: 3 to 5 are
for run without --wait), nobody knows its status, or the answer was lost. It may have run: look with list --all, or repeat it with
the same --request-id. The status is the process's, and a command may exit with these numbers itself: who wants the cause
asks show -o json.";

pub const CTL_ENVIRONMENT: Meanings = &[
    (
        "DBUS_SYSTEM_BUS_ADDRESS",
        "Where the system bus is, instead of the usual place.",
    ),
    (
        "DBUS_SESSION_BUS_ADDRESS",
        "The same of the session bus, with --user.",
    ),
    (
        "SYSTEMD_PAGER, PAGER",
        "The pager, instead of less; the first of them that is set. Empty or cat is none, as is --no-pager.",
    ),
    (
        "SYSTEMD_LESS, SYSTEMD_LESSCHARSET",
        "What less is given as LESS and LESSCHARSET.",
    ),
    (
        "SYSTEMD_PAGERSECURE",
        "Whether the pager has to be less without its commands that touch files and run programs. Without it, that is so \
         under sudo and the like, and $PAGER does not count then.",
    ),
    (
        "SYSTEMD_COLORS, NO_COLOR, TERM",
        "Whether there are colours: SYSTEMD_COLORS is a boolean and decides, else NO_COLOR (whatever its value) and a \
         terminal that is dumb mean none.",
    ),
    (
        "SYSTEMD_COLUMNS, COLUMNS",
        "How wide tables may be; the second counts on a terminal alone.",
    ),
    ("TZ", "The zone that times are shown in."),
];

pub const CTL_EXAMPLES: &str = "\
# A project, and a command in it with limits
stratavorectl project create web --max-runners 4
stratavorectl run --name agent --memory-max=4G --tasks-max=500 web -- make test

# Everything about it, and its output
stratavorectl show agent
journalctl -u 'stratavore-*.scope' -f

# What is wrong with this host
stratavorectl doctor -q";

pub const DAEMON: &str = "\
stratavored answers on the bus as org.stratavore1, decides about launches, and keeps what happened in its store. It is
started by stratavored.service as the user stratavore, without any privilege; all it does on the host is done by
stratavore-agent.

systemctl reload stratavored reads the configuration again; stratavored.toml(5) says of each key whether that takes it
over.

Runners do not depend on it: it may be stopped, killed and started again at any time, and takes over what runs.";

pub const AUDIT: &str = "\
Every change of state, denials and every act of an administrator becomes an entry of this host's audit, in the
transaction of the change: who (uid, name, unit, host), what, on which object, with what result. Each entry carries a MAC
(HMAC-SHA256, with a key of this host) over itself and the entry before, so that none can be changed, removed, added or
moved unseen. Of a project, a gate and a user one denial a second stands for all, with how many. Acts that change no row (kill, reconcile, a reload, an export of the audit, a refusal by polkit) are written down within
moments; of one user and one right at most one refusal a second, with how many it stands for. An order for another host that expires
(order.expired) is written down by the host that finds it out. store migrate copies the chain and adds an entry (act.migrate-store), in one
transaction.

unit is the systemd unit of the process that opened the caller's connection: session-2.scope, deploy.service; a user's own units are in
user@UID.service. It is sure: the bus names the process by a descriptor, as dbus 1.16 does on Linux 6.5. An earlier bus or kernel gives
a number alone, which another process may have by then: what is found by it is called unit_by_pid. A caller that is gone before it was
looked for has neither, nor has one of which bus and systemd have not told within two seconds. Who asked systemd for a reload or for store migrate is not told to the daemon: both are the host's own.

An audit is kept where there is a key: 32 to 4096 random bytes, the credential audit-key. The shipped unit takes it from
/etc/credstore; encrypted or from elsewhere it comes by LoadCredentialEncrypted= or LoadCredential= in a drop-in.";

pub const AUDIT_KEY: &str = "\
head -c 32 /dev/urandom | install -D -m 600 /dev/stdin /etc/credstore/stratavore.audit-key
systemctl restart stratavored";

pub const AUDIT_USER: &str = "\
With --user the unit takes no key by itself. To have an audit of your own, which tells of mishaps: you have key and store, so nobody need
believe you by it:";

pub const AUDIT_USER_EXAMPLE: &str = "\
head -c 32 /dev/urandom | install -D -m 600 /dev/stdin ~/.config/stratavore/audit-key
printf '[Service]\\nLoadCredential=audit-key:%%E/stratavore/audit-key\\n' |
    install -D -m 644 /dev/stdin ~/.config/systemd/user/stratavored.service.d/audit.conf
systemctl --user daemon-reload
systemctl --user restart stratavored";

pub const AUDIT_VERIFY: &str = "\
Keep a copy of the key elsewhere: whoever verifies needs it, and without it nobody can. Offline, on any machine:";

pub const AUDIT_EXAMPLE: &str = "\
journalctl -o json -u stratavored >anchors
stratavorectl audit export audit.jsonl
stratavorectl audit verify --key stratavore.audit-key --anchor anchors audit.jsonl";

pub const AUDIT_ROTATE: &str = "\
Another key is named by the last entry under the former one. Give both and start the daemon, which writes it down at
once; then the former one may go. To verify entries under it, and to have them removed at their age, keep it. A key that was
replaced is never taken again: what is begun anew with it counts as changed:";

pub const AUDIT_ROTATE_EXAMPLE: &str = "\
cd /etc/credstore && mv stratavore.audit-key stratavore.audit-key-previous
head -c 32 /dev/urandom | install -m 600 /dev/stdin stratavore.audit-key
systemctl restart stratavored";

pub const AUDIT_PROOF: &str = "\
A chain shows every change but one: that its newest entries are cut off and its head is put back, or that somebody with the
key writes all of it anew. So its end is told elsewhere, as an anchor: in the journal at the start, every 5 minutes while it grows
and at the stop; every hour in the event audit.anchored, which a broker keeps; and each host of a fleet keeps the heads of
the others. A start is an entry of its own. Whoever has root on the host and writes to the store, too, can change what comes after the last anchor that
is kept elsewhere; nothing that a host says of itself can prevent that.

Entries past store.retention are replaced by a checkpoint, made with the key. The chain of a host that never comes back
stays. Entries that can't be verified, as they are not whole or their key is no longer given, are not removed.";

pub const DAEMON_STATUS: &str = "\
78 if the configuration or a credential of store, broker or audit is wrong, or the store refuses this daemon (it is of a later release, say): then
stratavored.service is not started again by itself. --check-config and --check-store exit with 0 or 1.";

pub const DAEMON_FILES: Meanings = &[
    (
        "/etc/stratavore/stratavored.toml, /etc/stratavore/stratavored.toml.d/*.toml",
        "Its configuration; all of it is optional.",
    ),
    ("/var/lib/stratavore/stratavore.db", "The store."),
    (
        "/var/lib/stratavore/exits",
        "Records of endings, until they are in the store. They are root's; the daemon may read them.",
    ),
];

pub const AGENT: &str = "\
stratavore-agent is the one program of Stratavore that is root. It spawns runners, makes their scopes, holds their
limits against the kernel, and stops, freezes and signals them as stratavored orders, within the bounds of agent.toml,
whatever it is asked for. It is started by stratavore-agent.socket and accepts stratavored and root alone.

systemctl reload stratavore-agent reads agent.toml again, for launches from then on.

Runners do not depend on it: it may be killed and started again at any time.";

pub const AGENT_STATUS: &str = "\
78 if agent.toml is wrong: what is wrong is in the journal and in systemctl status. Started by systemd it ends only after
5 s then. stratavored goes on trying to connect, and so has it started again. --check-config exits with 0 or 1.";

pub const AGENT_FILES: Meanings = &[
    ("/etc/stratavore/agent.toml", "Root's bounds; optional."),
    ("/run/stratavore/agent.sock", "Where it listens."),
    ("/run/stratavore/shims", "Sockets of the runners' shims."),
    ("/var/lib/stratavore/exits", "Records of endings."),
    (
        "/var/lib/stratavore/logs",
        "Log files of runners that have some: ID.log and, older, ID.old. “stratavorectl logs” reads them.",
    ),
];

pub const DAEMON_CONFIG: &str = "\
First stratavored.toml is read, then every file of stratavored.toml.d that ends in .toml, by name; a later value wins.
All files and keys are optional. The format is TOML. An unknown key is an error, with which the daemon does not start.

stratavored --print-config shows every value with where it came from, stratavored --check-config tells file, line and
key of what is wrong. systemctl reload stratavored takes over what is said so below, for launches from then on; the rest
holds from the next start: systemctl restart stratavored. A mistake fails the reload and changes nothing.

Sizes may be numbers of bytes or texts such as \"4G\", times are texts such as \"1h 30min\", \"infinity\" is no limit.";

pub const DAEMON_CONFIG_EXAMPLE: &str = "\
[host]
max_runners = 50

[limits]
memory_max = \"8G\"
tasks_max = 2000";

pub const NOTIFY: &str = "\
Each section is a rule: what happens on this host, and it wants to know, is posted to its webhook. It is best effort: a
message is tried five times within some three minutes, up to 64 of a rule wait. When the daemon stops, what was counted is told and
what waits is tried once more at once, for 5 s; what is left then is lost, and so is all that waits when it is killed. What was told, and how much in the last
hour, is known since its start: an event that is like one of before it makes a message again. What is lost is counted (notify list, /metrics) and told in the journal. Who must see every event reads the event log:
stratavore-events(7). Each host of a fleet tells what it has done itself, so each event is told once where all have the
same rules. A receiver does no harm: a try takes at most 10 s, redirects are not followed, and of an answer only the
status counts, however its body goes on. A key that would do nothing in its rule is refused, as causes without runner.ended in types.

json is an object with host, title, text, more (events like it that made no message), kept_back (others that made none) and
event (type, project, subject, runnerseq, time, data as in stratavore-events(7); null in a test). Every message has the headers
Stratavore-Message (an id, the same at each try: so one that arrives twice can be told) and Stratavore-Timestamp.";

pub const NOTIFY_SIGNED: &str = "\
With the credential notify-NAME-secret every message is signed: Stratavore-Signature is v1= and, in hex, the HMAC-SHA256 with
that secret of Stratavore-Timestamp (seconds since 1970), a full stop, and the body as it came. A receiver makes the same, compares in
constant time, and refuses a time that is more than some minutes off. By hand:";

pub const NOTIFY_CHECK: &str = "\
{ printf '%s.' \"$timestamp\"; cat body; } | openssl dgst -sha256 -hmac \"$secret\"";

pub const NOTIFY_REACH: &str = "\
stratavored.service reaches nothing but this host: a receiver elsewhere, and a name server that is asked directly, have to be let
through by a drop-in. http:// sends messages and address unencrypted. Certificates are checked against the authorities of the system.
For example, in stratavored.toml and in /etc/systemd/system/stratavored.service.d/notify.conf:";

pub const NOTIFY_EXAMPLE: &str = "\
[notify.rules.ops]
format = \"slack\"
types = [\"runner.ended\", \"budget.exceeded\", \"host.*\"]
causes = [\"oom-kill\", \"timeout\", \"exit-code\"]

[Service]
LoadCredential=notify-ops-url:/etc/stratavore/notify-ops-url
IPAddressAllow=any";

pub const DAEMON_CREDENTIALS: &str = "\
Secrets are in no file of Stratavore's: systemd hands them to the daemon (LoadCredential= of systemd.exec(5), in a drop-in
of stratavored.service). They are read at the start and never shown; stratavored --print-config tells which there
are, and --check-config needs none.";

pub const FLEET_EXAMPLE_ABOUT: &str = "\
A host of a fleet, in stratavored.toml and in /etc/systemd/system/stratavored.service.d/fleet.conf. The unit lets the
daemon reach nothing but this host, so the drop-in names the addresses of the store (and of the name server, where
systemd-resolved does not ask for the daemon):";

pub const FLEET_EXAMPLE: &str = "\
[store]
url = \"postgres://stratavore@db1.example,db2.example/stratavore\"

[fleet]
name = \"build\"

[host]
labels = { zone = \"b\", gpu = \"a100\" }";

pub const FLEET_DROP_IN: &str = "\
[Service]
LoadCredential=store-password:/etc/stratavore/store-password
LoadCredential=store-ca:/etc/stratavore/store-ca.pem
IPAddressAllow=192.0.2.10 192.0.2.11";

pub const AGENT_CONFIG: &str = "\
What root allows stratavore-agent to do for stratavored, whatever it is asked for. The file is optional; it must belong
to root and be writable for root alone. The format is TOML. An unknown key is an error, with which the agent does not
start. /usr/libexec/stratavore/stratavore-agent --check-config tells who may run, and what is wrong.

systemctl reload stratavore-agent takes over a changed file, for launches from then on; a mistake in it fails the reload
and changes nothing. Runners go on.";

pub const CEILINGS: &str = "\
No runner gets more than this: a launch that asks for more is refused (LimitsExceeded), one that asks for nothing gets
the ceiling, and where the kernel does not hold it nothing runs.";

pub const AGENT_CONFIG_EXAMPLE: &str = "\
allowed_users = [\"alice\", 2001]

[ceilings]
memory_max = \"16G\"
runtime_max = \"24h\"";

pub const DECLARED: &str = "\
What projects, budgets and quota there are to be. stratavorectl apply makes it so, over the same methods as project, budget and
fleet, and with your rights; stratavorectl diff tells how what is there differs. Neither stratavored nor stratavore-agent reads
the file. stratavore-apply.service applies it at boot, once stratavored is up; after a change: stratavorectl apply, or systemctl
restart stratavore-apply. On NixOS it is made of services.stratavore.projects, quotas, budgets and mutable.

A declared object is declared as a whole: what is not said of it has its default, so that a line that is taken out is taken back.
What is not declared (made by hand, or declared before) is left alone, and is no difference: take it away with stratavorectl
project remove and budget remove, or say mutable = false.

In a fleet the file is about what all hosts share. Give each host the same one, or one host alone; where they say different things
of the same object, the last one to apply has its way.

The format is TOML. An unknown key is an error, with which nothing is asked of anybody. A file has at most 1 MiB, 1000 projects
and 1000 budgets. stratavorectl apply --check looks at it without a daemon.";

pub const DECLARED_MUTABLE: &str = "\
Whether there may be what is not declared. With false undeclared projects and budgets, those of sessions too, are removed, and an
undeclared quota of the fleet is lifted. A project with runners stays, with its budgets, until they have ended; that is told by
name, and everything else is done. Such a file has to declare something. Default: true.";

pub const DECLARED_FLEET: &str = "\
Without it the fleet's quota is left as it is. The quota of this host is host.max_runners of stratavored.toml(5).";

pub const DECLARED_PROJECT: &str = "\
A name with a dot in it is put in quotes. The limits are those of the project's slice, shared by all its runners; \"infinity\" (the
default) = no limit.";

pub const DECLARED_BUDGET: &str = "\
SCOPE is fleet, \"project:NAME\" or \"session:NAME\", PERIOD hour, day, week, month or none. What is used stays used when
a budget is changed. That 50, 80 and 100 % are reached is told of each budget.";

pub const DECLARED_EXAMPLE: &str = "\
[fleet]
max_runners = 500

[projects.web]
description = \"The web team\"
max_runners = 40
default_tokens = \"50k\"
memory_max = \"64G\"

[budgets.\"project:web\".day]
limit = \"20M\"
timezone = \"Europe/Berlin\"
on_exhausted = \"freeze\"
count = [\"input\", \"output\"]";

pub const DECLARED_USE: &str = "\
stratavorectl apply --check && stratavorectl diff
sudo stratavorectl apply";

pub const EVENTS: &str = "\
Every change of state is written down as one event in the same transaction as the change, so that none is lost. They are
kept as long as store.retention of stratavored.toml(5) says.

Where events.amqp_urls of stratavored.toml(5) names a RabbitMQ, they are published there as well; see below.

stratavorectl events lists them, with -f as they happen, with -o jsonl as one JSON object a line; programs call
ListEvents of org.stratavore1.Manager with the position of the last event they have seen, and wait for a signal.

No event tells a command, a folder, an environment or the value of a label, but for the label that a hold is about
(hold.set, hold.released). A reason (of a hold, a cordon) is free text: what somebody writes there, all readers see.";

pub const EVENTS_BROKER: &str = "\
Each host publishes the events that it has written, from its outbox in the store: a row for each event, written in the
event's transaction and removed when the broker has confirmed it. The broker may be away for as long as it likes; launches
and running work do not notice, and an event that can be published is not removed before it is. Events from before a
broker was configured are not published. A host that was given up by its fleet is stood in for by another one that has a broker.

They go to the durable topic exchange events.exchange with the routing key PROJECT.HOST.KIND.WHAT, HOST being the host's
id; \"_\" stands for no project, and a \".\", \"*\", \"#\", \"%\" or blank in a word is percent-encoded. So *.*.runner.ended is
every ending, and web.# is all of the project web. Messages are persistent and mandatory; content-type is
application/cloudevents+json, message_id the event's id, and the body a CloudEvent 1.0 in structured JSON; see MESSAGES.

Delivered at least once, in order per subject: an event is not published before its predecessor of the same subject is
confirmed. After a fault (a connection that was cut, a daemon that was killed) up to 500 events come once more, with the
same id and runnerseq; a host that was given up and goes on all the same repeats up to 500 more. A consumer
keeps the last runnerseq of each subject: a number that is not higher was seen before, one that is higher by more than 1
means that something is missing. The first event seen of a subject may have any number. Another storeid than before
is another store (the file was lost and begun anew, or migrated to a fleet's, before which outbox show should be empty): forget the
numbers. After a store was put back from a backup, or a failover that lost transactions, numbers go on from there, with the
same storeid: forget them then, too.

What no queue is bound for comes back from the broker. With events.unroutable = \"park\" it is kept, and so are the later
events of its subject, so that their order holds; bind a queue, then: stratavorectl outbox retry. What was parked for
store.retention is removed, which is said in the journal and counted in stratavore_outbox_dropped_total. So bind a queue for
everything (#), or, where consumers want some kinds of events only, set \"accept\", the same on all hosts of a fleet.

A queue that is full and rejects (x-overflow reject-publish) holds up the events of the projects that it gets, and those
alone, until it has room; events of no project (of hosts, the fleet) count as of one. A few are tried again, after 30 s at most, and
other queues that are bound for them get those again: while somebody reads the full queue slowly, several times each. If the
queues of more than about 180 projects are full at once, the rest waits, too.

Where events.amqp_urls is taken out again, what was still to be published goes to another host of the fleet that has a broker, or
waits until this one has one again, for store.retention at most.";

pub const EVENTS_CONSUMERS: &str = "\
/usr/share/stratavore/rabbitmq-consumer.json is an example set-up for a consumer, with a quorum queue that loses
nothing and a dead-letter queue for what the consumer refuses: rabbitmqctl import_definitions FILE. The user of
events.amqp_urls needs the right to write to the exchange, and to configure it where it is not there yet: README, Events at
RabbitMQ. Its virtual host is “/”; for another one put its name for each “vhost” in a copy of the file.";

pub const EVENT_TYPES: &str = "\
What data holds, by type. Numbers are whole and not negative; of a member within another one the names are joined by a full
stop. What may be null is left out on the bus and by stratavorectl events.

A later release may add types, members, and words where one of some is said; what is told here keeps its meaning and is not
taken away. So ignore what you do not know. An event that an earlier release has written may lack a member of this one.";

pub const EVENTS_MESSAGE: &str = "\
The members of the body besides data, which holds actor (as above) as well. In /usr/share/stratavore/schemas is a JSON Schema
(draft 2020-12) of the whole, cloudevent.json, and one of the data of each type, as runner.ended.json; their $id is what
dataschema names. They let through what a later release may add.";

pub const EVENT_FIELDS: Meanings = &[
    (
        "seq",
        "The position in the store, which grows: what --after means.",
    ),
    ("type", "One of those below."),
    ("project", "The project concerned."),
    (
        "subject",
        "What it is about: runner/ID, project/NAME, host/ID and so on.",
    ),
    (
        "runnerseq",
        "1, 2, 3 and so on for each subject: whoever keeps the last one sees each event once, and notices a gap.",
    ),
    (
        "time",
        "When; RFC 3339 in UTC in JSON, microseconds since 1970 on the bus.",
    ),
    (
        "actor",
        "Who did it: uid, user, and the id of the host where it was asked. Without uid and user it is the host itself, as when a runner ends.",
    ),
    ("data", "The particulars, by type; see below."),
];

pub const BUS: &str = "\
stratavored is org.stratavore1 on the system bus. /org/stratavore1 has the interface org.stratavore1.Manager and, as an
ObjectManager, the live runners of this host at /org/stratavore1/runner/ID (with _ for -) and the projects at
/org/stratavore1/project/NAME. busctl tree org.stratavore1 shows them.

Every method that changes something ends in options a{sv}; an unknown key is an error. A runner is named by its id, a
unique prefix of it (from 4 characters), or its name.";

pub const POLKIT: &str = "\
Root may do everything, and owners control their own runners. About everything else polkit is asked, with the details
project, owner, runner and host where they apply. By default it asks for an administrator's password; a shipped rule gives
members of the group stratavore-users view and launch, and members of stratavore-admins everything.";
