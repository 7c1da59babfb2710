-- The same rules as before, each in one pass over the rows that were written. They are planned once in a
-- session, when few rows are written: joins of these rows with one another would then be of each with all,
-- however many are written later.

CREATE OR REPLACE FUNCTION runners_admitted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong TEXT;
BEGIN
    WITH f AS MATERIALIZED (
        SELECT project, host, sum(slots(state))::BIGINT AS live, count(*) FILTER (WHERE state = 'queued') AS queued,
               bool_or(state NOT IN ('queued', 'starting') OR seq <> 1) AS odd
          FROM fresh GROUP BY project, host
    ), p AS (
        UPDATE projects p SET live = p.live + d.live, queued = p.queued + d.queued
          FROM (SELECT project, sum(live)::BIGINT AS live, sum(queued)::BIGINT AS queued FROM f GROUP BY project) d
         WHERE p.name = d.project
        RETURNING d.live > 0 AND p.live > p.max_runners AS over
    ), h AS (
        INSERT INTO hosts AS h (host, live, queued)
            SELECT host, sum(live)::BIGINT, sum(queued)::BIGINT FROM f GROUP BY host ORDER BY host
            ON CONFLICT (host) DO UPDATE SET live = h.live + excluded.live, queued = h.queued + excluded.queued
    )
    SELECT CASE WHEN (SELECT bool_or(odd) FROM f)
                THEN 'a runner begins in state queued or starting with its first event'
                WHEN (SELECT count(*) FROM p) < (SELECT count(DISTINCT project) FROM f)
                THEN 'the project does not exist'
                WHEN (SELECT bool_or(over) FROM p)
                THEN 'the project is at its cap'
           END
      INTO wrong;
    IF wrong IS NOT NULL THEN
        PERFORM refuse(wrong);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION runners_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong TEXT;
BEGIN
    -- Its tokens may still be reported.
    IF EXISTS (SELECT 1 FROM before WHERE state = 'ended') THEN
        PERFORM refuse('an ended runner does not change')
           FROM before o JOIN after n USING (id)
          WHERE o.state = 'ended'
            AND to_jsonb(o) - 'tokens' IS DISTINCT FROM to_jsonb(n) - 'tokens';
    END IF;
    WITH c AS MATERIALIZED (
        SELECT max(project) AS project, max(host) AS host,
               max(state) FILTER (WHERE is_new) AS state, max(state) FILTER (WHERE NOT is_new) AS former,
               max(seq) FILTER (WHERE is_new) - max(seq) FILTER (WHERE NOT is_new) AS steps,
               count(*) = 2 AND min(project) = max(project) AND min(host) = max(host) AND min(uid) = max(uid)
                   AND min(created_at) = max(created_at)
                   AND count(session) IN (0, 2) AND min(session) IS NOT DISTINCT FROM max(session) AS stays
          FROM (SELECT id, project, host, uid, created_at, session, state, seq, FALSE AS is_new FROM before
                 UNION ALL
                SELECT id, project, host, uid, created_at, session, state, seq, TRUE FROM after) AS both_of_them
         GROUP BY id
    ), d AS MATERIALIZED (
        SELECT project, host,
               coalesce(sum(slots(state) - slots(former)), 0)::BIGINT AS live,
               count(*) FILTER (WHERE state = 'queued') - count(*) FILTER (WHERE former = 'queued') AS queued,
               bool_or(slots(state) > slots(former)) AS takes,
               bool_and(stays) AS stay,
               bool_and(state = former OR CASE former
                        WHEN 'queued'   THEN state IN ('starting', 'ended')
                        WHEN 'starting' THEN state IN ('running', 'ended')
                        WHEN 'running'  THEN state IN ('frozen', 'stopping', 'ended')
                        WHEN 'frozen'   THEN state IN ('running', 'stopping', 'ended')
                        WHEN 'stopping' THEN state = 'ended'
                        ELSE FALSE
                    END) AS may,
               bool_and(steps = CASE WHEN state <> former THEN 1 ELSE 0 END) AS told
          FROM c GROUP BY project, host
    ), p AS (
        UPDATE projects p SET live = p.live + s.live, queued = p.queued + s.queued
          FROM (SELECT project, sum(live)::BIGINT AS live, sum(queued)::BIGINT AS queued, bool_or(takes) AS takes
                  FROM d GROUP BY project) s
         WHERE p.name = s.project AND (s.live <> 0 OR s.queued <> 0) AND (SELECT bool_and(stay AND may AND told) FROM d)
        RETURNING s.takes AND p.live > p.max_runners AS over
    ), h AS (
        UPDATE hosts h SET live = h.live + s.live, queued = h.queued + s.queued
          FROM (SELECT host, sum(live)::BIGINT AS live, sum(queued)::BIGINT AS queued FROM d GROUP BY host) s
         WHERE h.host = s.host AND (s.live <> 0 OR s.queued <> 0) AND (SELECT bool_and(stay AND may AND told) FROM d)
    )
    SELECT CASE WHEN (SELECT NOT bool_and(stay) FROM d) THEN 'a runner stays who and where it is'
                WHEN (SELECT NOT bool_and(may) FROM d) THEN 'no such transition'
                WHEN (SELECT NOT bool_and(told) FROM d) THEN 'each change of state is one event, nothing else is'
                WHEN (SELECT bool_or(over) FROM p) THEN 'the project is at its cap'
           END
      INTO wrong;
    IF wrong IS NOT NULL THEN
        PERFORM refuse(wrong);
    END IF;
    RETURN NULL;
END $$;
