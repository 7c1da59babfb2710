-- What is still to be published to the broker: one narrow row per event, written in the event's
-- transaction and removed when the broker has confirmed it. The event itself stays.
--
-- `host` publishes it, and where that is empty whoever has a broker; `source` and `epoch` are the host that wrote
-- it, which is another one where rows of a host that was given up were adopted. `parked` says why it is not tried any
-- more until somebody asks for it.
CREATE TABLE outbox (
    subject  TEXT COLLATE "C" NOT NULL,
    seq      BIGINT NOT NULL,
    position BIGINT NOT NULL,
    host     TEXT COLLATE "C" NOT NULL,
    source   TEXT COLLATE "C" NOT NULL,
    epoch    BIGINT NOT NULL,
    parked   TEXT,
    PRIMARY KEY (subject, seq)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 20000);

CREATE INDEX outbox_pending ON outbox (host, position) WHERE parked IS NULL;
CREATE INDEX outbox_parked ON outbox (host, position) WHERE parked IS NOT NULL;
-- What holds up the later events of its subject.
CREATE INDEX outbox_unroutable ON outbox (subject, seq) WHERE parked = 'unroutable';

-- A transaction says who publishes what it writes (`stratavore.publisher`: epoch and host); nothing is
-- published where that is empty.
CREATE OR REPLACE FUNCTION events_written() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    publisher TEXT := coalesce(current_setting('stratavore.publisher', TRUE), '');
    host      TEXT := substr(publisher, strpos(publisher, ' ') + 1);
BEGIN
    PERFORM refuse('the event does not belong to the runner as it is')
       FROM fresh e
      WHERE e.subject LIKE 'runner/%'
        AND (SELECT seq FROM runners WHERE id = substr(e.subject, 8)) IS DISTINCT FROM e.seq;
    IF publisher <> '' THEN
        INSERT INTO outbox (subject, seq, position, host, source, epoch)
        SELECT f.subject, f.seq, f.position, host, host, split_part(publisher, ' ', 1)::BIGINT FROM fresh f;
    END IF;
    RETURN NULL;
END $$;

-- An event that is still to be published is passed over, also by those who do not know of the outbox. What is
-- parked, or nobody's, goes with its event.
CREATE FUNCTION event_pruned() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM outbox o WHERE o.subject = OLD.subject AND o.seq = OLD.seq AND o.parked IS NULL AND o.host <> '') THEN
        RETURN NULL;
    END IF;
    DELETE FROM outbox o WHERE o.subject = OLD.subject AND o.seq = OLD.seq;
    RETURN OLD;
END $$;

CREATE TRIGGER event_pruned BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION event_pruned();
CREATE TRIGGER outbox_emptied BEFORE TRUNCATE ON outbox FOR EACH STATEMENT EXECUTE FUNCTION all_gone();
