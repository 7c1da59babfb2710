-- The embedded store: projects, runners and the events about them.
-- Times are microseconds since 1970 (0 = not set). Released migrations never change; add a new one.

-- Facts about the store itself: `store-id`, `written-by` (the last version that opened it), `checks`.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO meta (key, value) VALUES ('checks', '0');

-- Owners of quotas. `live` counts the project's live runners; only the triggers below change it.
CREATE TABLE projects (
    name        TEXT PRIMARY KEY,
    description TEXT NOT NULL,
    max_runners INTEGER CHECK (max_runners >= 0),
    limits      TEXT NOT NULL,
    live        INTEGER NOT NULL DEFAULT 0 CHECK (live >= 0),
    created_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The live runners of each host, counted by the same triggers.
CREATE TABLE hosts (
    host TEXT PRIMARY KEY,
    live INTEGER NOT NULL DEFAULT 0 CHECK (live >= 0)
) STRICT, WITHOUT ROWID;

-- One row per launched command. `spec` is the whole request as JSON; project, name and uid are
-- repeated beside it for the indexes. `seq` is the number of the runner's last event.
CREATE TABLE runners (
    id         TEXT PRIMARY KEY,
    project    TEXT NOT NULL,
    host       TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('starting', 'running', 'frozen', 'stopping', 'ended')),
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
    CHECK ((state = 'ended') = (exit IS NOT NULL)),
    CHECK ((state = 'ended') = (usage IS NOT NULL)),
    CHECK (state IN ('starting', 'ended') OR placement IS NOT NULL)
) STRICT;

-- The live ones, however many have ended.
CREATE INDEX runners_live ON runners (id, project, host) WHERE state <> 'ended';
-- The ended ones in the order in which they are pruned.
CREATE INDEX runners_ended ON runners (ended_at) WHERE state = 'ended';
CREATE INDEX runners_by_project ON runners (project, id);
CREATE INDEX runners_by_uid ON runners (uid, id);
CREATE INDEX runners_by_name ON runners (name, id) WHERE name IS NOT NULL;

