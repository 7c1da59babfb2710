//! What comes out of the signalfd.

use rustix::process::Signal;
use std::os::fd::AsFd;

/// Bytes of a `struct signalfd_siginfo`.
const SIZE: usize = 128;

/// One signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrived {
    pub(super) number: i32,
    code: i32,
    pub(super) pid: u32,
}

impl Arrived {
    /// Whether it means that the scope shall stop: SIGTERM or the runner's stop signal (the
    /// one at launch, which its scope keeps, or the one since), sent by a process (not by the kernel: a stop signal of SIGCHLD would come with every death).
    /// The kernel lets only root and our own user send us any.
    pub(super) fn stops(&self, kill_signals: &[i32]) -> bool {
        self.code <= 0
            && (self.number == Signal::TERM.as_raw() || kill_signals.contains(&self.number))
    }
}

/// Everything that has arrived; the descriptor does not block.
pub(super) fn read(signals: impl AsFd) -> Vec<Arrived> {
    let mut all = Vec::new();
    let mut buffer = [0; 8 * SIZE];
    while let Ok(n) = rustix::io::read(&signals, &mut buffer) {
        if n == 0 {
            break;
        }
        all.extend(
            buffer
                .get(..n)
                .unwrap_or(&[])
                .chunks_exact(SIZE)
                .filter_map(parse),
        );
    }
    all
}

fn parse(info: &[u8]) -> Option<Arrived> {
    let field = |n: usize| <[u8; 4]>::try_from(info.get(n * 4..n * 4 + 4)?).ok();
    Some(Arrived {
        number: i32::from_ne_bytes(field(0)?),
        code: i32::from_ne_bytes(field(2)?),
        pid: u32::from_ne_bytes(field(3)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrived(number: i32, code: i32) -> Option<Arrived> {
        let mut info = [0; SIZE];
        info[..4].copy_from_slice(&number.to_ne_bytes());
        info[8..12].copy_from_slice(&code.to_ne_bytes());
        info[12..16].copy_from_slice(&7u32.to_ne_bytes());
        parse(&info)
    }

    #[test]
    fn what_stops() {
        let stops = |number, code, kill| {
            arrived(number, code).is_some_and(|a| a.stops(&[kill, 12]) && a.pid == 7)
        };
        assert!(
            stops(15, 0, 15)
                && stops(15, 0, 2)
                && stops(2, 0, 2)
                && stops(15, -6, 2)
                && stops(12, 0, 2)
        );
        assert!(!stops(1, 0, 15) && !stops(17, 1, 17) && !stops(2, 0, 15));
    }
}
