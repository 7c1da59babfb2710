//! One connection to either database, and the few kinds of values that go over it: integers of 64
//! bits and text. Times are microseconds since 1970, yes and no are 1 and 0, structures are JSON.

use super::fail::Fail;
use crate::adapters::postgres::Line;
use crate::domain::audit::Note;
use crate::domain::{ProjectName, RunnerId, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Connection, Row as _, ValueRef as _};
use std::borrow::Cow;

/// What is bound to `$1`, `$2` ….
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::adapters) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
}

impl Value {
    /// Any structure, as JSON text.
    pub(in crate::adapters) fn json<T: Serialize>(value: &T) -> Result<Self, Fail> {
        super::row::json(value).map(Self::from)
    }
}

/// The databases' integers are signed; nothing that is counted or timed comes near the end of them.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

macro_rules! values {
    ($($from:ty => $kind:ident($n:ident => $made:expr);)*) => {
        $(impl From<$from> for Value {
            fn from($n: $from) -> Self {
                Self::$kind(Some($made))
            }
        }
        impl From<Option<$from>> for Value {
            fn from(maybe: Option<$from>) -> Self {
                Self::$kind(maybe.map(|$n| $made))
            }
        })*
    };
}
values! {
    i64 => Int(n => n);
    u64 => Int(n => signed(n));
    u32 => Int(n => i64::from(n));
    bool => Int(yes => i64::from(yes));
    Timestamp => Int(at => signed(at.0));
    &str => Text(text => text.to_owned());
    String => Text(text => text);
    RunnerId => Text(id => id.to_string());
    &ProjectName => Text(name => name.to_string());
}

/// One row of an answer; columns are counted from 0.
pub(in crate::adapters) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    pub(in crate::adapters) fn maybe_int(&self, column: usize) -> Result<Option<i64>, Fail> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    pub(in crate::adapters) fn maybe_text(&self, column: usize) -> Result<Option<&str>, Fail> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    /// The bytes of a text that may be damaged.
    pub(in crate::adapters) fn maybe_bytes(&self, column: usize) -> Result<Option<&[u8]>, Fail> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => match row.try_get_raw(column)? {
                null if null.is_null() => None,
                // On the wire a text is its bytes.
                text => Some(text.as_bytes().map_err(sqlx::Error::Decode)?),
            },
        })
    }

    pub(in crate::adapters) fn int(&self, column: usize) -> Result<i64, Fail> {
        self.maybe_int(column)?.ok_or_else(|| missing(column))
    }

    pub(in crate::adapters) fn text(&self, column: usize) -> Result<&str, Fail> {
        self.maybe_text(column)?.ok_or_else(|| missing(column))
    }

    /// A count; never negative in the schema.
    pub(in crate::adapters) fn count(&self, column: usize) -> Result<u64, Fail> {
        self.int(column).map(i64::unsigned_abs)
    }

    /// A count that fits into 32 bits.
    pub(in crate::adapters) fn number(&self, column: usize) -> Result<u32, Fail> {
        small(self.int(column)?)
    }

    pub(in crate::adapters) fn maybe_number(&self, column: usize) -> Result<Option<u32>, Fail> {
        self.maybe_int(column)?.map(small).transpose()
    }

    pub(in crate::adapters) fn time(&self, column: usize) -> Result<Timestamp, Fail> {
        self.count(column).map(Timestamp)
    }

    /// A structure from JSON text; `what` it is, for the error.
    pub(in crate::adapters) fn json<T: DeserializeOwned>(
        &self,
        column: usize,
        what: &str,
    ) -> Result<T, Fail> {
        super::row::parsed(what, self.text(column)?)
    }

    pub(in crate::adapters) fn maybe_json<T: DeserializeOwned>(
        &self,
        column: usize,
        what: &str,
    ) -> Result<Option<T>, Fail> {
        self.maybe_text(column)?
            .map(|text| super::row::parsed(what, text))
            .transpose()
    }
}

fn missing(column: usize) -> Fail {
    Fail::Broken(format!("column {column} of a stored row is empty"))
}

