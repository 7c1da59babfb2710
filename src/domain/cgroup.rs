//! What the files of a cgroup say, as pure functions of their text. A file that does not have the
//! expected form gives `None`, never a made-up number.

use super::Usage;

/// What a runner has used, by the files of its scope; `read` gives a file's text. The shim's own
/// task is not the runner's. `None` in it = this kernel does not say.
pub fn usage(read: impl Fn(&str) -> Option<String>) -> Usage {
    let io = read("io.stat").map(|text| io_bytes(&text));
    let single = |file| number(&read(file)?);
    let tasks = |file| single(file).map(|n| n.saturating_sub(1));
    Usage {
        cpu_usec: read("cpu.stat").and_then(|text| keyed(&text, "usage_usec")),
        memory_peak_bytes: single("memory.peak"),
        io_read_bytes: io.map(|io| io.0),
        io_write_bytes: io.map(|io| io.1),
        tasks_peak: tasks("pids.peak"),
        oom_kills: read("memory.events").and_then(|text| keyed(&text, "oom_kill")),
        memory_bytes: single("memory.current"),
        tasks: tasks("pids.current"),
    }
}

/// The value of a `key value` line (`cpu.stat`, `memory.events`, `cgroup.stat`).
pub fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

/// The only number in a file (`memory.peak`, `pids.peak`).
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Bytes read and written, summed over all devices (`io.stat`). An empty file means that
/// nothing was.
fn io_bytes(text: &str) -> (u64, u64) {
    let mut sums = (0u64, 0u64);
    for field in text.split_ascii_whitespace() {
        let (sum, value) = match field.split_once('=') {
            Some(("rbytes", value)) => (&mut sums.0, value),
            Some(("wbytes", value)) => (&mut sums.1, value),
            _ => continue,
        };
        *sum = sum.saturating_add(value.parse().unwrap_or(0));
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kernels_own_forms() {
        let cpu = "usage_usec 2517\nuser_usec 1000\nsystem_usec 1517\n";
        assert_eq!(keyed(cpu, "usage_usec"), Some(2517));
        assert_eq!(keyed(cpu, "usage"), None);
        let events = "low 0\nhigh 12\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(keyed(events, "oom_kill"), Some(1));
        assert_eq!(keyed(events, "oom"), Some(2));
        assert_eq!(number("1048576\n"), Some(1 << 20));
        assert_eq!(number("max\n"), None);
        assert_eq!(io_bytes(""), (0, 0));
    }

    #[test]
    fn usage_from_files() {
        let read = |file: &str| {
            let text = match file {
                "cpu.stat" => "usage_usec 1234\nuser_usec 1000\n",
                "memory.peak" => "4096\n",
                "io.stat" => "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n",
                "pids.peak" => "4\n",
                "memory.current" => "2048\n",
                "pids.current" => "3\n",
                "memory.events" => "low 0\noom_kill 2\noom_group_kill 0\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        let expected = Usage {
            cpu_usec: Some(1234),
            memory_peak_bytes: Some(4096),
            io_read_bytes: Some(11),
            io_write_bytes: Some(22),
            tasks_peak: Some(3),
            oom_kills: Some(2),
            memory_bytes: Some(2048),
            tasks: Some(2),
        };
        assert_eq!(usage(read), expected);
        assert_eq!(usage(|_| None), Usage::default());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}|([a-z_]{1,8}[ =:][0-9a-f]{0,22}\n){0,6}") {
            let _ = usage(|_| Some(text.clone()));
        }

        #[test]
        fn sums_over_any_devices(devices in proptest::collection::vec((0u64..1 << 50, 0u64..1 << 50), 0..9)) {
            let text: String = devices.iter().enumerate()
                .map(|(n, (r, w))| format!("8:{n} rbytes={r} wbytes={w} rios=1 wios=1 dbytes=0 dios=0\n")).collect();
            let sums = devices.iter().fold((0, 0), |a, d| (a.0 + d.0, a.1 + d.1));
            prop_assert_eq!(io_bytes(&text), sums);
        }
    }
}
