//! The fleet's store: one Postgres for many hosts.
//!
//! The statements and the writer are those of [`super::sql`]; here is what only Postgres has:
//! finding the server, its schema, its locks, its faults. Truth is rows, and decisions are made one
//! after the other under advisory locks: the fleet's, shared or alone, then those of projects and of
//! hosts. The locks are taken in a statement of their own and what is read under them in later ones,
//! at READ COMMITTED whatever the server's default is: a lock and a read in one statement, or in a
//! snapshot that is older than the lock, would see counts that are no longer true.

mod connect;
mod fault;
mod options;
mod schema;

#[cfg(test)]
mod tests;

pub(in crate::adapters) use connect::Line;
pub use options::{PostgresOptions, ServerAddress, TlsMode};

use super::sql::fail::Fail;
use super::sql::link::{Link, Value};
use super::sql::locks::Locks;
use super::sql::{Base, Keep, SqlStore};
use crate::ports::StoreError;
use async_trait::async_trait;
use std::sync::OnceLock;
use std::time::Duration;

/// The longest that a transaction's statements, or a question, may take to be answered.
const LIMIT: Duration = Duration::from_secs(8);

/// Begins a transaction that writes and waits so long for locks, and sees to it that the server gives up before we do. Set in
/// each transaction, since a pooler may give the next one another session. A role or database that
/// was tuned not to wait for the disk would forget admissions in a crash, and give their slots twice.
///
/// All that is looked up here is looked up by a key. A planner that saw the tables when they were small
/// would read them whole, and go on doing so for as long as a statement stays prepared. Nor is anything gathered first and
/// sorted then: of what an index has in order the first rows are enough, and there may be a week's events behind them.
macro_rules! begin {
    ($patience:literal) => {
        concat!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
             SET LOCAL statement_timeout = '6s'; SET LOCAL lock_timeout = '",
            $patience,
            "'; SET LOCAL idle_in_transaction_session_timeout = '3s';
             SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL jit = off;
             SELECT CASE current_setting('synchronous_commit')
                    WHEN 'off' THEN set_config('synchronous_commit', 'on', TRUE) END"
        )
    };
}
const BEGIN: &str = begin!("4s");
const BEGIN_ALONE: &str = begin!("500ms");
const BEGIN_READING: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;
    SET LOCAL statement_timeout = '6s'; SET LOCAL idle_in_transaction_session_timeout = '10s'";

/// Takes all locks in one order: the fleet (723100), projects (723101), hosts (723102), sessions (723103). Everybody
/// takes the fleet's before anything is written, so that [`events_horizon`](schema) knows who writes.
const LOCK: &str = "
    WITH busy AS (
        SELECT project, host, session FROM runners
         WHERE id = ANY (ARRAY(SELECT json_array_elements_text($1::JSON -> 'runners')))
    ), wanted AS (
        SELECT 723100 AS class, 0 AS key, $2 = 0 AS shared
        UNION SELECT 723101, hashtext(name), FALSE FROM json_array_elements_text($1::JSON -> 'projects') AS name
        UNION SELECT 723101, hashtext(project), FALSE FROM busy
        UNION SELECT 723102, hashtext(name), FALSE FROM json_array_elements_text($1::JSON -> 'hosts') AS name
        UNION SELECT 723102, hashtext(host), FALSE FROM busy
        UNION SELECT 723103, hashtext(name), FALSE FROM json_array_elements_text($1::JSON -> 'sessions') AS name
        UNION SELECT 723103, hashtext(session), FALSE FROM busy WHERE session IS NOT NULL
    )
    SELECT CASE WHEN shared THEN pg_advisory_xact_lock_shared(class, key) IS NULL
                ELSE pg_advisory_xact_lock(class, key) IS NULL END
      FROM (SELECT class, key, shared FROM wanted ORDER BY class, key) AS sorted";

/// Notes the writer's transaction, and who publishes its events; answers with the position of its first event, and with the oldest
/// schema whose programs may go on: somebody may have migrated since we looked.
const MARK: &str = "
    INSERT INTO writers (id, batch, seen)
        VALUES ($1, $2, CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT))
        ON CONFLICT (id) DO UPDATE SET batch = excluded.batch, seen = excluded.seen
    RETURNING (pg_current_xact_id()::TEXT::BIGINT + (SELECT value::BIGINT FROM meta WHERE key = 'base')) << 20,
              (SELECT value::BIGINT FROM meta WHERE key = 'readable-from'),
              set_config('stratavore.publisher', $3, TRUE)";

/// The last of a writer's transactions; 0 = nothing is known of it.
const LAST: &str = "INSERT INTO writers AS w (id, batch, seen) VALUES ($1, 0, 0)
    ON CONFLICT (id) DO UPDATE SET seen = w.seen RETURNING batch";

