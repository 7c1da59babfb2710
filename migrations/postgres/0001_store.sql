-- The fleet's store: projects, runners and the events about them, shared by many hosts.
-- Times are microseconds since 1970 (0 = not set). Released migrations never change; add a new one.
-- Each runs in one transaction. First expand, and contract a release later: `readable-from` is the
-- oldest schema whose programs may go on using this one.

-- Facts about the store itself: `schema`, `readable-from`, `store-id`, `written-by` (the last version
-- that opened it), `base` (see `events`), and `line`: the primary that is written, where that can be told.
CREATE TABLE meta (
    key   TEXT COLLATE "C" PRIMARY KEY,
    value TEXT NOT NULL
);

INSERT INTO meta (key, value) VALUES ('base', '0'), ('schema', '1'), ('readable-from', '1');

-- One row for each writer, changed in each of its transactions: whether the last one was committed
-- can be looked up when the answer to COMMIT was lost. `seen` is on the database's clock.
CREATE TABLE writers (
    id    TEXT COLLATE "C" PRIMARY KEY,
    batch BIGINT NOT NULL,
    seen  BIGINT NOT NULL
) WITH (fillfactor = 50);

-- Owners of quotas. `live` counts the project's live runners; only the triggers below change it.
CREATE TABLE projects (
    name        TEXT COLLATE "C" PRIMARY KEY,
    description TEXT NOT NULL,
    max_runners BIGINT CHECK (max_runners >= 0),
    limits      TEXT NOT NULL,
    live        BIGINT NOT NULL DEFAULT 0 CHECK (live >= 0),
    created_at  BIGINT NOT NULL
) WITH (fillfactor = 50);

-- The live runners of each host, counted by the same triggers.
CREATE TABLE hosts (
    host TEXT COLLATE "C" PRIMARY KEY,
    live BIGINT NOT NULL DEFAULT 0 CHECK (live >= 0)
) WITH (fillfactor = 50);

-- One row per launched command. `spec` is the whole request as JSON; project, name and uid are
-- repeated beside it for the indexes. `seq` is the number of the runner's last event.
CREATE TABLE runners (
    id         TEXT COLLATE "C" PRIMARY KEY,
    project    TEXT COLLATE "C" NOT NULL,
    host       TEXT COLLATE "C" NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('queued', 'starting', 'running', 'frozen', 'stopping', 'ended')),
    name       TEXT COLLATE "C",
    uid        BIGINT NOT NULL,
    spec       TEXT NOT NULL,
    seq        BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at   BIGINT NOT NULL,
    placement  TEXT,
    exit       TEXT,
    usage      TEXT,
    CHECK ((state = 'ended') = (exit IS NOT NULL)),
    CHECK ((state = 'ended') = (usage IS NOT NULL)),
    CHECK (state IN ('queued', 'starting', 'ended') OR placement IS NOT NULL)
);

-- The live ones, however many have ended.
CREATE INDEX runners_live ON runners (id, project, host) WHERE state <> 'ended';
CREATE INDEX runners_of_host ON runners (host, id) WHERE state <> 'ended';
-- The ended ones in the order in which they are pruned.
CREATE INDEX runners_ended ON runners (ended_at) WHERE state = 'ended';
CREATE INDEX runners_by_project ON runners (project, id);
CREATE INDEX runners_by_uid ON runners (uid, id);
CREATE INDEX runners_by_name ON runners (name, id) WHERE name IS NOT NULL;

CREATE TABLE labels (
    runner TEXT COLLATE "C" NOT NULL REFERENCES runners (id) ON DELETE CASCADE,
    key    TEXT COLLATE "C" NOT NULL,
    value  TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (runner, key)
);

CREATE INDEX labels_by_value ON labels (key, value, runner);

-- Request ids; they live as long as their runner is kept.
CREATE TABLE requests (
    uid        BIGINT NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    digest     TEXT NOT NULL,
    runner     TEXT COLLATE "C" NOT NULL REFERENCES runners (id) ON DELETE CASCADE,
    PRIMARY KEY (uid, request_id)
);

CREATE INDEX requests_by_runner ON requests (runner);

