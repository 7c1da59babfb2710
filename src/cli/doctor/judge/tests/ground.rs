//! systemd, cgroups, disks, journal, memory, clock.

use super::super::super::Level::{Note, Problem, Warning};
use super::super::super::facts::*;
use super::super::super::{FAILED, Level, status};
use super::{broken, says, set, words};

#[test]
fn the_ground() {
    says(Problem, "systemd", &["too old", "252"], |f| {
        f.systemd.running = Some("249.11".to_owned());
        f.systemd.installed = Some("249".to_owned());
    });
    says(Warning, "systemd", &["daemon-reexec"], |f| {
        f.systemd.running = Some("256.9".to_owned())
    });
    says(Note, "kernel", &["tasks_peak"], |f| {
        f.kernel = "6.1.0-40-amd64".to_owned()
    });
    says(Note, "kernel", &["5.19"], |f| {
        f.kernel = "5.10.0".to_owned()
    });
    says(Problem, "machine-id", &["systemd-machine-id-setup"], |f| {
        f.machine_id = false
    });
    says(
        Problem,
        "cgroup",
        &["systemd.unified_cgroup_hierarchy=1"],
        |f| f.cgroup.hierarchy = Hierarchy::Legacy,
    );
    says(Note, "cgroup", &["hybrid"], |f| {
        f.cgroup.hierarchy = Hierarchy::Hybrid
    });
    let without = |kernel: (bool, bool)| {
        move |f: &mut Facts| {
            f.cgroup.root = words("cpu io pids");
            f.cgroup.slice = Some(words("cpu io pids"));
            f.cgroup.kernel.insert("memory".to_owned(), kernel);
        }
    };
    says(
        Warning,
        "cgroup memory",
        &["memory-max", "cgroup_no_v1=memory"],
        without((true, true)),
    );
    says(
        Warning,
        "cgroup memory",
        &["cgroup_enable=memory"],
        without((false, false)),
    );
    says(
        Warning,
        "cgroup io",
        &["though the host has", "systemctl"],
        |f| f.cgroup.slice = Some(words("cpu memory pids")),
    );
    assert_eq!(broken(|f| f.cgroup.slice = None), []);
}

#[test]
fn without_systemd_or_bus_there_is_still_an_answer() {
    let found = broken(|f| {
        *f = Facts {
            version: "1".to_owned(),
            ..Facts::default()
        };
        f.bus.unreachable = Some("No such file or directory".to_owned());
        f.cgroup.hierarchy = Hierarchy::None;
    });
    let checks: Vec<&str> = found
        .iter()
        .filter(|f| f.level == Level::Problem)
        .map(|f| f.check.as_str())
        .collect();
    assert!(
        checks.contains(&"systemd") && checks.contains(&"bus") && checks.contains(&"cgroup"),
        "{found:#?}"
    );
    assert_eq!(status(&found), FAILED);
    says(
        Level::Problem,
        "bus",
        &["No such file", "systemctl start dbus.socket"],
        |f| {
            f.bus = Bus {
                unreachable: Some("No such file".to_owned()),
                ..Bus::default()
            };
        },
    );
}

#[test]
fn disks_journal_memory_and_clock() {
    let disk = "disk /var/lib/stratavore and /var/log/journal";
    says(Problem, disk, &["1M of 100G"], |f| {
        f.disks[0].bytes_free = 1 << 20
    });
    says(Warning, disk, &["64M of 100G", "--disk-usage"], |f| {
        f.disks[0].bytes_free = 64 << 20
    });
    says(Problem, disk, &["50 of 1000000 inodes"], |f| {
        f.disks[0].inodes_free = 50
    });
    says(Problem, disk, &["read-only", "journalctl -k"], |f| {
        f.disks[0].read_only = true
    });
    // Small disks and file systems that do not count inodes.
    assert_eq!(
        broken(|f| (f.disks[0].bytes, f.disks[0].bytes_free) = (64 << 20, 60 << 20)),
        []
    );
    assert_eq!(
        broken(|f| (f.disks[0].inodes, f.disks[0].inodes_free) = (0, 0)),
        []
    );
    let journal = |key: &str, value: &str| {
        let settings = [(key.to_owned(), value.to_owned())].into();
        move |f: &mut Facts| f.journal.settings = Some(settings)
    };
    says(
        Problem,
        "journal",
        &["Storage=none", "Storage=persistent"],
        journal("Storage", "none"),
    );
    says(
        Warning,
        "journal",
        &["only in memory"],
        journal("Storage", "volatile"),
    );
    says(Warning, "journal", &["mkdir -p /var/log/journal"], |f| {
        f.journal.persistent_folder = false
    });
    says(
        Warning,
        "journal rate",
        &["keeps 10 lines in 30s"],
        journal("RateLimitBurst", "10"),
    );
    assert_eq!(broken(journal("RateLimitIntervalSec", "0")), []);
    says(Note, "swap", &["MemorySwapMax=536870912"], |f| {
        f.swap = 1 << 30;
        set(f, "stratavore.slice", "MemorySwapMax", "infinity");
    });
    says(
        Warning,
        "oomd",
        &["systemctl set-property -- -.slice"],
        |f| {
            set(f, "systemd-oomd.service", "ActiveState", "active");
            set(f, "-.slice", "ManagedOOMSwap", "kill");
        },
    );
    says(Warning, "clock", &["timedatectl set-ntp true"], |f| {
        (f.clock.synchronised, f.clock.service) = (Some(false), Some(false))
    });
    says(Note, "clock", &["container"], |f| {
        f.clock.synchronised = Some(false);
        f.systemd.container = "lxc".to_owned();
    });
    says(Note, "clock jump", &["back by 2min"], |f| {
        f.clock.jumped = Some(-120)
    });
}

#[test]
fn what_a_daemon_gave_up_for_is_quoted() {
    let name = "stratavored.service";
    let why = &[
        "gave up: store.url: there is no credential. When",
        "systemctl start",
    ];
    says(Problem, name, why, |f| {
        set(f, name, "ActiveState", "failed");
        set(f, name, "ExecMainStatus", "78");
        let said = "Gave up: store.url: there is no credential.";
        set(f, name, "StatusText", said);
    });
}
