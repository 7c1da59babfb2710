-- Runners that wait, sessions, budgets, holds, what hosts say of themselves, and orders between
-- them. An embedded store has all of it for its one host.
-- Times are microseconds since 1970 (0 = not set), tokens are counts. Released migrations never
-- change; add a new one.

-- `queued` counts the project's waiting runners as `live` counts the live ones.
ALTER TABLE projects ADD COLUMN max_queued INTEGER CHECK (max_queued >= 0);
ALTER TABLE projects ADD COLUMN default_tokens INTEGER CHECK (default_tokens >= 1);
ALTER TABLE projects ADD COLUMN queued INTEGER NOT NULL DEFAULT 0 CHECK (queued >= 0);

-- What is set for all hosts: one row. `policy` is raised by each change of what decides about
-- running work (holds, budgets, caps, cordons); who has read it before reads it again.
CREATE TABLE fleet (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    max_runners INTEGER CHECK (max_runners >= 0),
    policy      INTEGER NOT NULL DEFAULT 0
) STRICT;

INSERT INTO fleet (id) VALUES (1);

-- A host that has joined has an epoch; every write of it carries it. `former_boots`, `labels`,
-- `cordon` and `load` are JSON. `lease_until` and `renewed_at` are on the store's clock.
ALTER TABLE hosts ADD COLUMN queued       INTEGER NOT NULL DEFAULT 0 CHECK (queued >= 0);
ALTER TABLE hosts ADD COLUMN name         TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN epoch        INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN boot_id      TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN former_boots TEXT NOT NULL DEFAULT '[]';
ALTER TABLE hosts ADD COLUMN labels       TEXT NOT NULL DEFAULT '{}';
ALTER TABLE hosts ADD COLUMN max_runners  INTEGER;
ALTER TABLE hosts ADD COLUMN version      TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN advertise    TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN standing     TEXT NOT NULL DEFAULT 'up'
    CHECK (standing IN ('up', 'unreachable', 'lost', 'left'));
ALTER TABLE hosts ADD COLUMN cordon       TEXT;
ALTER TABLE hosts ADD COLUMN joined_at    INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN renewed_at   INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN lease_until  INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN fenced_after INTEGER;
ALTER TABLE hosts ADD COLUMN load         TEXT NOT NULL DEFAULT '{}';
-- It renews its lease and can launch nothing.
ALTER TABLE hosts ADD COLUMN away         INTEGER NOT NULL DEFAULT 0;