-- Event numbers of everything that is not a runner. They outlive what they are about, so that a
-- project made again goes on counting.
CREATE TABLE subjects (
    subject TEXT COLLATE "C" PRIMARY KEY,
    seq     BIGINT NOT NULL
) WITH (fillfactor = 50);

-- The outbox. A position is (base + transaction) << 20 + the event's number in its transaction, so
-- positions are handed out without a lock, and whoever reads below the oldest transaction under way
-- (events_horizon) misses nothing. `base` is raised where a cluster's transactions begin anew, and
-- behind those that were lost when another server took over.
CREATE TABLE events (
    position BIGINT PRIMARY KEY,
    at       BIGINT NOT NULL,
    type     TEXT COLLATE "C" NOT NULL,
    project  TEXT COLLATE "C" NOT NULL,
    subject  TEXT COLLATE "C" NOT NULL,
    seq      BIGINT NOT NULL CHECK (seq >= 1),
    actor    TEXT NOT NULL,
    data     TEXT NOT NULL,
    UNIQUE (subject, seq)
);

CREATE INDEX events_by_time ON events (at);
CREATE INDEX events_by_project ON events (project, position);
-- The frequent types are found soon enough in order of position.
CREATE INDEX events_rare ON events (type, position)
 WHERE type NOT IN ('runner.starting', 'runner.running', 'runner.stopping', 'runner.ended');

-- No event below this position is still to come. Every transaction of ours holds the fleet's
-- advisory lock before it gets its number, so other people's long transactions don't matter: theirs
-- are those whose number is held without it. A number that nobody is seen to hold yet may be ours.
CREATE FUNCTION events_horizon() RETURNS BIGINT LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_is pg_snapshot := pg_current_snapshot();
    lowest BIGINT;
BEGIN
    SELECT min(x::TEXT::BIGINT) INTO lowest
      FROM pg_snapshot_xip(now_is) AS x
     WHERE pg_xact_status(x) = 'in progress'
       AND NOT EXISTS (
           SELECT 1 FROM pg_locks t
            WHERE t.locktype = 'transactionid' AND t.granted AND t.mode = 'ExclusiveLock'
              -- The locks know only the lower half of a number.
              AND t.transactionid::TEXT::BIGINT = (x::TEXT::BIGINT & 4294967295)
              AND NOT EXISTS (
                  SELECT 1 FROM pg_locks a
                   WHERE a.pid = t.pid AND a.locktype = 'advisory' AND a.granted AND a.objsubid = 2
                     AND a.classid = 723100
                     AND a.database = (SELECT oid FROM pg_database WHERE datname = current_database())));
    lowest := coalesce(lowest, pg_snapshot_xmax(now_is)::TEXT::BIGINT);
    RETURN (lowest + (SELECT value::BIGINT FROM meta WHERE key = 'base')) << 20;
END $$;

-- What follows backs up the program: a mistake there is an error here, never an overdraft or a lie.

CREATE FUNCTION refuse(rule TEXT) RETURNS BOOLEAN LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', rule USING ERRCODE = 'check_violation';
END $$;

-- What a runner in this state takes of the quotas.
CREATE FUNCTION slots(state TEXT) RETURNS BIGINT LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE WHEN state IN ('queued', 'ended') THEN 0 ELSE 1 END::BIGINT $$;

CREATE FUNCTION runners_admitted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM refuse('a runner begins in state queued or starting with its first event')
       FROM fresh WHERE state NOT IN ('queued', 'starting') OR seq <> 1;
    PERFORM refuse('the project does not exist')
       FROM fresh f WHERE NOT EXISTS (SELECT 1 FROM projects WHERE name = f.project);
    UPDATE projects p SET live = p.live + f.n
      FROM (SELECT project, sum(slots(state))::BIGINT AS n FROM fresh GROUP BY project) f
     WHERE p.name = f.project AND f.n > 0;
    PERFORM refuse('the project is at its cap')
       FROM projects p WHERE p.live > p.max_runners
        AND p.name IN (SELECT project FROM fresh WHERE slots(state) > 0);
    INSERT INTO hosts AS h (host, live) SELECT host, sum(slots(state)) FROM fresh GROUP BY host ORDER BY host
        ON CONFLICT (host) DO UPDATE SET live = h.live + excluded.live;
    RETURN NULL;
