-- The audit chains: entries, of which each one's mac fits the one before, and where each chain ends.
-- Released migrations never change; add a new one.
--
-- `entry` is the text that the mac was made of, to the byte; `mac` is in hex.
CREATE TABLE audit (
    host  TEXT NOT NULL,
    n     INTEGER NOT NULL CHECK (n >= 1),
    at    INTEGER NOT NULL,
    entry TEXT NOT NULL,
    mac   TEXT NOT NULL,
    PRIMARY KEY (host, n)
) STRICT, WITHOUT ROWID;

-- The last entry, and the key of the next one. `checkpoint` (JSON) stands for the oldest ones, which were removed.
CREATE TABLE audit_heads (
    host       TEXT PRIMARY KEY,
    n          INTEGER NOT NULL,
    mac        TEXT NOT NULL,
    key        TEXT NOT NULL,
    checkpoint TEXT
) STRICT, WITHOUT ROWID;

-- The heads of others as a host has seen them last.
CREATE TABLE audit_witness (
    host    TEXT NOT NULL,
    by_host TEXT NOT NULL,
    n       INTEGER NOT NULL,
    mac     TEXT NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (host, by_host)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER audit_changed BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'an entry of the audit does not change');
END;
