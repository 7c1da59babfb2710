//! Why an operation was not done, before it is told to anybody.

use super::Base;
use crate::domain::Error;
use crate::ports::StoreError;

#[derive(Debug)]
pub(in crate::adapters) enum Fail {
    /// The answer is no.
    Refused(Error),
    /// What is stored cannot be understood; only this operation is concerned.
    Broken(String),
    /// The database did not do it.
    Sql(sqlx::Error),
    /// This host's epoch is over.
    Fenced,
}

impl From<Error> for Fail {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<sqlx::Error> for Fail {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                Self::Broken(format!("a stored value cannot be read: {error}"))
            }
            other => Self::Sql(other),
        }
    }
}

impl Fail {
    /// As a fault of the whole transaction.
    pub(in crate::adapters) fn fault(self) -> sqlx::Error {
        match self {
            Self::Sql(error) => error,
            Self::Broken(what) => sqlx::Error::Protocol(what),
            Self::Refused(error) => sqlx::Error::Protocol(error.message),
            Self::Fenced => sqlx::Error::Protocol(StoreError::Fenced.to_string()),
        }
    }

    /// As the port tells it.
    pub(in crate::adapters) fn told(self, base: &dyn Base) -> StoreError {
        match self {
            Self::Refused(error) => StoreError::Refused(error),
            Self::Broken(what) => StoreError::Unavailable(format!("{}: {what}", base.place())),
            Self::Sql(error) => base.told(&error),
            Self::Fenced => StoreError::Fenced,
        }
    }
}
