//! Running commands in a host, with a time limit.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a command may take when nothing else is said.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What a command ended with.
#[derive(Debug, Clone)]
pub struct Output {
    pub command: String,
    /// The exit status; 128 + n for a signal, as a shell counts.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub took: Duration,
}

impl Output {
    /// Panics, with everything the command said, unless it exited 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Panics, with everything the command said, unless it exited with `code`.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert!(self.code == code, "expected exit status {code}, got {self}");
        self
    }

    /// Standard output as text, without the last line's end.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard error as text, without the last line's end.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end().to_owned()
    }

    pub fn success(&self) -> bool {
        self.code == 0
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} after {:.2} s from: {}",
            self.code,
            self.took.as_secs_f64(),
            self.command
        )?;
        writeln!(
            f,
            "--- stdout:\n{}\n--- stderr:\n{}",
            self.out(),
            self.err()
        )
    }
}

/// A command for a host: `host.command(["id"]).user("alice").limit(…).run()`.
#[must_use]
pub struct Exec {
    enter: Vec<String>,
    command: Vec<String>,
    user: Option<String>,
    env: Vec<(String, String)>,
    dir: Option<String>,
    stdin: Option<Vec<u8>>,
    limit: Duration,
    plain: bool,
}

impl Exec {
    /// `enter` are the words that go before the command (and its user) to get into the host.
    pub(super) fn new(enter: Vec<String>, command: Vec<String>) -> Self {
        Exec {
            enter,
            command,
            user: None,
            env: Vec::new(),
            dir: None,
            stdin: None,
            limit: LIMIT,
            plain: false,
        }
    }

    /// A command of this machine, in this process's own environment.
    pub(super) fn plain(program: String, words: Vec<String>) -> Self {
        Exec {
            plain: true,
            ..Exec::new(vec![program], words)
        }
    }

    /// As this user, with its groups and a clean environment; without a login session.
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// In this folder of the host; else in `/`.
    pub fn dir(mut self, dir: &str) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    /// What it reads; else nothing.
    pub fn stdin(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(data.into());
        self
    }

    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    fn build(&self) -> Command {
        let mut command = Command::new(&self.enter[0]);
        command.args(&self.enter[1..]);
        command.process_group(0);
        if self.plain {
            command.args(&self.command);
            return command;
        }
        let user = self.user.as_deref().unwrap_or("root");
        let home = if user == "root" {
            "/root".to_owned()
        } else {
            format!("/home/{user}")
        };
        command.args(["env", "-i", "SHELL=/bin/bash", "LANG=C.UTF-8", "TERM=dumb"]);
        command.arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.args([
            format!("HOME={home}"),
            format!("USER={user}"),
            format!("LOGNAME={user}"),
        ]);
        command.args(self.env.iter().map(|(key, value)| format!("{key}={value}")));
        if let Some(user) = &self.user {
            command.args(["setpriv", "--reuid", user, "--regid", user, "--init-groups"]);
        }
        if let Some(dir) = &self.dir {
            command.args(["env", "-C", dir]);
        }
        command.args(&self.command);
        command
    }

