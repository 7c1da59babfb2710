//! The tests' side of the gate: an agent with a real cgroup, a real socket and a real folder.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, chmodat, open};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use stratavore::domain::exit::Record;
use stratavore::domain::units::INFINITY;
use stratavore::seqpacket;
use stratavore::wire::{self, Identity, ShimNotice, ShimOrder, ShimRequest, ShimState};

/// Nothing in these tests may take longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
pub(crate) const NOBODY: u32 = 65534;
pub(crate) const SHIM: &str = env!("CARGO_BIN_EXE_stratavore-shim");

/// Crash points are one per machine: the test that uses them is alone.
/// No `RwLock`, since one test may have several agents, and a second `read` while somebody waits
/// to write would wait for ever.
static AGENTS: Mutex<u32> = Mutex::new(0);
static LAST_GONE: Condvar = Condvar::new();

/// Counts as an agent as long as it lives.
struct Together;

impl Together {
    fn new() -> Self {
        *agents() += 1;
        Self
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        *agents() -= 1;
        LAST_GONE.notify_all();
    }
}

fn agents() -> MutexGuard<'static, u32> {
    AGENTS.lock().unwrap_or_else(|e| e.into_inner())
}

/// Waits until no other test has an agent, and keeps them from having one.
pub(crate) fn alone() -> MutexGuard<'static, u32> {
    let waited = LAST_GONE.wait_while(agents(), |n| *n > 0);
    waited.unwrap_or_else(|e| e.into_inner())
}
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Where this machine has cgroup v2.
pub(crate) fn cgroup_root() -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut fields = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
    let found = fields.find(|f| f[2] == "cgroup2").map(|f| f[1].to_owned());
    found.expect("these tests need a cgroup2 mount (and root)")
}

/// Waits until the condition holds; the event is somebody else's, so look often.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn readable(fd: impl AsFd, what: &str) {
    let limit = Timespec {
        tv_sec: LIMIT.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    assert_eq!(
        poll(&mut fds, Some(&limit)),
        Ok(1),
        "waited in vain for: {what}"
    );
}

/// A connection to a shim.
pub(crate) struct Link(pub(crate) OwnedFd);

impl Link {
    pub(crate) fn say(&self, request: &ShimRequest) {
        seqpacket::send(&self.0, &wire::encode(request).unwrap(), &[]).unwrap();
    }

    /// The next notice; `None` = closed.
    pub(crate) fn hear(&self) -> Option<ShimNotice> {
        readable(&self.0, "a notice");
        let packet = seqpacket::recv(&self.0).unwrap()?;
        Some(wire::decode(&packet.bytes).unwrap())
    }

    pub(crate) fn state(&self) -> ShimState {
        match self.hear() {
            Some(ShimNotice::State(state)) => state,
            other => panic!("no state but {other:?}"),
        }
    }

    pub(crate) fn started(&self) -> u32 {
        match self.hear() {
            Some(ShimNotice::Started { pid }) => pid,
            other => panic!("not started but {other:?}"),
        }
    }

    /// The last words, whatever comes before.
    pub(crate) fn ended(&self) -> (Record, bool) {
        loop {
            match self.hear() {
                Some(ShimNotice::Ended { record, written }) => return (*record, written),
                Some(_) => {}
                None => panic!("closed without an ending"),
            }
        }
    }
}

/// One shim, its scope and its folder.
pub(crate) struct Agent {
    pub(crate) gate: Link,
    pub(crate) shim: Child,
    pub(crate) order: ShimOrder,
    pub(crate) folder: PathBuf,
    pub(crate) scope: PathBuf,
    pub(crate) listener: OwnedFd,
    _together: Option<Together>,
}

impl Agent {
    /// A shim that has not been given its order, in its scope. `wrap` starts it.
    pub(crate) fn bare(wrap: &[&str], alone: bool) -> Self {
        let together = (!alone).then(Together::new);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!(
            "00000000-0000-7000-{:04x}-{n:012x}",
            std::process::id() & 0xffff
        );
        let folder = std::env::temp_dir().join(format!("stratavore-shim-{id}"));
        fs::create_dir(&folder).unwrap();
        fs::create_dir(folder.join("exits")).unwrap();
        fs::create_dir(folder.join("work")).unwrap();
        let open_to_all = Mode::from_raw_mode(0o777);
        chmodat(CWD, folder.join("work"), open_to_all, AtFlags::empty()).unwrap();

        let cgroup = format!("/stratavore-{id}.scope");
        let root = cgroup_root();
        let scope = PathBuf::from(format!("{root}{cgroup}"));
        fs::create_dir(&scope).unwrap();

        let path = SocketAddrUnix::new(folder.join("socket")).unwrap();
        let listener = seqpacket_socket();
        bind(&listener, &path).unwrap();
        chmodat(CWD, folder.join("socket"), open_to_all, AtFlags::empty()).unwrap();
        listen(&listener, 16).unwrap();

        let (gate, theirs) = seqpacket::pair().unwrap();
        let mut command = Command::new(wrap.first().unwrap_or(&SHIM));
        if let [_, rest @ ..] = wrap {
            command.args(rest).arg(SHIM);
        }
        let shim = command
            .env("A_SECRET_OF_THE_AGENT", "1")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moved = fs::write(scope.join("cgroup.procs"), shim.id().to_string());
        assert!(moved.is_ok() || alone, "{moved:?}");
        let order = ShimOrder {
            v: wire::VERSION,
            id,
            command: Vec::new(),
            env: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            working_directory: folder.join("work").display().to_string(),
            identity: Some(Identity {
                uid: 0,
                gid: 0,
                groups: vec![0],
            }),
            cgroup,
            cgroup_root: root,
            boot_id: "a-boot".to_owned(),
            kill_signal: 15,
            stop_timeout: 20_000_000,
            runtime_max: INFINITY,
            oom_policy: None,
            identifier: "test".to_owned(),
            nofile: (1024, 4096),
            inputs: Default::default(),
            passed: Vec::new(),
            log_file_max: None,
        };
        Self {
            gate: Link(gate),
            shim,
            order,
            folder,
            scope,
            listener,
            _together: together,
        }
    }

