-- Runners that wait, sessions, budgets, holds, what hosts say of themselves, and orders between
-- them. Times are microseconds since 1970 (0 = not set), tokens are counts.

-- `queued` counts the project's waiting runners as `live` counts the live ones.
ALTER TABLE projects
    ADD COLUMN max_queued     BIGINT CHECK (max_queued >= 0),
    ADD COLUMN default_tokens BIGINT CHECK (default_tokens >= 1),
    ADD COLUMN queued         BIGINT NOT NULL DEFAULT 0 CHECK (queued >= 0);

-- What is set for all hosts: one row. `policy` is raised by each change of what decides about
-- running work (holds, budgets, caps, cordons); who has read it before reads it again.
CREATE TABLE fleet (
    id          BIGINT PRIMARY KEY CHECK (id = 1),
    max_runners BIGINT CHECK (max_runners >= 0),
    policy      BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

INSERT INTO fleet (id) VALUES (1);

-- A host that has joined has an epoch; every write of it carries it. `former_boots`, `labels`,
-- `cordon` and `load` are JSON. `lease_until` and `renewed_at` are on the database's clock. `retention`
-- is for how long it wants ended runners and events kept, µs: the longest decides.
ALTER TABLE hosts
    ADD COLUMN queued       BIGINT NOT NULL DEFAULT 0 CHECK (queued >= 0),
    ADD COLUMN name         TEXT NOT NULL DEFAULT '',
    ADD COLUMN epoch        BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN boot_id      TEXT NOT NULL DEFAULT '',
    ADD COLUMN former_boots TEXT NOT NULL DEFAULT '[]',
    ADD COLUMN labels       TEXT NOT NULL DEFAULT '{}',
    ADD COLUMN max_runners  BIGINT,
    ADD COLUMN version      TEXT NOT NULL DEFAULT '',
    ADD COLUMN advertise    TEXT NOT NULL DEFAULT '',
    ADD COLUMN standing     TEXT NOT NULL DEFAULT 'up' CHECK (standing IN ('up', 'unreachable', 'lost', 'left')),
    ADD COLUMN cordon       TEXT,
    ADD COLUMN joined_at    BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN renewed_at   BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN lease_until  BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN fenced_after BIGINT,
    ADD COLUMN load         TEXT NOT NULL DEFAULT '{}',
    ADD COLUMN away         BIGINT NOT NULL DEFAULT 0, -- it renews its lease and can launch nothing
    ADD COLUMN retention    BIGINT NOT NULL DEFAULT 0;

-- A conversation or job that goes on over several runners; `live` is the one of now.
CREATE TABLE sessions (
    name       TEXT COLLATE "C" PRIMARY KEY,
    project    TEXT COLLATE "C" NOT NULL,
    live       TEXT COLLATE "C",
    runners    BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    used_at    BIGINT NOT NULL
);

CREATE INDEX sessions_by_use ON sessions (used_at);

-- Token budgets in the period that began at `period_start`. `reserved` is what live runners may
-- still use; `overrun` how much of `used` went past reservations; `told` the thresholds that were told in this period.
CREATE TABLE budgets (
    scope        TEXT COLLATE "C" NOT NULL,
    period       TEXT COLLATE "C" NOT NULL CHECK (period IN ('hour', 'day', 'week', 'month', 'none')),
    max_tokens   BIGINT NOT NULL CHECK (max_tokens >= 0),
    timezone     TEXT NOT NULL,
    on_exhausted TEXT NOT NULL CHECK (on_exhausted IN ('deny', 'freeze', 'stop')),
    counts       TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    period_start BIGINT NOT NULL,
    used         BIGINT NOT NULL DEFAULT 0 CHECK (used >= 0),
    reserved     BIGINT NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    overrun      BIGINT NOT NULL DEFAULT 0 CHECK (overrun >= 0),
    told         BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (scope, period)
) WITH (fillfactor = 50);

-- `until` 0 = until it is released.
CREATE TABLE holds (
    scope  TEXT COLLATE "C" PRIMARY KEY,
    until  BIGINT NOT NULL,
    freezes BIGINT NOT NULL CHECK (freezes IN (0, 1)),
    reason TEXT NOT NULL,
    actor  TEXT NOT NULL,
    set_at BIGINT NOT NULL
);

-- Small requests of one host to another. Taken once, before `expires_at`, or never. A launch is begun
-- in the transaction that writes its runner; its environment (`setenv`) is here only until it is taken
-- or withdrawn.
CREATE TABLE orders (
    id         TEXT COLLATE "C" PRIMARY KEY,
    target     TEXT COLLATE "C" NOT NULL,
    runner     TEXT COLLATE "C" NOT NULL,
    verb       TEXT NOT NULL,
    actor      TEXT NOT NULL,
    by_right   TEXT NOT NULL CHECK (by_right IN ('own', 'any')),
    asked_by   TEXT COLLATE "C" NOT NULL,
    asked_at   BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    taken_at   BIGINT NOT NULL DEFAULT 0,
    outcome    TEXT,
    begun_at   BIGINT NOT NULL DEFAULT 0,
    setenv     TEXT
);

CREATE INDEX orders_untaken ON orders (target, expires_at) WHERE taken_at = 0 AND outcome IS NULL;
CREATE INDEX orders_by_time ON orders (asked_at);

-- `tokens` (JSON) are a runner's counters as reported, which may come after its ending; `reserved`
-- what its budgets set aside; `frozen_by` the hold or budget that froze it; `queued_at` is on the
-- database's clock.
ALTER TABLE runners
    ADD COLUMN priority  BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN session   TEXT COLLATE "C",
    ADD COLUMN tokens    TEXT NOT NULL DEFAULT '{}',
    ADD COLUMN reserved  BIGINT NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    ADD COLUMN frozen_by TEXT,
    ADD COLUMN queued_at BIGINT NOT NULL DEFAULT 0,
    ADD CHECK (state = 'frozen' OR frozen_by IS NULL);

-- Those that wait, the next ones first.
CREATE INDEX runners_queued ON runners (project, priority DESC, queued_at, id) WHERE state = 'queued';
CREATE INDEX runners_by_session ON runners (session, id) WHERE session IS NOT NULL;

CREATE OR REPLACE FUNCTION runners_admitted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM refuse('a runner begins in state queued or starting with its first event')
       FROM fresh WHERE state NOT IN ('queued', 'starting') OR seq <> 1;
    PERFORM refuse('the project does not exist')
       FROM fresh f WHERE NOT EXISTS (SELECT 1 FROM projects WHERE name = f.project);
    UPDATE projects p SET live = p.live + f.n, queued = p.queued + f.waiting
      FROM (SELECT project, sum(slots(state))::BIGINT AS n, count(*) FILTER (WHERE state = 'queued') AS waiting
              FROM fresh GROUP BY project) f
     WHERE p.name = f.project;
    PERFORM refuse('the project is at its cap')
       FROM projects p WHERE p.live > p.max_runners
        AND p.name IN (SELECT project FROM fresh WHERE slots(state) > 0);
    INSERT INTO hosts AS h (host, live, queued)
        SELECT host, sum(slots(state))::BIGINT, count(*) FILTER (WHERE state = 'queued')
          FROM fresh GROUP BY host ORDER BY host
        ON CONFLICT (host) DO UPDATE SET live = h.live + excluded.live, queued = h.queued + excluded.queued;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION runners_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Its tokens may still be reported.
    PERFORM refuse('an ended runner does not change')
       FROM before o JOIN after n USING (id)
      WHERE o.state = 'ended'
        AND to_jsonb(o) - 'tokens' IS DISTINCT FROM to_jsonb(n) - 'tokens';
    PERFORM refuse('a runner stays who and where it is')
       FROM before o LEFT JOIN after n
         ON n.id = o.id AND n.project = o.project AND n.host = o.host AND n.uid = o.uid
            AND n.created_at = o.created_at AND n.session IS NOT DISTINCT FROM o.session
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
    UPDATE projects p SET live = p.live + d.n, queued = p.queued + d.waiting
      FROM (SELECT n.project, sum(slots(n.state) - slots(o.state))::BIGINT AS n,
                   count(*) FILTER (WHERE n.state = 'queued') - count(*) FILTER (WHERE o.state = 'queued') AS waiting
              FROM before o JOIN after n USING (id) GROUP BY n.project) d
     WHERE p.name = d.project AND (d.n <> 0 OR d.waiting <> 0);
    PERFORM refuse('the project is at its cap')
       FROM projects p WHERE p.live > p.max_runners
        AND p.name IN (SELECT n.project FROM before o JOIN after n USING (id) WHERE slots(n.state) > slots(o.state));
    UPDATE hosts h SET live = h.live + d.n, queued = h.queued + d.waiting
      FROM (SELECT n.host, sum(slots(n.state) - slots(o.state))::BIGINT AS n,
                   count(*) FILTER (WHERE n.state = 'queued') - count(*) FILTER (WHERE o.state = 'queued') AS waiting
              FROM before o JOIN after n USING (id) GROUP BY n.host) d
     WHERE h.host = d.host AND (d.n <> 0 OR d.waiting <> 0);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION projects_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM refuse('a project with live or waiting runners is not removed') FROM gone WHERE live > 0 OR queued > 0;
    RETURN NULL;
END $$;

-- A change of what decides about running work.
CREATE FUNCTION policy_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE fleet SET policy = policy + 1;
    RETURN NULL;
END $$;

-- Not where nothing is different: the fleet's row is one for all, and everybody would wait for it.
CREATE TRIGGER budgets_made AFTER INSERT OR DELETE ON budgets FOR EACH ROW EXECUTE FUNCTION policy_changed();
CREATE TRIGGER budgets_set AFTER UPDATE ON budgets FOR EACH ROW
    WHEN ((OLD.max_tokens, OLD.timezone, OLD.on_exhausted, OLD.counts, OLD.told)
          IS DISTINCT FROM (NEW.max_tokens, NEW.timezone, NEW.on_exhausted, NEW.counts, NEW.told))
    EXECUTE FUNCTION policy_changed();
CREATE TRIGGER holds_set AFTER INSERT OR UPDATE OR DELETE ON holds FOR EACH ROW EXECUTE FUNCTION policy_changed();
CREATE TRIGGER hosts_cordoned AFTER UPDATE ON hosts FOR EACH ROW
    WHEN (OLD.cordon IS DISTINCT FROM NEW.cordon) EXECUTE FUNCTION policy_changed();