    /// Runs it to its end. Panics when that takes longer than the limit.
    #[track_caller]
    pub fn run(self) -> Output {
        let begun = Instant::now();
        let text = self.command.join(" ");
        let mut command = self.build();
        command.stdin(if self.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        let mut spawned = Spawned::start(command, text);
        let mut writer = None;
        if let (Some(data), Some(mut pipe)) = (self.stdin, spawned.stdin.take()) {
            writer = Some(std::thread::spawn(move || drop(pipe.write_all(&data))));
        }
        let output = spawned.wait_within(self.limit);
        if let Some(writer) = writer {
            // Whoever was to read is gone, or has it all.
            if writer.is_finished() {
                drop(writer.join());
            }
        }
        match output {
            Ok(mut output) => {
                output.took = begun.elapsed();
                output
            }
            Err(output) => panic!("not over after {:.1} s: {output}", self.limit.as_secs_f64()),
        }
    }

    /// Starts it and returns; it is killed when dropped. Its standard input is a pipe, in `stdin`.
    pub fn spawn(self) -> Spawned {
        let text = self.command.join(" ");
        let mut command = self.build();
        command.stdin(Stdio::piped());
        let mut spawned = Spawned::start(command, text);
        if let (Some(data), Some(pipe)) = (self.stdin, spawned.stdin.as_mut()) {
            drop(pipe.write_all(&data));
        }
        spawned
    }
}

/// A command that runs in a host. Killed when dropped.
pub struct Spawned {
    child: Child,
    command: String,
    begun: Instant,
    stdout: Reader<ChildStdout>,
    stderr: Reader<ChildStderr>,
    /// Take it (and drop it) to let the command see the end of its input.
    pub stdin: Option<ChildStdin>,
}

impl Spawned {
    fn start(mut command: Command, text: String) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("could not start {:?}: {e}", command.get_program()));
        Spawned {
            stdout: Reader::start(child.stdout.take()),
            stderr: Reader::start(child.stderr.take()),
            stdin: child.stdin.take(),
            child,
            command: text,
            begun: Instant::now(),
        }
    }

    /// What it has written to standard output so far.
    pub fn out_so_far(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to standard error so far.
    pub fn err_so_far(&self) -> String {
        self.stderr.text()
    }

    /// Its end, if it has ended.
    pub fn try_wait(&mut self) -> Option<Output> {
        self.child
            .try_wait()
            .expect("try_wait")
            .map(|status| self.output(status))
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("try_wait").is_none()
    }

    /// Its end. Panics when that takes longer than the limit.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> Output {
        match self.wait_within(limit) {
            Ok(output) => output,
            Err(output) => panic!("not over after {:.1} s: {output}", limit.as_secs_f64()),
        }
    }

    /// Kills it, and its descendants of the same process group.
    pub fn kill(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        let group = format!("-{}", self.child.id());
        drop(
            Command::new("kill")
                .args(["-KILL", "--", &group])
                .stderr(Stdio::null())
                .status(),
        );
        drop(self.child.kill());
        drop(self.child.wait());
    }

    fn wait_within(&mut self, limit: Duration) -> Result<Output, Output> {
        let begun = Instant::now();
        let mut pause = Duration::from_micros(500);
        loop {
            if let Some(output) = self.try_wait() {
                return Ok(output);
            }
            if begun.elapsed() >= limit {
                self.kill();
                let status = self.child.wait().expect("wait");
                return Err(self.output(status));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    fn output(&mut self, status: ExitStatus) -> Output {
        Output {
            command: self.command.clone(),
            code: status
                .code()
                .or_else(|| status.signal().map(|n| 128 + n))
                .unwrap_or(-1),
            stdout: self.stdout.all(),
            stderr: self.stderr.all(),
            took: self.begun.elapsed(),
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads a pipe to its end in the background.
struct Reader<R> {
    data: Arc<Mutex<Vec<u8>>>,
    /// Another descriptor of the pipe, to see whether there is something in it.
    pipe: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    of: std::marker::PhantomData<R>,
}

impl<R: Read + AsFd + Send + 'static> Reader<R> {
    fn start(pipe: Option<R>) -> Self {
        let data = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&data);
        let watched = pipe
            .as_ref()
            .map(|p| p.as_fd().try_clone_to_owned().expect("a descriptor"));
        let thread = pipe.map(|mut pipe| {
            std::thread::spawn(move || {
                let mut buffer = [0; 65536];
                // What is taken out of the pipe is in `data` before anybody can look.
                while readable(pipe.as_fd(), None) {
                    let mut data = shared.lock().expect("reader");
                    match pipe.read(&mut buffer) {
                        Ok(n @ 1..) => data.extend_from_slice(&buffer[..n]),
                        _ => return,
                    }
                }
            })
        });
        Reader {
            data,
            pipe: watched,
            thread,
            of: std::marker::PhantomData,
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.data.lock().expect("reader")).into_owned()
    }

    /// Everything: the command has ended, and all it wrote is read, however long that takes. What it left running may
    /// hold the pipe open for ever: that is given a moment.
    fn all(&mut self) -> Vec<u8> {
        if let (Some(thread), Some(pipe)) = (self.thread.take(), self.pipe.take()) {
            let mut quiet = Instant::now();
            while !thread.is_finished() && quiet.elapsed() < Duration::from_millis(500) {
                std::thread::sleep(Duration::from_millis(1));
                let _reads = self.data.lock().expect("reader");
                if !thread.is_finished() && readable(pipe.as_fd(), Some(&Timespec::default())) {
                    quiet = Instant::now();
                }
            }
        }
        self.data.lock().expect("reader").clone()
    }
}

/// Whether something, or the end, is to be read.
fn readable(pipe: BorrowedFd<'_>, within: Option<&Timespec>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pipe, PollFlags::IN)];
    loop {
        match poll(&mut fds, within) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            Err(e) => panic!("poll: {e}"),
        }
    }
}