/// The store in a Postgres database.
pub type PostgresStore = SqlStore<Postgres>;

/// What only Postgres has.
#[derive(Debug)]
pub struct Postgres {
    options: PostgresOptions,
    latest: connect::Latest,
    /// The store's id: on every server that is written it is the same.
    store: OnceLock<String>,
    /// This writer among all: see the table `writers`.
    writer: String,
}

impl PostgresStore {
    /// Connects, and brings the schema up to date if the user may. At most so many connections are
    /// open at a time, two at the least: one that writes, and one or more for reading, when they are needed.
    pub async fn open(options: PostgresOptions, max_connections: u32) -> Result<Self, StoreError> {
        let (base, link) = Self::ready(options).await?;
        Ok(Self::new(base, link, max_connections.saturating_sub(1)))
    }

    /// A connection that may write, to a schema that is up to date.
    pub(in crate::adapters) async fn ready(
        options: PostgresOptions,
    ) -> Result<(Postgres, Link), StoreError> {
        let base = Postgres {
            options,
            latest: connect::Latest::default(),
            store: OnceLock::new(),
            writer: uuid::Uuid::now_v7().to_string(),
        };
        let session = connect::connect(&base.options, &base.latest)
            .await
            .map_err(|error| base.told(&error))?;
        let mut link = Link::Postgres(session);
        schema::prepare(&base, &mut link).await?;
        Ok((base, link))
    }

    /// Looks a store over without changing anything: one sentence about a sound one, or what is wrong.
    pub async fn check(options: PostgresOptions) -> Result<String, String> {
        schema::check(&options).await
    }
}

#[async_trait]
impl Base for Postgres {
    fn place(&self) -> String {
        self.options.place()
    }

    async fn again(&self) -> Result<Link, sqlx::Error> {
        let session = connect::connect(&self.options, &self.latest).await?;
        let mut link = Link::Postgres(session);
        super::sql::within(Some(LIMIT), schema::begin_writing(self, &mut link)).await?;
        Ok(link)
    }

    async fn reading(&self) -> Result<Link, sqlx::Error> {
        let session = connect::connect(&self.options, &self.latest).await?;
        Ok(Link::Postgres(session))
    }

    fn keep(&self) -> Keep {
        self.options.keep
    }

    fn begin(&self) -> &'static str {
        BEGIN
    }

    fn begin_alone(&self) -> &'static str {
        BEGIN_ALONE
    }

    fn begin_reading(&self) -> &'static str {
        BEGIN_READING
    }

    fn limit(&self) -> Option<Duration> {
        Some(LIMIT)
    }

    async fn enter(
        &self,
        on: &mut Link,
        locks: &Locks,
        batch: u64,
        publisher: &str,
    ) -> Result<(), Fail> {
        on.rows(LOCK, vec![Value::json(locks)?, locks.whole_fleet.into()])
            .await?;
        let mark = on
            .one(
                MARK,
                vec![self.writer.as_str().into(), batch.into(), publisher.into()],
            )
            .await?;
        on.number_events_from(mark.int(0)?);
        Ok(schema::readable(mark.int(1)?)?)
    }

    fn doubts_commit(&self) -> bool {
        true
    }

    async fn committed(&self, on: &mut Link) -> Result<Option<u64>, Fail> {
        on.say(BEGIN).await?;
        // Waits for the transaction in doubt, should it still be under way: it has changed the row, or made it.
        let last = on.one(LAST, vec![self.writer.as_str().into()]).await?;
        on.say("ROLLBACK").await?;
        // Each transaction has raised it.
        Ok(match last.count(0)? {
            0 => None,
            last => Some(last),
        })
    }

    fn is_rule(&self, error: &sqlx::Error) -> bool {
        fault::is_rule(error)
    }

    fn is_clash(&self, error: &sqlx::Error) -> bool {
        fault::is_clash(error)
    }

    fn is_held(&self, error: &sqlx::Error) -> bool {
        fault::is_held(error)
    }

    fn is_passing(&self, error: &sqlx::Error) -> bool {
        fault::is_passing(error)
    }

    fn told(&self, error: &sqlx::Error) -> StoreError {
        fault::unavailable(&self.options, error)
    }

    async fn pruned(&self, _: &mut Link) -> Result<(), Fail> {
        Ok(())
    }

    async fn last(&self, on: &mut Link) {
        let gone = async {
            on.say(BEGIN).await?;
            let one = vec![self.writer.as_str().into()];
            on.run("DELETE FROM writers WHERE id = $1", one)
                .await
                .map_err(Fail::fault)?;
            on.say("COMMIT").await
        };
        let _ = super::sql::within(Some(LIMIT), gone).await;
    }
}
