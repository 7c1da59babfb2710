//! This machine: its clock since boot, and how loaded it is, from `/proc`.

use crate::boottime;
use crate::domain::host::Load;
use crate::ports::Machine;
use std::fs;

/// The machine we run on.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThisMachine;

impl ThisMachine {
    /// The kernel's boot id, as placements have it. The error names the file.
    pub fn boot_id() -> Result<String, String> {
        const FILE: &str = "/proc/sys/kernel/random/boot_id";
        match fs::read_to_string(FILE) {
            Ok(text) => Ok(text.trim().replace('-', "")),
            Err(error) => Err(format!("{FILE} can't be read: {error}")),
        }
    }
}

impl Machine for ThisMachine {
    fn boottime(&self) -> u64 {
        boottime::now()
    }

    fn load(&self) -> Load {
        let cpus = std::thread::available_parallelism();
        Load {
            memory_total: memory_total(&read("/proc/meminfo")).unwrap_or(0),
            memory_promised: 0,
            pressure: ["memory", "cpu", "io"]
                .map(|of| pressure(&read(&format!("/proc/pressure/{of}")))),
            cpus: cpus.map_or(0, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            away: false,
        }
    }
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

/// `MemTotal:  16316412 kB`.
fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// `some avg10=1.25 avg60=…`, in hundredths.
fn pressure(psi: &str) -> Option<u32> {
    let some = psi.lines().find_map(|l| l.strip_prefix("some "))?;
    let avg = some.split(' ').find_map(|w| w.strip_prefix("avg10="))?;
    let (whole, part) = avg.split_once('.')?;
    let part = part.parse::<u32>().ok().filter(|p| *p < 100)?;
    whole
        .parse::<u32>()
        .ok()?
        .checked_mul(100)?
        .checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        let psi = "some avg10=1.25 avg60=0.00 avg300=0.00 total=1\nfull avg10=9.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(pressure(psi), Some(125));
        assert_eq!(pressure("full avg10=9.00\n"), None);
        assert_eq!(pressure("some avg10=x\n"), None);
        let meminfo = "MemTotal:       16316412 kB\nMemFree: 1 kB\n";
        assert_eq!(memory_total(meminfo), Some(16_316_412 * 1024));
        assert_eq!(memory_total("MemTotal: many\n"), None);
        let load = ThisMachine.load();
        assert!(load.memory_total > 0 && load.cpus > 0, "{load:?}");
        assert_eq!(ThisMachine::boot_id().map(|id| id.len()), Ok(32));
    }
}
