//! What the kernel's files say, as pure functions of their text. A file that does not have the
//! expected form gives `None`, never a made-up number.

/// The processes in a `cgroup.procs`. 0 stands for one that our PID namespace cannot see; it
/// can't be signalled, but it is there.
pub(super) fn pids(text: &str) -> impl Iterator<Item = i32> + '_ {
    text.lines()
        .filter_map(|line| line.trim().parse().ok())
        .filter(|pid| *pid >= 0)
}

/// The cgroup v2 path in a `/proc/<pid>/cgroup`.
pub(super) fn own_cgroup(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Whether a process is on its way out, from its `/proc/<pid>/stat` and `status`: a zombie,
/// exiting, or with SIGKILL pending. In doubt it is.
pub(super) fn dying(stat: &str, status: &str) -> bool {
    const PF_EXITING: u64 = 4;
    const KILL_BIT: u64 = 1 << 8;
    // The name in parentheses may contain anything, so count from its end.
    let mut fields = match stat.rsplit_once(')') {
        Some((_, rest)) => rest.split_ascii_whitespace(),
        None => return true,
    };
    let state = fields.next();
    let flags = fields.nth(5).and_then(|f| f.parse::<u64>().ok());
    let pending = |key: &str| {
        let hex = status.lines().find_map(|line| line.strip_prefix(key));
        hex.is_none_or(|h| u64::from_str_radix(h.trim(), 16).map_or(true, |v| v & KILL_BIT != 0))
    };
    matches!(state, None | Some("Z" | "X" | "x"))
        || flags.is_none_or(|f| f & PF_EXITING != 0)
        || pending("SigPnd:")
        || pending("ShdPnd:")
}

/// The parent, from a `/proc/<pid>/stat`.
pub(super) fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kernels_own_forms() {
        assert_eq!(
            own_cgroup("4:memory:/x\n0::/a.slice/b.scope\n"),
            Some("/a.slice/b.scope")
        );
        assert_eq!(own_cgroup("4:memory:/x\n"), None);
    }

    #[test]
    fn who_is_dying() {
        let stat = |state, flags| format!("7 (a) Z 4 (b)) {state} 1 7 7 0 -1 {flags} 0 0");
        let status = |pending: u64| {
            format!("Name:\tx\nSigPnd:\t{pending:016x}\nShdPnd:\t0000000000000000\n")
        };
        assert!(!dying(&stat("S", 4_194_560), &status(0)));
        assert!(!dying(&stat("T", 4_194_560), &status(1 << 14)));
        assert!(dying(&stat("Z", 4_194_560), &status(0)));
        assert!(dying(&stat("R", 4_194_564), &status(0)));
        assert!(dying(&stat("D", 4_194_560), &status(1 << 8)));
        assert!(dying("", ""));
        assert_eq!((parent(&stat("S", 0)), parent("7 (a")), (Some(1), None));
    }

    proptest! {
        #[test]
        fn no_text_makes_them_panic(text in "\\PC{0,60}|([a-z_]{1,8}[ =:][0-9a-f]{0,22}\n){0,6}") {
            let _ = pids(&text).count();
            let _ = own_cgroup(&text);
            let _ = (dying(&text, &text), parent(&text));
        }

        #[test]
        fn pids_read_back(list in proptest::collection::vec(0i32..4_194_304, 0..50)) {
            let text: String = list.iter().map(|p| format!("{p}\n")).collect();
            prop_assert_eq!(pids(&text).collect::<Vec<_>>(), list);
        }
    }
}
