//! What tests have started is gone with them, however they end.

use super::postgres::Cluster;
use super::rabbit::Rabbit;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// All that runs from these folders, has them among its words, or was told of them when it began.
fn processes(folders: &[PathBuf]) -> Vec<String> {
    let about = |process: PathBuf| {
        let file = |name: &str| std::fs::read(process.join(name)).unwrap_or_default();
        let words = String::from_utf8_lossy(&file("cmdline")).replace('\0', " ");
        let told = String::from_utf8_lossy(&file("environ")).into_owned();
        let at = std::fs::read_link(process.join("cwd")).unwrap_or_default();
        let is = |folder: &PathBuf| {
            let name = folder.display().to_string();
            words.contains(&name) || told.contains(&name) || at.starts_with(folder)
        };
        folders.iter().any(is).then_some(words)
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| about(entry.path())).collect()
}

/// Set in a test run that is to be killed.
const KILLED: &str = "STRATAVORE_TEST_IS_KILLED";

/// Starts servers and waits for its end; with nobody to kill it there is nothing to start.
#[test]
fn a_test_that_is_killed() {
    if std::env::var_os(KILLED).is_none() {
        return;
    }
    let (rabbit, postgres) = (Rabbit::new("", ""), Cluster::new(&[]));
    for folder in [&rabbit.folder, &postgres.folder] {
        println!("\nfolder {}", folder.display());
    }
    loop {
        std::thread::park();
    }
}

/// As a terminal's Ctrl-C, a time limit or the machine's shortage of memory ends a test run.
#[test]
fn of_a_test_that_is_killed_nothing_is_left() {
    use rustix::process::{Pid, Signal, kill_process_group};
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let mut test = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "leftovers::a_test_that_is_killed", "--nocapture"])
            .env(KILLED, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let said = BufReader::new(test.stdout.take().unwrap()).lines();
        let folders = said.map_while(Result::ok);
        let folders = folders.filter_map(|line| line.strip_prefix("folder ").map(PathBuf::from));
        let folders: Vec<PathBuf> = folders.take(2).collect();
        assert!(folders.len() == 2, "the test has ended: {:?}", test.wait());
        // The brokers' sh, beam and epmd, Postgres, and who looks after them.
        assert!(processes(&folders).len() > 5, "{:#?}", processes(&folders));
        kill_process_group(Pid::from_child(&test), signal).unwrap();
        test.wait().unwrap();
        let begun = Instant::now();
        loop {
            let left = processes(&folders);
            let there: Vec<_> = folders.iter().filter(|folder| folder.exists()).collect();
            if left.is_empty() && there.is_empty() {
                break;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "after {signal:?}: {there:?} {left:#?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