fn small(n: i64) -> Result<u32, Fail> {
    u32::try_from(n).map_err(|_| Fail::Broken(format!("the stored number {n} is out of range")))
}

/// Which SQL is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::adapters) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// The words of the one or of the other.
    pub(in crate::adapters) fn pick<T>(self, sqlite: T, postgres: T) -> T {
        match self {
            Self::Sqlite => sqlite,
            Self::Postgres => postgres,
        }
    }
}

/// One connection. Its futures are not to be dropped half-way: see [`super::writer`] and
/// [`super::readers`], which both give up the connection when that happens.
#[derive(Debug)]
pub(in crate::adapters) enum Link {
    Sqlite(Embedded),
    Postgres(Session),
}

/// A connection to an embedded store.
#[derive(Debug)]
pub(in crate::adapters) struct Embedded {
    pub(in crate::adapters) on: SqliteConnection,
    notes: Notes,
}

/// What a transaction has done that the audit is to tell; `None` = nobody wants to know.
pub(in crate::adapters) type Notes = Option<Vec<Note>>;

/// A connection to Postgres.
#[derive(Debug)]
pub(in crate::adapters) struct Session {
    pub(in crate::adapters) on: PgConnection,
    /// A pooler is in between, which may give each transaction another session: nothing prepared
    /// is there the next time.
    pub(in crate::adapters) pooled: bool,
    /// Which primary it is, if that can be told.
    pub(in crate::adapters) line: Option<Line>,
    /// The position of the next event of this transaction.
    pub(in crate::adapters) position: i64,
    pub(in crate::adapters) notes: Notes,
}