-- A conversation or job that goes on over several runners; `live` is the one of now.
CREATE TABLE sessions (
    name       TEXT PRIMARY KEY,
    project    TEXT NOT NULL,
    live       TEXT,
    runners    INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    used_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_by_use ON sessions (used_at);

-- Token budgets in the period that began at `period_start`. `reserved` is what live runners may
-- still use; `overrun` how much of `used` went past reservations; `told` the thresholds that were told in this period.
CREATE TABLE budgets (
    scope        TEXT NOT NULL,
    period       TEXT NOT NULL CHECK (period IN ('hour', 'day', 'week', 'month', 'none')),
    max_tokens   INTEGER NOT NULL CHECK (max_tokens >= 0),
    timezone     TEXT NOT NULL,
    on_exhausted TEXT NOT NULL CHECK (on_exhausted IN ('deny', 'freeze', 'stop')),
    counts       TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    period_start INTEGER NOT NULL,
    used         INTEGER NOT NULL DEFAULT 0 CHECK (used >= 0),
    reserved     INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    overrun      INTEGER NOT NULL DEFAULT 0 CHECK (overrun >= 0),
    told         INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (scope, period)
) STRICT, WITHOUT ROWID;

-- `until` 0 = until it is released.
CREATE TABLE holds (
    scope  TEXT PRIMARY KEY,
    until  INTEGER NOT NULL,
    freezes INTEGER NOT NULL CHECK (freezes IN (0, 1)),
    reason TEXT NOT NULL,
    actor  TEXT NOT NULL,
    set_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Small requests of one host to another. Taken once, before `expires_at`, or never. A launch is begun
-- in the transaction that writes its runner; its environment (`setenv`) is here only until it is taken
-- or withdrawn.
CREATE TABLE orders (
    id         TEXT PRIMARY KEY,
    target     TEXT NOT NULL,
    runner     TEXT NOT NULL,
    verb       TEXT NOT NULL,
    actor      TEXT NOT NULL,
    by_right   TEXT NOT NULL CHECK (by_right IN ('own', 'any')),
    asked_by   TEXT NOT NULL,
    asked_at   INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    taken_at   INTEGER NOT NULL DEFAULT 0,
    outcome    TEXT,
    begun_at   INTEGER NOT NULL DEFAULT 0,
    setenv     TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX orders_untaken ON orders (target, expires_at) WHERE taken_at = 0 AND outcome IS NULL;
CREATE INDEX orders_by_time ON orders (asked_at);

-- Runners are made anew, because one may wait now. `tokens` (JSON) are its counters as reported,
-- which may come after its ending; `reserved` what its budgets set aside; `frozen_by` the hold or
-- budget that froze it; `queued_at` is on the store's clock.

DROP TRIGGER admission;
DROP TRIGGER step;
DROP TRIGGER event_of_runner;
DROP VIEW admissions;
DROP VIEW steps;

CREATE TABLE new_runners (
    id         TEXT PRIMARY KEY,
    project    TEXT NOT NULL,
    host       TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('queued', 'starting', 'running', 'frozen', 'stopping', 'ended')),
    name       TEXT,
    uid        INTEGER NOT NULL,
    spec       TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER NOT NULL,
    placement  TEXT,
    exit       TEXT,
    usage      TEXT,
    priority   INTEGER NOT NULL DEFAULT 0,
    session    TEXT,
    tokens     TEXT NOT NULL DEFAULT '{}',
    reserved   INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    frozen_by  TEXT,
    queued_at  INTEGER NOT NULL DEFAULT 0,
    CHECK ((state = 'ended') = (exit IS NOT NULL)),
    CHECK ((state = 'ended') = (usage IS NOT NULL)),
    CHECK (state IN ('queued', 'starting', 'ended') OR placement IS NOT NULL),
    CHECK (state = 'frozen' OR frozen_by IS NULL)
) STRICT;

CREATE TABLE new_labels (
    runner TEXT NOT NULL REFERENCES new_runners (id) ON DELETE CASCADE,
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (runner, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE new_requests (
    uid        INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    digest     TEXT NOT NULL,
    runner     TEXT NOT NULL REFERENCES new_runners (id) ON DELETE CASCADE,
    PRIMARY KEY (uid, request_id)
) STRICT, WITHOUT ROWID;

INSERT INTO new_runners (id, project, host, state, name, uid, spec, seq, created_at, started_at, ended_at, placement, exit, usage)
    SELECT id, project, host, state, name, uid, spec, seq, created_at, started_at, ended_at, placement, exit, usage FROM runners;
INSERT INTO new_labels (runner, key, value) SELECT runner, key, value FROM labels;
INSERT INTO new_requests (uid, request_id, digest, runner) SELECT uid, request_id, digest, runner FROM requests;

DROP TABLE labels;
DROP TABLE requests;
DROP TABLE runners;
ALTER TABLE new_runners RENAME TO runners;
ALTER TABLE new_labels RENAME TO labels;
ALTER TABLE new_requests RENAME TO requests;

-- The live ones and those that wait, however many have ended.
CREATE INDEX runners_live ON runners (id, project, host) WHERE state <> 'ended';
-- Those that wait, the next ones first.
CREATE INDEX runners_queued ON runners (project, priority DESC, queued_at, id) WHERE state = 'queued';
-- The ended ones in the order in which they are pruned.
CREATE INDEX runners_ended ON runners (ended_at) WHERE state = 'ended';
CREATE INDEX runners_by_project ON runners (project, id);
CREATE INDEX runners_by_uid ON runners (uid, id);
CREATE INDEX runners_by_name ON runners (name, id) WHERE name IS NOT NULL;
CREATE INDEX runners_by_session ON runners (session, id) WHERE session IS NOT NULL;
CREATE INDEX labels_by_value ON labels (key, value, runner);
CREATE INDEX requests_by_runner ON requests (runner);

-- The two writes that matter are one statement each: an INSERT into a view, which is done as a
-- whole or not at all. A runner with its labels, its request id and its first event:

CREATE VIEW admissions AS
SELECT r.id, r.project, r.host, r.state, r.name, r.uid, r.spec, r.created_at,
       r.priority, r.session, r.reserved, r.queued_at,
       q.uid AS request_uid, q.request_id, q.digest,
       e.type, e.subject, e.actor, e.data
  FROM runners r LEFT JOIN requests q ON q.runner = r.id, events e;

CREATE TRIGGER admission INSTEAD OF INSERT ON admissions BEGIN
    INSERT INTO runners (id, project, host, state, name, uid, spec, seq, created_at, started_at, ended_at,
                         priority, session, reserved, queued_at)
        VALUES (NEW.id, NEW.project, NEW.host, coalesce(NEW.state, 'starting'), NEW.name, NEW.uid, NEW.spec, 1,
                NEW.created_at, 0, 0, coalesce(NEW.priority, 0), NEW.session, coalesce(NEW.reserved, 0),
                coalesce(NEW.queued_at, 0));
    INSERT INTO labels (runner, key, value)
        SELECT NEW.id, key, value FROM json_each(NEW.spec, '$.labels');
    INSERT INTO requests (uid, request_id, digest, runner)
        SELECT NEW.request_uid, NEW.request_id, NEW.digest, NEW.id WHERE NEW.request_id IS NOT NULL;
    INSERT INTO events (at, type, project, subject, seq, actor, data)
        VALUES (NEW.created_at, NEW.type, NEW.project, NEW.subject, 1, NEW.actor, NEW.data);
END;

-- A step of a runner's life with its event. If the row is no longer in the state it was read in,
-- nothing is updated and the trigger on events refuses the event.

CREATE VIEW steps AS
SELECT r.id, r.state, r.seq, r.spec, r.started_at, r.ended_at, r.placement, r.exit, r.usage,
       r.reserved, r.frozen_by, r.state AS old_state, e.at, e.type, e.project, e.subject, e.actor, e.data
  FROM runners r, events e;

CREATE TRIGGER step INSTEAD OF INSERT ON steps BEGIN
    UPDATE runners
       SET state = NEW.state, seq = NEW.seq, spec = NEW.spec, started_at = NEW.started_at,
           ended_at = NEW.ended_at, placement = NEW.placement, exit = NEW.exit, usage = NEW.usage,
           reserved = coalesce(NEW.reserved, reserved), frozen_by = NEW.frozen_by
     WHERE id = NEW.id AND state = NEW.old_state;
    INSERT INTO events (at, type, project, subject, seq, actor, data)
        VALUES (NEW.at, NEW.type, NEW.project, NEW.subject, NEW.seq, NEW.actor, NEW.data);
END;

-- What follows backs up the program: a mistake there is an error here, never an overdraft or a lie.

CREATE TRIGGER runner_admitted AFTER INSERT ON runners BEGIN
    SELECT RAISE(ABORT, 'a runner begins in state queued or starting with its first event')
     WHERE NEW.state NOT IN ('queued', 'starting') OR NEW.seq <> 1;
    SELECT RAISE(ABORT, 'the project does not exist')
     WHERE NOT EXISTS (SELECT 1 FROM projects WHERE name = NEW.project);
    SELECT RAISE(ABORT, 'the project is at its cap')
     WHERE NEW.state = 'starting'
       AND EXISTS (SELECT 1 FROM projects WHERE name = NEW.project AND live >= max_runners);
    UPDATE projects SET live = live + (NEW.state = 'starting'), queued = queued + (NEW.state = 'queued')
     WHERE name = NEW.project;
    INSERT INTO hosts (host, live, queued) VALUES (NEW.host, NEW.state = 'starting', NEW.state = 'queued')
        ON CONFLICT (host) DO UPDATE SET live = live + excluded.live, queued = queued + excluded.queued;
END;

CREATE TRIGGER runner_changed
BEFORE UPDATE OF id, project, host, uid, created_at, state, seq, spec, started_at, ended_at, placement, exit, usage,
                 priority, session, reserved, frozen_by, queued_at, name ON runners BEGIN
    SELECT RAISE(ABORT, 'an ended runner does not change')
     WHERE OLD.state = 'ended';
    SELECT RAISE(ABORT, 'a runner stays who and where it is')
     WHERE NEW.id <> OLD.id OR NEW.project <> OLD.project OR NEW.host <> OLD.host
        OR NEW.uid <> OLD.uid OR NEW.created_at <> OLD.created_at OR NEW.session IS NOT OLD.session;
    SELECT RAISE(ABORT, 'no such transition')
     WHERE NEW.state <> OLD.state AND NOT CASE OLD.state
               WHEN 'queued'   THEN NEW.state IN ('starting', 'ended')
               WHEN 'starting' THEN NEW.state IN ('running', 'ended')
               WHEN 'running'  THEN NEW.state IN ('frozen', 'stopping', 'ended')
               WHEN 'frozen'   THEN NEW.state IN ('running', 'stopping', 'ended')
               WHEN 'stopping' THEN NEW.state = 'ended'
               ELSE 0
           END;
    SELECT RAISE(ABORT, 'each change of state is one event, nothing else is')
     WHERE NEW.seq <> OLD.seq + (NEW.state <> OLD.state);
    SELECT RAISE(ABORT, 'the project is at its cap')
     WHERE OLD.state = 'queued' AND NEW.state = 'starting'
       AND EXISTS (SELECT 1 FROM projects WHERE name = NEW.project AND live >= max_runners);
END;

CREATE TRIGGER runner_moved AFTER UPDATE OF state ON runners
WHEN NEW.state <> OLD.state AND (OLD.state = 'queued' OR NEW.state = 'ended') BEGIN
    UPDATE projects
       SET live = live + (NEW.state = 'starting') - (OLD.state <> 'queued'), queued = queued - (OLD.state = 'queued')
     WHERE name = NEW.project;
    UPDATE hosts
       SET live = live + (NEW.state = 'starting') - (OLD.state <> 'queued'), queued = queued - (OLD.state = 'queued')
     WHERE host = NEW.host;
END;

CREATE TRIGGER runner_pruned BEFORE DELETE ON runners
WHEN OLD.state <> 'ended' BEGIN
    SELECT RAISE(ABORT, 'a live runner is not removed');
END;

DROP TRIGGER project_removed;
CREATE TRIGGER project_removed BEFORE DELETE ON projects
WHEN OLD.live > 0 OR OLD.queued > 0 BEGIN
    SELECT RAISE(ABORT, 'a project with live or waiting runners is not removed');
END;

CREATE TRIGGER event_of_runner BEFORE INSERT ON events
WHEN NEW.subject LIKE 'runner/%' BEGIN
    SELECT RAISE(ABORT, 'the event does not belong to the runner as it is')
     WHERE NOT EXISTS (SELECT 1 FROM runners WHERE id = substr(NEW.subject, 8) AND seq = NEW.seq);
END;

-- A change of what decides about running work.
CREATE TRIGGER budget_made AFTER INSERT ON budgets BEGIN UPDATE fleet SET policy = policy + 1; END;
CREATE TRIGGER budget_removed AFTER DELETE ON budgets BEGIN UPDATE fleet SET policy = policy + 1; END;
CREATE TRIGGER budget_set AFTER UPDATE OF max_tokens, timezone, on_exhausted, counts, told ON budgets
WHEN (OLD.max_tokens, OLD.timezone, OLD.on_exhausted, OLD.counts, OLD.told)
     IS NOT (NEW.max_tokens, NEW.timezone, NEW.on_exhausted, NEW.counts, NEW.told)
BEGIN UPDATE fleet SET policy = policy + 1; END;
CREATE TRIGGER hold_set AFTER INSERT ON holds BEGIN UPDATE fleet SET policy = policy + 1; END;
CREATE TRIGGER hold_changed AFTER UPDATE ON holds BEGIN UPDATE fleet SET policy = policy + 1; END;
CREATE TRIGGER hold_released AFTER DELETE ON holds BEGIN UPDATE fleet SET policy = policy + 1; END;
CREATE TRIGGER host_cordoned AFTER UPDATE OF cordon ON hosts WHEN OLD.cordon IS NOT NEW.cordon
BEGIN UPDATE fleet SET policy = policy + 1; END;
