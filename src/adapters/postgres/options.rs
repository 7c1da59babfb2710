//! Where the server is, and how to get in.

use super::super::sql::Keep;
use crate::domain::secret::Secret;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How to reach the fleet's database.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// The servers in order of preference. The first one that answers and can be written is taken;
    /// a standby is passed over.
    pub servers: Vec<ServerAddress>,
    /// The database's name.
    pub database: String,
    /// Who connects.
    pub user: String,
    /// With which password, if the server asks for one.
    pub password: Option<Secret>,
    /// Whether the connection is encrypted, and what is checked.
    pub tls: TlsMode,
    /// The authority that signed the server's certificate (PEM); `None` = the system's.
    pub tls_ca: Option<PathBuf>,
    /// Our own certificate and its key (PEM), where the server asks for one.
    pub tls_certificate: Option<(PathBuf, PathBuf)>,
    /// How long one server may take to let us in.
    pub connect_timeout: Duration,
    /// How long connections for reading are kept.
    pub keep: Keep,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// A name or address, and a port.
    Tcp(String, u16),
    /// The folder of a socket, and the port that is a part of its name.
    Socket(PathBuf, u16),
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Socket(folder, port) => write!(f, "{}/.s.PGSQL.{port}", folder.display()),
        }
    }
}

/// As in libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// In the clear.
    Disable,
    /// Encrypted if the server can.
    Prefer,
    /// Encrypted, whoever answers.
    Require,
    /// Encrypted, and the certificate is signed by the authority.
    VerifyCa,
    /// And it is the server's name.
    VerifyFull,
}

impl PostgresOptions {
    /// What a person calls it.
    pub(super) fn place(&self) -> String {
        let servers: Vec<String> = self.servers.iter().map(ToString::to_string).collect();
        format!("database {} on {}", self.database, servers.join(", "))
    }
}