/// Runs `$call` of a query with its values bound. What is written out in the program is prepared
/// once for each connection; what was put together is not kept.
macro_rules! query {
    ($on:expr, $sql:expr, $keep:expr, $values:expr, $arguments:ty, $call:ident) => {{
        let mut arguments = <$arguments>::default();
        for value in $values {
            match value {
                Value::Int(n) => arguments.add(n),
                Value::Text(text) => arguments.add(text),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        let keep = $keep && matches!($sql, Cow::Borrowed(_));
        sqlx::query_with(AssertSqlSafe($sql), arguments)
            .persistent(keep)
            .$call($on)
            .await
    }};
}

impl Link {
    pub(in crate::adapters) fn sqlite(on: SqliteConnection) -> Self {
        Self::Sqlite(Embedded { on, notes: None })
    }

    fn notes(&mut self) -> &mut Notes {
        match self {
            Self::Sqlite(to) => &mut to.notes,
            Self::Postgres(to) => &mut to.notes,
        }
    }

    /// A transaction begins; whether the audit wants to know what it does.
    pub(in crate::adapters) fn collect_notes(&mut self, wanted: bool) {
        *self.notes() = wanted.then(Vec::new);
    }

    /// Something was done in this transaction.
    pub(in crate::adapters) fn note(&mut self, make: impl FnOnce() -> Note) {
        if let Some(notes) = self.notes() {
            notes.push(make());
        }
    }

    /// How much was done so far.
    pub(in crate::adapters) fn noted(&mut self) -> usize {
        self.notes().as_ref().map_or(0, Vec::len)
    }

    /// What was done since then was taken back.
    pub(in crate::adapters) fn unnote(&mut self, noted: usize) {
        if let Some(notes) = self.notes() {
            notes.truncate(noted);
        }
    }

    /// All that was done.
    pub(in crate::adapters) fn take_notes(&mut self) -> Vec<Note> {
        self.notes().take().unwrap_or_default()
    }

    pub(in crate::adapters) fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    /// The words of the database at the other end.
    pub(in crate::adapters) fn pick<T>(&self, sqlite: T, postgres: T) -> T {
        self.dialect().pick(sqlite, postgres)
    }

    /// The position of an event that is about to be written; SQLite counts by itself.
    pub(in crate::adapters) fn position(&mut self) -> Option<i64> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(to) => {
                to.position += 1;
                Some(to.position - 1)
            }
        }
    }

    /// Before this position are the events of this transaction; 0 where SQLite counts.
    pub(in crate::adapters) fn next_position(&self) -> u64 {
        match self {
            Self::Sqlite(_) => 0,
            Self::Postgres(to) => to.position.unsigned_abs(),
        }
    }

    /// From here on, in this transaction.
    pub(in crate::adapters) fn number_events_from(&mut self, first: i64) {
        if let Self::Postgres(to) = self {
            to.position = first;
        }
    }

    /// Whether other hosts write to the same database.
    pub(in crate::adapters) fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Which primary this is, in a word to be compared.
    pub(in crate::adapters) fn line(&self) -> Option<String> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(to) => to.line.as_ref().map(ToString::to_string),
        }
    }

    /// Whether whatever belongs together must be inside a transaction, even to read.
    pub(in crate::adapters) fn is_pooled(&self) -> bool {
        matches!(self, Self::Postgres(Session { pooled: true, .. }))
    }

    /// All rows of the answer.
    pub(in crate::adapters) async fn rows(
        &mut self,
        sql: impl Into<Cow<'static, str>>,
        values: Vec<Value>,
    ) -> Result<Vec<Row>, Fail> {
        let sql = sql.into();
        Ok(match self {
            Self::Sqlite(to) => {
                let rows = query!(&mut to.on, sql, true, values, SqliteArguments, fetch_all)?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Self::Postgres(to) => {
                let rows = query!(&mut to.on, sql, !to.pooled, values, PgArguments, fetch_all)?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// The first row, if there is one.
    pub(in crate::adapters) async fn maybe(
        &mut self,
        sql: impl Into<Cow<'static, str>>,
        values: Vec<Value>,
    ) -> Result<Option<Row>, Fail> {
        let sql = sql.into();
        Ok(match self {
            Self::Sqlite(to) => query!(
                &mut to.on,
                sql,
                true,
                values,
                SqliteArguments,
                fetch_optional
            )?
            .map(Row::Sqlite),
            Self::Postgres(to) => query!(
                &mut to.on,
                sql,
                !to.pooled,
                values,
                PgArguments,
                fetch_optional
            )?
            .map(Row::Postgres),
        })
    }

    /// The first row of an answer that has one.
    pub(in crate::adapters) async fn one(
        &mut self,
        sql: impl Into<Cow<'static, str>>,
        values: Vec<Value>,
    ) -> Result<Row, Fail> {
        self.maybe(sql, values)
            .await?
            .ok_or(Fail::Sql(sqlx::Error::RowNotFound))
    }

    /// Does it; how many rows were written.
    pub(in crate::adapters) async fn run(
        &mut self,
        sql: impl Into<Cow<'static, str>>,
        values: Vec<Value>,
    ) -> Result<u64, Fail> {
        let sql = sql.into();
        Ok(match self {
            Self::Sqlite(to) => {
                query!(&mut to.on, sql, true, values, SqliteArguments, execute)?.rows_affected()
            }
            Self::Postgres(to) => {
                query!(&mut to.on, sql, !to.pooled, values, PgArguments, execute)?.rows_affected()
            }
        })
    }

    /// One or several statements without values or answer, in one go: BEGIN, SET, COMMIT.
    pub(in crate::adapters) async fn say(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(to) => sqlx::raw_sql(sql).execute(&mut to.on).await.map(drop),
            Self::Postgres(to) => sqlx::raw_sql(sql).execute(&mut to.on).await.map(drop),
        }
    }

    /// The same with a text that is not written out in the program: a migration.
    pub(in crate::adapters) async fn say_text(&mut self, sql: String) -> Result<(), sqlx::Error> {
        let sql = AssertSqlSafe(sql);
        match self {
            Self::Sqlite(to) => sqlx::raw_sql(sql).execute(&mut to.on).await.map(drop),
            Self::Postgres(to) => sqlx::raw_sql(sql).execute(&mut to.on).await.map(drop),
        }
    }

    /// Says good-bye and closes.
    pub(in crate::adapters) async fn close(self) {
        let _ = match self {
            Self::Sqlite(to) => to.on.close().await,
            Self::Postgres(to) => to.on.close().await,
        };
    }
}
