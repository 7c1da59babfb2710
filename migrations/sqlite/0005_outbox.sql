-- What is still to be published to the broker: one narrow row per event, written with the event and
-- removed when the broker has confirmed it. The event itself stays.
-- Released migrations never change; add a new one.
--
-- `host` publishes it, and where that is empty whoever has a broker; `source` and `epoch` are the host that wrote
-- it. `parked` says why it is not tried any more until somebody asks for it.
CREATE TABLE outbox (
    subject  TEXT NOT NULL,
    seq      INTEGER NOT NULL,
    position INTEGER NOT NULL,
    host     TEXT NOT NULL,
    source   TEXT NOT NULL,
    epoch    INTEGER NOT NULL,
    parked   TEXT,
    PRIMARY KEY (subject, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX outbox_pending ON outbox (host, position) WHERE parked IS NULL;
CREATE INDEX outbox_parked ON outbox (host, position) WHERE parked IS NOT NULL;
-- What holds up the later events of its subject.
CREATE INDEX outbox_unroutable ON outbox (subject, seq) WHERE parked = 'unroutable';

-- Epoch and id of the host, where it has a broker; empty: nothing is to be published.
INSERT INTO meta (key, value) VALUES ('publisher', '');

CREATE TRIGGER event_published AFTER INSERT ON events BEGIN
    INSERT INTO outbox (subject, seq, position, host, source, epoch)
    SELECT NEW.subject, NEW.seq, NEW.position, substr(value, instr(value, ' ') + 1),
           substr(value, instr(value, ' ') + 1), CAST(substr(value, 1, instr(value, ' ') - 1) AS INTEGER)
      FROM meta WHERE key = 'publisher' AND value <> '';
END;

CREATE TRIGGER event_pruned BEFORE DELETE ON events BEGIN
    SELECT RAISE(ABORT, 'an event that waits to be published is not removed')
     WHERE EXISTS (SELECT 1 FROM outbox WHERE subject = OLD.subject AND seq = OLD.seq AND parked IS NULL AND host <> '');
    -- What is parked, or nobody's, goes with its event.
    DELETE FROM outbox WHERE subject = OLD.subject AND seq = OLD.seq;
END;
