//! Was the main process killed for lack of memory? `memory.events` only counts: this tells its
//! kills from those of others in the scope.
//!
//! The kernel raises the counter and then kills, so a main process that died by SIGKILL is the
//! victim if there is a kill that is not accounted for. A kill is accounted for when, a moment
//! after it was counted, the main process is alive and not on its way out: then it was somebody
//! else's.

use super::parse;
use crate::domain::cgroup;
use rustix::process::geteuid;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// From the count to the look at the main process, µs: far longer than the kernel takes from
/// counting a kill to sending its signal.
const SETTLE: u64 = 100_000;

/// Protects this process from the OOM killer, where it may. Returns the `oom_score_adj` of its
/// child: none; or the shim's own where root may not protect it (a container), but no protection
/// that was meant for us; or with `--user` a step above that, as systemd puts one between a user's
/// manager and its units.
pub(super) fn protect() -> i32 {
    const FILE: &str = "/proc/self/oom_score_adj";
    const MOST: i32 = 1_000;
    let step = if geteuid().is_root() { 0 } else { 100 };
    if std::fs::write(FILE, "-1000").is_ok() {
        return 0;
    }
    let own = std::fs::read_to_string(FILE).ok();
    let own = own.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    MOST.min(own.max(0) + step)
}

/// Watches `memory.events`.
#[derive(Debug)]
pub(super) struct OomWatch {
    /// To be polled for POLLPRI; `None` = this kernel does not count.
    pub(super) events: Option<File>,
    accounted: u64,
    /// When to call [`OomWatch::settle`].
    pub(super) settle_at: Option<u64>,
}

impl OomWatch {
    pub(super) fn new(events: Option<File>) -> Self {
        let first = events.as_ref().and_then(kills).unwrap_or(0);
        Self {
            events,
            accounted: first,
            settle_at: None,
        }
    }

    /// The file has changed. Reading it arms the next notice.
    pub(super) fn changed(&mut self, now: u64) {
        if self.events.as_ref().and_then(kills).is_none() {
            // We were moved elsewhere and the cgroup is gone: it would report that for ever.
            self.events = None;
        }
        if self.now() > self.accounted && self.settle_at.is_none() {
            self.settle_at = Some(now.saturating_add(SETTLE));
        }
    }

    /// The moment has passed: whether somebody other than the main process was killed.
    pub(super) fn settle(&mut self, main: Option<i32>) -> bool {
        self.settle_at = None;
        let read = |name: &str| {
            let path = format!("/proc/{}/{name}", main.unwrap_or(0));
            std::fs::read_to_string(path).unwrap_or_default()
        };
        if main.is_some() && !parse::dying(&read("stat"), &read("status")) {
            self.accounted = self.now();
            return true;
        }
        false
    }

    /// There is a kill that nobody else explains: whoever died by SIGKILL just now is it.
    pub(super) fn unexplained(&self) -> bool {
        self.now() > self.accounted
    }

    /// A kill of our own helper.
    pub(super) fn account_for_one(&mut self) {
        self.accounted += 1;
    }

    fn now(&self) -> u64 {
        self.events.as_ref().and_then(kills).unwrap_or(0)
    }
}

fn kills(events: &File) -> Option<u64> {
    let mut text = [0; 512];
    let read = events.read_at(&mut text, 0).ok()?;
    cgroup::keyed(&String::from_utf8_lossy(text.get(..read)?), "oom_kill")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// A file stands in for the kernel's.
    fn watch(name: &str) -> std::io::Result<(OomWatch, File)> {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::write(&path, "oom 0\noom_kill 0\n")?;
        let file = File::options().read(true).write(true).open(&path)?;
        let pair = (OomWatch::new(Some(File::open(&path)?)), file);
        std::fs::remove_file(path)?;
        Ok(pair)
    }

    #[test]
    fn a_childs_kill_does_not_explain_the_mains_death() -> Outcome {
        let (mut watch, file) = watch("oom-child")?;
        file.write_all_at(b"oom 1\noom_kill 1\n", 0)?;
        watch.changed(1_000);
        assert_eq!(watch.settle_at, Some(1_000 + SETTLE));
        assert!(watch.unexplained());
        // The main process (this test) is well.
        assert!(watch.settle(Some(std::process::id() as i32)));
        assert!(!watch.unexplained());
        Ok(())
    }

    #[test]
    fn the_mains_own_kill_stays_unexplained_until_it_is_reaped() -> Outcome {
        let (mut watch, file) = watch("oom-main")?;
        let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
        file.write_all_at(b"oom 1\noom_kill 1\n", 0)?;
        watch.changed(1_000);
        child.kill()?;
        watch.settle(Some(child.id() as i32));
        assert!(watch.unexplained());
        child.wait()?;
        Ok(())
    }
}