END $$;

CREATE TRIGGER runners_admitted AFTER INSERT ON runners REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION runners_admitted();

CREATE FUNCTION runners_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM refuse('an ended runner does not change') FROM before WHERE state = 'ended';
    PERFORM refuse('a runner stays who and where it is')
       FROM before o LEFT JOIN after n
         ON n.id = o.id AND n.project = o.project AND n.host = o.host AND n.uid = o.uid AND n.created_at = o.created_at
      WHERE n.id IS NULL;
    PERFORM refuse('no such transition')
       FROM before o JOIN after n USING (id)
      WHERE n.state <> o.state AND NOT CASE o.state
                WHEN 'queued'   THEN n.state IN ('starting', 'ended')
                WHEN 'starting' THEN n.state IN ('running', 'ended')
                WHEN 'running'  THEN n.state IN ('frozen', 'stopping', 'ended')
                WHEN 'frozen'   THEN n.state IN ('running', 'stopping', 'ended')
                WHEN 'stopping' THEN n.state = 'ended'
                ELSE FALSE
            END;
    PERFORM refuse('each change of state is one event, nothing else is')
       FROM before o JOIN after n USING (id)
      WHERE n.seq <> o.seq + CASE WHEN n.state <> o.state THEN 1 ELSE 0 END;
    UPDATE projects p SET live = p.live + d.n
      FROM (SELECT n.project, sum(slots(n.state) - slots(o.state))::BIGINT AS n
              FROM before o JOIN after n USING (id) GROUP BY n.project) d
     WHERE p.name = d.project AND d.n <> 0;
    PERFORM refuse('the project is at its cap')
       FROM projects p WHERE p.live > p.max_runners
        AND p.name IN (SELECT n.project FROM before o JOIN after n USING (id) WHERE slots(n.state) > slots(o.state));
    UPDATE hosts h SET live = h.live + d.n
      FROM (SELECT n.host, sum(slots(n.state) - slots(o.state))::BIGINT AS n
              FROM before o JOIN after n USING (id) GROUP BY n.host) d
     WHERE h.host = d.host AND d.n <> 0;
    RETURN NULL;
END $$;

CREATE TRIGGER runners_changed AFTER UPDATE ON runners REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION runners_changed();

CREATE FUNCTION runners_pruned() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM refuse('a live runner is not removed') FROM gone WHERE state <> 'ended';
    RETURN NULL;
END $$;

CREATE TRIGGER runners_pruned AFTER DELETE ON runners REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION runners_pruned();

CREATE FUNCTION projects_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM refuse('a project with live runners is not removed') FROM gone WHERE live > 0;
    RETURN NULL;
END $$;

CREATE TRIGGER projects_removed AFTER DELETE ON projects REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION projects_removed();

CREATE FUNCTION events_written() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM refuse('the event does not belong to the runner as it is')
       FROM fresh e
      WHERE e.subject LIKE 'runner/%'
        AND (SELECT seq FROM runners WHERE id = substr(e.subject, 8)) IS DISTINCT FROM e.seq;
    RETURN NULL;
END $$;

CREATE TRIGGER events_written AFTER INSERT ON events REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION events_written();

CREATE FUNCTION events_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM refuse('an event does not change') FROM fresh;
    RETURN NULL;
END $$;

CREATE TRIGGER events_changed AFTER UPDATE ON events REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION events_changed();

CREATE FUNCTION all_gone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM refuse('a table of the store is not emptied');
    RETURN NULL;
END $$;

CREATE TRIGGER runners_emptied BEFORE TRUNCATE ON runners FOR EACH STATEMENT EXECUTE FUNCTION all_gone();
CREATE TRIGGER projects_emptied BEFORE TRUNCATE ON projects FOR EACH STATEMENT EXECUTE FUNCTION all_gone();
CREATE TRIGGER events_emptied BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION all_gone();
