//! Disks that are full, files that are broken, processes that are killed.

use super::conformance::{
    admit, alice, apply, at, end, events, id, launch, live, placement, project, step, unavailable,
};
use super::*;
use crate::domain::runner::Step;
use crate::ports::Admitted;
use sqlx::{ConnectOptions, Connection};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Runs a test again in a mount namespace of its own.
fn unshared(test: &str, folder: &Path) {
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    let probe = |way: &&&[&str]| {
        let mount = format!("mount -t tmpfs tmpfs {}", folder.display());
        Command::new("unshare")
            .args(**way)
            .args(["sh", "-c", &mount])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    let way = ways.iter().find(probe).expect(
        "this test needs a mount namespace: run it as root, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)",
    );
    let output = Command::new("unshare")
        .args(*way)
        .args(this(&format!("faults::{test}"), folder))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let passed = output.status.success() && said.contains("1 passed");
    assert!(passed, "{said}{}", String::from_utf8_lossy(&output.stderr));
}

fn mount(words: &str) {
    let status = Command::new("sh")
        .args(["-c", &format!("mount {words}")])
        .status()
        .unwrap();
    assert!(status.success(), "mount {words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk() {
    let Some(folder) = part() else {
        return unshared("a_full_disk", &Folder::new().0);
    };
    mount(&format!("-t tmpfs -o size=12m tmpfs {}", folder.display()));
    let ballast = folder.join("ballast");
    std::fs::write(&ballast, vec![0; 2 << 20]).unwrap();
    let more_ballast = folder.join("more");
    std::fs::write(&more_ballast, vec![0; 5 << 20]).unwrap();
    let file = folder.join("stratavore.db");
    let store = SqliteStore::open(&file, 2).await.unwrap();
    project(&store, "p", ProjectSettings::default()).await;
    let mut admitted = BTreeSet::new();
    let mut lost = BTreeSet::new();
    let mut n = 0;
    let mut fill = async |until_lost: bool, rounds: u64| {
        for _ in 0..rounds {
            let batch = n..n + 20;
            n = batch.end;
            let answers = futures_util::future::join_all(batch.clone().map(|n| {
                let mut new = launch(n, "p");
                new.spec.command.push("x".repeat(2_000));
                store.admit(new)
            }))
            .await;
            let before = lost.len();
            for (n, answer) in batch.zip(answers) {
                if let Ok(Admitted::New { .. }) = answer {
                    admitted.insert(id(n));
                } else {
                    let why = unavailable(answer);
                    assert!(
                        why.starts_with("disk full: free space on ")
                            && why.ends_with(folder.to_str().unwrap()),
                        "{why}"
                    );
                    lost.insert(id(n));
                }
            }
            if until_lost && lost.len() > before {
                return;
            }
        }
        assert!(!until_lost, "the disk is never full");
    };
    fill(true, 1_000).await;
    // It stays full, and everything says so; what is there can still be read.
    fill(false, 3).await;
    let mut refused = 0;
    for _ in 0..1_000 {
        refused += u32::from(store.check().await.is_err());
    }
    assert!(refused > 0);
    assert_eq!(
        store.live("h1").await.unwrap().len(),
        live(&store, "p").await as usize
    );
    std::fs::remove_file(&ballast).unwrap();
    // Space is back, and so is the store.
    store.check().await.unwrap();
    fill(false, 5).await;
    let there: BTreeSet<_> = store
        .live("h1")
        .await
        .unwrap()
        .iter()
        .map(|r| r.id)
        .collect();
    assert_eq!(there, admitted);
    assert!(lost.is_disjoint(&there) && lost.len() >= 60);
    conformance::assert_contiguous(&events(&store).await);
    std::fs::remove_file(&more_ballast).unwrap();
    store.close().await;
    sound(&file).await;
    let store = SqliteStore::open(&file, 2).await.unwrap();
    assert_eq!(live(&store, "p").await as usize, there.len());
}

#[tokio::test]
async fn a_read_only_file_system() {
    let Some(folder) = part() else {
        return unshared("a_read_only_file_system", &Folder::new().0);
    };
    let name = folder.display();
    mount(&format!("-t tmpfs tmpfs {name}"));
    let file = folder.join("stratavore.db");
    SqliteStore::open(&file, 2).await.unwrap().close().await;
    // The last file handles are gone once SQLite's threads are.
    let open = || {
        let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let mut files = all.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        files.any(|file| file.starts_with(&folder))
    };
    for _ in 0..6_000 {
        if !open() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    mount(&format!("-o remount,ro {name}"));
    let said = unavailable(SqliteStore::open(&file, 2).await);
    assert!(
        said.contains("not mounted read-only") && said.contains(&*name.to_string()),
        "{said}"
    );
    mount(&format!("-o remount,rw {name}"));
    SqliteStore::open(&file, 2)
        .await
        .unwrap()
        .check()
        .await
        .unwrap();
}

/// SQLite itself finds nothing wrong with the file.
async fn sound(file: &Path) {
    let mut on = super::super::open::writing(file).connect().await.unwrap();
    let verdict: String = sqlx::query_scalar("PRAGMA integrity_check")
        .fetch_one(&mut on)
        .await
        .unwrap();
    assert_eq!(verdict, "ok");
    on.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_left_alone() {
    let (folder, store) = empty().await;
    project(&store, "p", ProjectSettings::default()).await;
    store.close().await;
    let whole = std::fs::read(folder.file()).unwrap();
    let mut middle = whole.clone();
    middle[4_096..].fill(0xa5);
    let cases = [
        vec![b'x'; 10],
        vec![0xff; 20_000],
        whole[..5_000].to_vec(),
        middle,
    ];
    for (n, bytes) in cases.into_iter().enumerate() {
        std::fs::write(folder.file(), &bytes).unwrap();
        let said = unavailable(SqliteStore::open(&folder.file(), 1).await);
        assert!(
            said.contains("damaged") && said.contains("stratavore.db"),
            "{n}: {said}"
        );
        assert!(
            std::fs::read(folder.file()).unwrap() == bytes,
            "{n}: it was written to"
        );
    }
    std::fs::write(folder.file(), &whole).unwrap();
    let store = SqliteStore::open(&folder.file(), 1).await.unwrap();
    assert_eq!(store.projects().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_wrong_path_is_named() {
    let folder = Folder::new();
    let missing = folder.0.join("missing/stratavore.db");
    let said = unavailable(SqliteStore::open(&missing, 1).await);
    assert!(said.contains("missing does not exist"), "{said}");
    let said = unavailable(SqliteStore::open(&folder.0, 1).await);
    assert!(said.contains("is a folder"), "{said}");
    let inside = Path::new("/proc/self/stratavore.db");
    let said = unavailable(SqliteStore::open(inside, 1).await);
    assert!(said.contains("/proc/self"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_program_holds_it() {
    let (folder, store) = empty().await;
    project(&store, "p", ProjectSettings::default()).await;
    let mut other = super::super::open::writing(&folder.file())
        .connect()
        .await
        .unwrap();
    let held = sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await;
    held.unwrap();
    let (admitted, ()) = tokio::join!(store.admit(launch(1, "p")), async {
        // Reading goes on.
        assert_eq!(live(&store, "p").await, 0);
    });
    let why = unavailable(admitted);
    assert!(why.contains("another program holds"), "{why}");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    admit(&store, launch(1, "p")).await;
}

#[test]
fn killed_at_any_moment() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if let Some(folder) = part() {
        return runtime.block_on(the_victim(&folder));
    }
    let folder = Folder::new();
    let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
    for round in 0..8u64 {
        let words = this("faults::killed_at_any_moment", &folder.0);
        let mut victim = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = victim.stdin.take().unwrap();
        writeln!(stdin, "{}", round * 1_000_000).unwrap();
        let stdout = BufReader::new(victim.stdout.take().unwrap());
        let mut killer = Some((stdin, victim.id()));
        let mut answers = 0;
        for line in stdout.lines() {
            let line = line.unwrap();
            let Some((n, seq)) = line.strip_prefix("done ").and_then(|l| l.split_once(' ')) else {
                continue;
            };
            // Some answers start the clock.
            answers += 1;
            if answers >= 20
                && let Some((stdin, pid)) = killer.take()
            {
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(20 + 37 * round));
                    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                    drop(stdin);
                });
            }
            acknowledged.insert(n.parse().unwrap(), seq.parse().unwrap());
        }
        let status = victim.wait().unwrap();
        assert!(!status.success(), "it was killed");
        runtime.block_on(after_the_kill(&folder, &acknowledged));
    }
    assert!(acknowledged.len() > 100);
}

async fn after_the_kill(folder: &Folder, acknowledged: &BTreeMap<u64, u64>) {
    let store = SqliteStore::open(&folder.file(), 2).await.unwrap();
    let all = events(&store).await;
    conformance::assert_contiguous(&all);
    let mut last = BTreeMap::new();
    for event in &all {
        last.insert(event.draft.subject.as_str(), event);
    }
    let mut living = 0;
    for (subject, event) in last.iter().filter(|(s, _)| s.starts_with("runner/")) {
        let runner = store
            .runner(subject[7..].parse().unwrap())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(event.draft.data["state"], runner.state().as_str());
        assert_eq!(event.draft.seq, runner.seq);
        living += u32::from(runner.state().is_live());
    }
    assert_eq!(live(&store, "p").await, living);
    let gates = conformance::gates(&store, "p", None).await.unwrap();
    assert_eq!(gates[1].used, u64::from(living));
    let rows = store
        .read(async |on| on.one("SELECT count(*) FROM runners", vec![]).await?.int(0))
        .await
        .unwrap();
    assert_eq!(
        rows as usize,
        last.len() - 1,
        "each row has its events and each event its row"
    );
    for (n, seq) in acknowledged {
        let runner = store.runner(id(*n)).await.unwrap().unwrap();
        assert!(runner.seq >= *seq, "{runner:?}");
    }
    store.close().await;
    sound(&folder.file()).await;
}

/// Works until it is killed, and says what was acknowledged.
async fn the_victim(folder: &Path) {
    let mut from = String::new();
    std::io::stdin().read_line(&mut from).unwrap();
    let from: u64 = from.trim().parse().unwrap();
    let store = Arc::new(
        SqliteStore::open(&folder.join("stratavore.db"), 2)
            .await
            .unwrap(),
    );
    let _ = store
        .create_project(
            conformance::name("p"),
            ProjectSettings::default(),
            alice(),
            at(0),
        )
        .await;
    let say = |n: u64, seq: u64| println!("done {n} {seq}");
    let lives = (0..8u64).map(|caller| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in (from + caller..).step_by(8) {
                say(n, admit(&*store, launch(n, "p")).await.seq);
                for taken in [Step::Run(placement()), Step::Stop, end()] {
                    // Some stay alive.
                    if n % 10 != 0 {
                        say(
                            n,
                            apply(&*store, step(n, taken, n * 1_000 + 1))
                                .await
                                .runner
                                .seq,
                        );
                    }
                }
            }
        })
    });
    futures_util::future::join_all(lives.collect::<Vec<_>>()).await;
}
