-- The audit chains: entries, of which each one's mac fits the one before, and where each chain ends.
-- `entry` is the text that the mac was made of, to the byte; `mac` is in hex.
CREATE TABLE audit (
    host  TEXT COLLATE "C" NOT NULL,
    n     BIGINT NOT NULL CHECK (n >= 1),
    at    BIGINT NOT NULL,
    entry TEXT NOT NULL,
    mac   TEXT NOT NULL,
    PRIMARY KEY (host, n)
);

-- The last entry, and the key of the next one. `checkpoint` (JSON) stands for the oldest ones, which were removed.
CREATE TABLE audit_heads (
    host       TEXT COLLATE "C" PRIMARY KEY,
    n          BIGINT NOT NULL,
    mac        TEXT NOT NULL,
    key        TEXT NOT NULL,
    checkpoint TEXT
) WITH (fillfactor = 50);

-- The heads of others as a host has seen them last.
CREATE TABLE audit_witness (
    host    TEXT COLLATE "C" NOT NULL,
    by_host TEXT COLLATE "C" NOT NULL,
    n       BIGINT NOT NULL,
    mac     TEXT NOT NULL,
    at      BIGINT NOT NULL,
    PRIMARY KEY (host, by_host)
) WITH (fillfactor = 50);

CREATE FUNCTION audit_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM refuse('an entry of the audit does not change');
    RETURN NULL;
END $$;

CREATE TRIGGER audit_changed BEFORE UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION audit_changed();