    /// A shim with this command, behind its gate.
    pub(crate) fn gated(command: &[&str], change: impl FnOnce(&mut ShimOrder)) -> Self {
        let mut agent = Self::bare(&[], false);
        agent.give(command, change);
        let state = agent.gate.state();
        assert_eq!(
            (state.id == agent.order.id, state.gated, state.pid),
            (true, true, None)
        );
        agent
    }

    /// Gives the order.
    pub(crate) fn give(&mut self, command: &[&str], change: impl FnOnce(&mut ShimOrder)) {
        self.order.command = command.iter().map(|s| (*s).to_owned()).collect();
        change(&mut self.order);
        let payload = serde_json::to_vec(&self.order).unwrap();
        self.send_order(&payload);
    }

    pub(crate) fn send_order(&self, payload: &[u8]) {
        let payload = seqpacket::sealed_memfd("order", payload).unwrap();
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = open(self.folder.join("exits"), flags, Mode::empty()).unwrap();
        let fds = [payload.as_fd(), self.listener.as_fd(), dir.as_fd()];
        let order = wire::encode(&ShimRequest::Order).unwrap();
        // A shim that is gone by now is for the test to notice.
        let _ = seqpacket::send(&self.gate.0, &order, &fds);
    }

    /// A shim whose command runs.
    pub(crate) fn running(command: &[&str], change: impl FnOnce(&mut ShimOrder)) -> Self {
        let agent = Self::gated(command, change);
        agent.gate.say(&ShimRequest::Go);
        agent.gate.started();
        agent
    }

    /// The same for a script of sh, which can say that it is ready with `touch ready`.
    pub(crate) fn script(script: &str, change: impl FnOnce(&mut ShimOrder)) -> Self {
        let agent = Self::running(&["/bin/sh", "-c", script], change);
        if script.contains("ready") {
            until("the script to be ready", || agent.work("ready").exists());
        }
        agent
    }

    pub(crate) fn work(&self, name: &str) -> PathBuf {
        self.folder.join("work").join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.work(name)).unwrap()
    }

    pub(crate) fn connect(&self) -> Link {
        Link(try_connect(&self.folder.join("socket")).unwrap())
    }

    pub(crate) fn record_path(&self) -> PathBuf {
        self.folder
            .join("exits")
            .join(format!("{}.json", self.order.id))
    }

    /// The record on disk, which is the only file in its folder.
    pub(crate) fn record(&self) -> Record {
        assert_eq!(self.files(), [format!("{}.json", self.order.id)]);
        serde_json::from_slice(&fs::read(self.record_path()).unwrap()).unwrap()
    }

    pub(crate) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join("exits")).unwrap();
        entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// Everybody in the scope.
    pub(crate) fn procs(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.scope.join("cgroup.procs")).unwrap();
        text.lines().map(|l| l.parse().unwrap()).collect()
    }

    pub(crate) fn signal_shim(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.shim), signal).unwrap();
    }

    /// Waits for the shim to exit.
    pub(crate) fn gone(&mut self) -> ExitStatus {
        let pidfd = pidfd_open(Pid::from_child(&self.shim), PidfdFlags::empty()).unwrap();
        readable(pidfd, "the shim's exit");
        self.shim.wait().unwrap()
    }

    /// The ending as told, as written and as it is: all the same, and nobody is left.
    pub(crate) fn end(&mut self) -> Record {
        let (told, written) = self.gate.ended();
        assert!(written);
        assert_eq!(self.gone().code(), Some(0));
        assert!(self.procs().is_empty(), "{:?}", self.procs());
        let record = self.record();
        assert_eq!(record, told);
        assert_eq!((record.v, record.boot_id.as_str()), (1, "a-boot"));
        assert!(record.ended_at > 1_600_000_000_000_000 && record.ended_at >= record.started_at);
        record
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.shim.kill();
        let _ = self.shim.wait();
        let _ = fs::write(self.scope.join("cgroup.kill"), "1");
        let start = Instant::now();
        while fs::remove_dir(&self.scope).is_err() && start.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = Command::new("umount")
            .arg(self.folder.join("exits"))
            .stderr(Stdio::null())
            .status();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

pub(crate) fn seqpacket_socket() -> OwnedFd {
    socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap()
}

pub(crate) fn try_connect(path: &Path) -> rustix::io::Result<OwnedFd> {
    let socket = seqpacket_socket();
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
