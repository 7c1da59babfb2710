//! Our own log: the journal with fields where there is one, else standard error.

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging. Fields go to the journal as `STRATAVORE_<FIELD>=`; `RUST_LOG` sets the level.
pub fn start() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn,zbus=warn"));
    let registry = tracing_subscriber::registry().with(filter);
    let journal = libsystemd::logging::connected_to_journal()
        .then(tracing_journald::layer)
        .and_then(Result::ok)
        .map(|layer| layer.with_field_prefix(Some("STRATAVORE".to_owned())));
    let plain = journal
        .is_none()
        .then(|| fmt::layer().with_writer(std::io::stderr).with_target(false));
    registry.with(journal).with(plain).init();
}
