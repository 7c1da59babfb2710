//! What Stratavore costs on one host, each figure beside its ceiling, measured in the same run in
//! turns: an absolute figure of a shared machine says nothing.
//!
//! `benches/run.sh` boots a disposable host and runs this in it, as root. The table goes to
//! standard error, the same as JSON to standard output. `--short` measures less of everything and
//! fails where a figure is several times worse than its goal.

mod broker;
mod launch;
mod live;
mod outbox;
mod postgres;
mod server;
mod store;
mod table;

use std::process::ExitCode;
use std::time::Duration;
use table::Table;

type Res<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// Turns of each side; the median counts.
    rounds: usize,
    /// How long one side measures in a turn.
    turn: Duration,
    /// Launches in a turn where one follows the other.
    singles: usize,
    /// Calls in a turn.
    calls: usize,
    /// Ended runners in a long history, and live ones beside them.
    ended: u64,
    live_rows: u64,
    /// Events in the outbox when a relay begins, and events one by one.
    events: u64,
    trickle: usize,
    /// How many live runners memory is looked at with.
    live: &'static [usize],
    /// For how long they are watched doing nothing.
    idle: Duration,
}

const FULL: Size = Size {
    rounds: 7,
    turn: Duration::from_secs(3),
    singles: 40,
    calls: 2_000,
    ended: 1_000_000,
    live_rows: 10_000,
    events: 100_000,
    trickle: 500,
    live: &[0, 100, 1_000],
    idle: Duration::from_secs(30),
};

const SHORT: Size = Size {
    rounds: 3,
    turn: Duration::from_millis(1_000),
    singles: 15,
    calls: 500,
    ended: 10_000,
    live_rows: 500,
    events: 5_000,
    trickle: 50,
    live: &[0, 100],
    idle: Duration::from_secs(8),
};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let short = std::env::args().any(|a| a == "--short");
    let only: Vec<_> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let wanted = |part: &str| only.is_empty() || only.iter().any(|o| o == part);
    let size = if short { SHORT } else { FULL };
    let mut table = Table::default();
    let done = async {
        if wanted("store") {
            store::measure(size, &mut table).await?;
        }
        if wanted("audit") {
            store::audit(size, &mut table).await?;
        }
        // Of its own accord only in the full run: beside 64 clients on few cores the short one says nothing.
        if wanted("postgres") && !(short && only.is_empty()) {
            postgres::measure(size, &mut table).await?;
        }
        if wanted("outbox") {
            outbox::measure(size, &mut table).await?;
        }
        if wanted("launch") {
            launch::measure(size, &mut table).await?;
        }
        if wanted("live") {
            live::measure(size, &mut table).await?;
        }
        Res::Ok(())
    };
    let done = done.await;
    if cfg!(debug_assertions) {
        table.note("built without optimisation: ours takes up to twice the CPU");
    }
    eprint!("{table}");
    println!("{:#}", table.json(short));
    if let Err(error) = done {
        eprintln!("bench: {error}");
        return ExitCode::FAILURE;
    }
    match table.far_off().as_slice() {
        far if short && !far.is_empty() => {
            eprintln!(
                "bench: several times worse than the goal: {}",
                far.join("; ")
            );
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
