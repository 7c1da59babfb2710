//! A machine whose clock goes with the simulated time of a test.

use std::sync::Arc;
use std::time::Duration;
use stratavore::domain::host::Load;
use stratavore::engine::Membership;
use stratavore::ports::Machine;
use tokio::time::Instant;

#[derive(Debug)]
pub struct FakeMachine(Instant);

impl Machine for FakeMachine {
    fn boottime(&self) -> u64 {
        // It has been up for a while.
        1_000_000_000 + self.0.elapsed().as_micros() as u64
    }

    fn load(&self) -> Load {
        Load {
            memory_total: 1 << 34,
            cpus: 8,
            ..Load::default()
        }
    }
}

/// The one boot of this machine.
const BOOT: &str = "000000000000000000000000000000b0";

/// Of a daemon that has started just now.
pub fn membership() -> Membership {
    Membership {
        boot_id: BOOT.to_owned(),
        labels: Default::default(),
        version: "0".to_owned(),
        advertise: "testhost:9791".to_owned(),
        renew: Duration::from_secs(1),
        ttl: Duration::from_secs(5),
        lost_after: Duration::from_secs(60),
        fence: None,
        machine: Arc::new(FakeMachine(Instant::now())),
    }
}