CREATE TABLE labels (
    runner TEXT NOT NULL REFERENCES runners (id) ON DELETE CASCADE,
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (runner, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX labels_by_value ON labels (key, value, runner);

-- Request ids; they live as long as their runner is kept.
CREATE TABLE requests (
    uid        INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    digest     TEXT NOT NULL,
    runner     TEXT NOT NULL REFERENCES runners (id) ON DELETE CASCADE,
    PRIMARY KEY (uid, request_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_by_runner ON requests (runner);

-- Event numbers of everything that is not a runner. They outlive what they are about, so that a
-- project made again goes on counting.
CREATE TABLE subjects (
    subject TEXT PRIMARY KEY,
    seq     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The outbox. A position is never used twice, not even after pruning.
CREATE TABLE events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,
    type     TEXT NOT NULL,
    project  TEXT NOT NULL,
    subject  TEXT NOT NULL,
    seq      INTEGER NOT NULL CHECK (seq >= 1),
    actor    TEXT NOT NULL,
    data     TEXT NOT NULL,
    UNIQUE (subject, seq)
) STRICT;

CREATE INDEX events_by_time ON events (at);
CREATE INDEX events_by_project ON events (project, position);
-- The frequent types are found soon enough in order of position.
CREATE INDEX events_rare ON events (type, position)
 WHERE type NOT IN ('runner.starting', 'runner.running', 'runner.stopping', 'runner.ended');

-- The two writes that matter are one statement each: an INSERT into a view, which is done as a
-- whole or not at all. A runner with its labels, its request id and its first event:

CREATE VIEW admissions AS
SELECT r.id, r.project, r.host, r.name, r.uid, r.spec, r.created_at,
       q.uid AS request_uid, q.request_id, q.digest,
       e.type, e.subject, e.actor, e.data
  FROM runners r LEFT JOIN requests q ON q.runner = r.id, events e;

CREATE TRIGGER admission INSTEAD OF INSERT ON admissions BEGIN
    INSERT INTO runners (id, project, host, state, name, uid, spec, seq, created_at, started_at, ended_at)
        VALUES (NEW.id, NEW.project, NEW.host, 'starting', NEW.name, NEW.uid, NEW.spec, 1, NEW.created_at, 0, 0);
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
       r.state AS old_state, e.at, e.type, e.project, e.subject, e.actor, e.data
  FROM runners r, events e;

CREATE TRIGGER step INSTEAD OF INSERT ON steps BEGIN
    UPDATE runners
       SET state = NEW.state, seq = NEW.seq, spec = NEW.spec, started_at = NEW.started_at,
           ended_at = NEW.ended_at, placement = NEW.placement, exit = NEW.exit, usage = NEW.usage
     WHERE id = NEW.id AND state = NEW.old_state;
    INSERT INTO events (at, type, project, subject, seq, actor, data)
        VALUES (NEW.at, NEW.type, NEW.project, NEW.subject, NEW.seq, NEW.actor, NEW.data);
END;

-- What follows backs up the program: a mistake there is an error here, never an overdraft or a lie.

CREATE TRIGGER runner_admitted AFTER INSERT ON runners BEGIN
    SELECT RAISE(ABORT, 'a runner begins in state starting with its first event')
     WHERE NEW.state <> 'starting' OR NEW.seq <> 1;
    SELECT RAISE(ABORT, 'the project does not exist')
     WHERE NOT EXISTS (SELECT 1 FROM projects WHERE name = NEW.project);
    SELECT RAISE(ABORT, 'the project is at its cap')
     WHERE EXISTS (SELECT 1 FROM projects WHERE name = NEW.project AND live >= max_runners);
    UPDATE projects SET live = live + 1 WHERE name = NEW.project;
    INSERT INTO hosts (host, live) VALUES (NEW.host, 1)
        ON CONFLICT (host) DO UPDATE SET live = live + 1;
END;

CREATE TRIGGER runner_changed BEFORE UPDATE ON runners BEGIN
    SELECT RAISE(ABORT, 'an ended runner does not change')
     WHERE OLD.state = 'ended';
    SELECT RAISE(ABORT, 'a runner stays who and where it is')
     WHERE NEW.id <> OLD.id OR NEW.project <> OLD.project OR NEW.host <> OLD.host
        OR NEW.uid <> OLD.uid OR NEW.created_at <> OLD.created_at;
    SELECT RAISE(ABORT, 'no such transition')
     WHERE NEW.state <> OLD.state AND NOT CASE OLD.state
               WHEN 'starting' THEN NEW.state IN ('running', 'ended')
               WHEN 'running'  THEN NEW.state IN ('frozen', 'stopping', 'ended')
               WHEN 'frozen'   THEN NEW.state IN ('running', 'stopping', 'ended')
               WHEN 'stopping' THEN NEW.state = 'ended'
               ELSE 0
           END;
    SELECT RAISE(ABORT, 'each change of state is one event, nothing else is')
     WHERE NEW.seq <> OLD.seq + (NEW.state <> OLD.state);
END;

CREATE TRIGGER runner_ended AFTER UPDATE OF state ON runners
WHEN NEW.state = 'ended' AND OLD.state <> 'ended' BEGIN
    UPDATE projects SET live = live - 1 WHERE name = NEW.project;
    UPDATE hosts SET live = live - 1 WHERE host = NEW.host;
END;

CREATE TRIGGER runner_pruned BEFORE DELETE ON runners
WHEN OLD.state <> 'ended' BEGIN
    SELECT RAISE(ABORT, 'a live runner is not removed');
END;

CREATE TRIGGER project_removed BEFORE DELETE ON projects
WHEN OLD.live > 0 BEGIN
    SELECT RAISE(ABORT, 'a project with live runners is not removed');
END;

CREATE TRIGGER event_of_runner BEFORE INSERT ON events
WHEN NEW.subject LIKE 'runner/%' BEGIN
    SELECT RAISE(ABORT, 'the event does not belong to the runner as it is')
     WHERE NOT EXISTS (SELECT 1 FROM runners WHERE id = substr(NEW.subject, 8) AND seq = NEW.seq);
END;

CREATE TRIGGER event_changed BEFORE UPDATE ON events BEGIN
    SELECT RAISE(ABORT, 'an event does not change');
END;
