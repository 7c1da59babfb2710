//! The child from fork to exec. Nothing of the shim is left in what it becomes: no descriptor
//! but 0 to 2, no environment, no signal setting, no protection from the OOM killer.

use super::inputs::{self, Vault};
use super::{capabilities, gate, journal, sys};
use crate::crash;
use crate::domain::exit::LaunchError;
use crate::domain::inputs::Inputs;
use crate::wire::{Identity, Passed, ShimOrder};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, chdir, getpriority_process, getrlimit,
    set_dumpable_behavior, setpriority_process, setrlimit, setsid, umask,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::{
    CapabilitySet, clear_ambient_capability_set, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};
use rustix::{fs::Gid, fs::Uid};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// Sent through the pipe just before exec: only what comes without it died before.
const READY: u8 = b'!';
/// The search path of a command whose environment has no PATH, as execvp(3) has it.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// What to run, ready for exec.
pub(super) struct Plan {
    argv: Vec<CString>,
    env: Vec<CString>,
    directory: String,
    identity: Option<Identity>,
    nofile: (u64, u64),
    /// The caller's, by number.
    streams: [Option<OwnedFd>; 3],
    inputs: Inputs,
    /// The folder for credentials.
    vault: Option<OwnedFd>,
}

impl Plan {
    /// Takes what it needs out of the order; `Err` names what is wrong with it.
    pub(super) fn new(order: &mut ShimOrder) -> Result<Self, &'static str> {
        let c = |list: Vec<String>| {
            list.into_iter()
                .map(CString::new)
                .collect::<Result<Vec<_>, _>>()
        };
        let argv = c(std::mem::take(&mut order.command)).map_err(|_| "NUL byte in the command")?;
        if argv.first().is_none_or(|c| c.is_empty()) {
            return Err("the command is empty");
        }
        Ok(Self {
            argv,
            env: c(std::mem::take(&mut order.env)).map_err(|_| "NUL byte in the environment")?,
            directory: std::mem::take(&mut order.working_directory),
            identity: order.identity.take(),
            nofile: order.nofile,
            streams: Default::default(),
            inputs: std::mem::take(&mut order.inputs),
            vault: None,
        })
    }

    /// Takes a descriptor that came with the order.
    pub(super) fn pass(&mut self, what: Passed, fd: OwnedFd) {
        let at = match what {
            Passed::Stdin => 0,
            Passed::Stdout => 1,
            Passed::Stderr => 2,
            Passed::Credentials => {
                self.vault = Some(fd);
                return;
            }
            Passed::Logs => return,
        };
        self.streams[at] = Some(fd);
    }

    /// Makes the files for its credentials, if it has any.
    pub(super) fn vault(&mut self, id: &str) -> Result<Option<(Vault, Vec<File>)>, LaunchError> {
        let reader = self.identity.as_ref().map(|i| i.uid);
        match (self.vault.take(), self.inputs.credentials.is_empty()) {
            (_, true) => Ok(None),
            (Some(base), false) => Vault::make(base, id, &self.inputs, reader).map(Some),
            (None, false) => {
                let why = "the shim was given no folder for credentials";
                Err(failed("credentials", Errno::BADF, why))
            }
        }
    }
}

/// What the pipe from the child says.
#[derive(Debug)]
pub(super) enum Said {
    /// Nothing yet.
    Nothing,
    /// The command runs.
    Started,
    /// It does not.
    Failed(LaunchError),
}

/// A forked child that has not been heard of yet.
#[derive(Debug)]
pub(super) struct Launching {
    /// To be polled.
    pub(super) pipe: File,
    heard: Vec<u8>,
}

impl Launching {
    /// Reads on; the pipe does not block.
    pub(super) fn hear(&mut self) -> Said {
        let mut part = [0; 512];
        loop {
            match self.pipe.read(&mut part) {
                Ok(0) => return said(&self.heard),
                Ok(n) => self.heard.extend_from_slice(part.get(..n).unwrap_or(&[])),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Said::Nothing,
                Err(_) => return said(&self.heard),
            }
        }
    }
}

fn said(heard: &[u8]) -> Said {
    match heard {
        [READY] => Said::Started,
        [READY, json @ ..] | json => {
            Said::Failed(serde_json::from_slice(json).unwrap_or_else(|_| {
                let message = "the process was killed before it could run the command".to_owned();
                LaunchError {
                    step: "start".to_owned(),
                    errno: 0,
                    message,
                }
            }))
        }
    }
}

/// Forks. Output that the caller has not given a descriptor for goes into `log`, else to the
/// journal where there is one.
pub(super) fn launch(
    plan: &Plan,
    mut credentials: Vec<File>,
    log: Option<OwnedFd>,
    identifier: &str,
    cgroup: &str,
    oom_score: i32,
) -> Result<(i32, Launching), LaunchError> {
    let fail =
        |what: &str, errno: Errno| failed("fork", errno, &format!("{what}: {}", text(errno)));
    let output = match plan.streams {
        [_, Some(_), Some(_)] => None,
        _ => log.or_else(|| journal::stream(identifier, cgroup)),
    };
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| fail("a pipe", e))?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(|e| fail("a pipe", e))?;
    match sys::fork_here().map_err(|e| fail("a new process", e))? {
        sys::Side::Parent(pid) => {
            crash::point("shim.forked");
            Ok((
                pid,
                Launching {
                    pipe: File::from(ours),
                    heard: Vec::new(),
                },
            ))
        }
        sys::Side::Child => {
            let mut pipe = File::from(theirs);
            let error = match prepare(plan, &mut credentials, output, oom_score) {
                Ok((env, path_by)) => {
                    let _ = pipe.write_all(&[READY]);
                    exec(plan, &env, path_by.as_deref())
                }
                Err(error) => error,
            };
            let _ = pipe.write_all(&serde_json::to_vec(&error).unwrap_or_default());
            sys::exit_now(127)
        }
    }
}

/// Returns the environment, and the file that set its PATH.
fn prepare(
    plan: &Plan,
    credentials: &mut [File],
    output: Option<OwnedFd>,
    oom_score: i32,
) -> Result<(Vec<CString>, Option<String>), LaunchError> {
    let step = |step: &'static str, what: &'static str| {
        move |errno: Errno| failed(step, errno, &format!("{what}: {}", text(errno)))
    };
    sys::unblock_signals();
    setsid().map_err(step("session", "a new session"))?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let null = null.map_err(step("stdio", "/dev/null"))?;
    let output = output.as_ref().unwrap_or(&null);
    let [stdin, stdout, stderr] = plan.streams.each_ref().map(Option::as_ref);
    dup2_stdin(stdin.unwrap_or(&null)).map_err(step("stdio", "standard input"))?;
    dup2_stdout(stdout.unwrap_or(output)).map_err(step("stdio", "standard output"))?;
    dup2_stderr(stderr.unwrap_or(output)).map_err(step("stdio", "standard error"))?;
    if plan.identity.is_none() {
        // Else the file below belongs to root. What the shim does not show (its order), the
        // child has as its environment in a moment anyway.
        let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    }
    let set = std::fs::write("/proc/self/oom_score_adj", oom_score.to_string());
    if let (0, Err(error)) = (oom_score, set) {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        return Err(step("oom-score", "/proc/self/oom_score_adj")(errno));
    }
    if getpriority_process(None) == Ok(gate::NICE) {
        setpriority_process(None, 0).map_err(step("priority", "priority"))?;
    }
    new_keyring(plan.identity.is_some()).map_err(step("session", "a new session keyring"))?;
    limit_files(plan.nofile).map_err(step("limits", "the limit on open files"))?;
    umask(Mode::WGRP | Mode::WOTH);
    if let Some(identity) = &plan.identity {
        become_user(identity).map_err(|errno| {
            let what = format!("user {}: {}", identity.uid, text(errno));
            failed("user", errno, &what)
        })?;
    }
    let _ = clear_ambient_capability_set();
    // What is read now is in nobody's dump of us; exec makes the command an ordinary process.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(step("user", "no dump"))?;
    // With no other rights than the command itself will have.
    let taken = inputs::take(&plan.inputs, credentials, &plan.env)?;
    chdir(plan.directory.as_str()).map_err(|errno| {
        let what = format!(
            "working directory {}: {}",
            clip(&plan.directory),
            text(errno)
        );
        failed("working-directory", errno, &what)
    })?;
    sys::cloexec_from_3().map_err(step("stdio", "close-on-exec"))?;
    Ok(taken)
}

/// The runner's keys are for itself: without this, all of the agent's runners would share its
/// session keyring. It is made while we are root, as systemd does it: it counts to root's quota,
/// a user's is 200 keys. A kernel without keyrings has nothing to share, and a container that
/// forbids the call (EPERM) forbids the others, too.
fn new_keyring(as_root: bool) -> Result<(), Errno> {
    match sys::join_new_keyring() {
        Err(errno) if as_root && !matches!(errno, Errno::NOSYS | Errno::PERM) => Err(errno),
        _ => Ok(()),
    }
}

/// Soft and hard. Where we may not raise the hard limit, it stays.
fn limit_files((soft, hard): (u64, u64)) -> Result<(), Errno> {
    let wanted = Rlimit {
        current: Some(soft.min(hard)),
        maximum: Some(hard),
    };
    match setrlimit(Resource::Nofile, wanted) {
        Err(Errno::PERM) => {
            let most = getrlimit(Resource::Nofile).maximum;
            let current = most.map_or(soft, |most| soft.min(most));
            setrlimit(
                Resource::Nofile,
                Rlimit {
                    current: Some(current),
                    maximum: most,
                },
            )
        }
        other => other,
    }
}

/// Groups, group, user; for anybody but root no capability is left and no way back.
fn become_user(identity: &Identity) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let groups: Vec<Gid> = identity.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    if uid.is_root() {
        return Ok(());
    }
    capabilities::keep(CapabilitySet::empty())?;
    match set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT) {
        Err(_) => Ok(()),
        Ok(()) => Err(Errno::PERM),
    }
}

/// execvp(3)'s rules over the PATH that the command itself gets, but a script without its
/// first line is an error (as with systemd) and not handed to a shell.
/// A PATH that a file sets is not told: what is in the file may be secret.
fn exec(plan: &Plan, env: &[CString], path_by: Option<&str>) -> LaunchError {
    let path = env.iter().find_map(|e| e.to_bytes().strip_prefix(b"PATH="));
    let path = path.map_or(DEFAULT_PATH.into(), String::from_utf8_lossy);
    let Some(command) = plan.argv.first() else {
        return failed("exec", Errno::INVAL, "the command is empty");
    };
    let name = command.to_string_lossy();
    if name.contains('/') {
        let errno = sys::exec(command, &plan.argv, env);
        return failed("exec", errno, &explain(command.as_bytes(), &name, errno));
    }
    let wrong = |file: CString, errno: Errno| {
        let shown = match path_by {
            None => file.to_string_lossy().into_owned(),
            Some(_) => format!("…/{name}"),
        };
        failed("exec", errno, &explain(file.as_bytes(), &shown, errno))
    };
    let mut denied = None;
    for folder in path.split(':') {
        let folder = if folder.is_empty() { "." } else { folder };
        let Ok(file) = CString::new([folder.as_bytes(), b"/", command.as_bytes()].concat()) else {
            continue;
        };
        match sys::exec(&file, &plan.argv, env) {
            Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::NODEV | Errno::TIMEDOUT => {}
            Errno::ACCESS => {
                denied.get_or_insert(file);
            }
            errno => return wrong(file, errno),
        }
    }
    match denied {
        Some(file) => wrong(file, Errno::ACCESS),
        None => {
            let path = match path_by {
                None => format!("={}", clip(&path)),
                Some(file) => format!(", which {file} sets"),
            };
            let what = format!("{}: not found in PATH{path}", clip(&name));
            failed("exec", Errno::NOENT, &what)
        }
    }
}

/// A sentence that says what to do about it.
fn explain(file: &[u8], shown: &str, errno: Errno) -> String {
    let found = std::fs::metadata(OsStr::from_bytes(file));
    let hint = match errno {
        Errno::NOENT if found.is_ok() => ": the interpreter that it names is missing",
        Errno::ACCESS if found.is_ok_and(|f| f.is_dir()) => ": it is a directory",
        Errno::ACCESS => ": is it executable?",
        Errno::NOEXEC => ": a script needs a first line such as “#!/bin/sh”",
        Errno::TOOBIG => ": the command and its environment are too large",
        _ => "",
    };
    format!("{}: {}{hint}", clip(shown), text(errno))
}

/// A launch error, bounded.
pub(super) fn failed(step: &str, errno: Errno, message: &str) -> LaunchError {
    LaunchError {
        step: step.to_owned(),
        errno: errno.raw_os_error(),
        message: message.to_owned(),
    }
}

/// `No such file or directory (errno 2)`.
pub(super) fn text(errno: Errno) -> String {
    let known = std::io::Error::from(errno).to_string();
    known.replace("(os error ", "(errno ")
}

/// Long names shortened, so that a record stays small.
pub(super) fn clip(text: &str) -> String {
    match text.char_indices().nth(300) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pipe_says() {
        assert!(matches!(said(b"!"), Said::Started));
        let killed = |bytes: &[u8]| matches!(said(bytes), Said::Failed(e) if e.step == "start");
        assert!(killed(b"") && killed(b"{\"st"));
        let error = failed("exec", Errno::NOENT, "x: not found");
        let json = serde_json::to_vec(&error).unwrap_or_default();
        for bytes in [json.clone(), [b"!", &json[..]].concat()] {
            assert!(matches!(said(&bytes), Said::Failed(e) if e == error));
        }
    }

    #[test]
    fn errors_carry_their_number() {
        assert_eq!(text(Errno::NOENT), "No such file or directory (errno 2)");
        assert_eq!(
            explain(b"/nowhere/x", "/nowhere/x", Errno::ACCESS),
            "/nowhere/x: Permission denied (errno 13): is it executable?"
        );
        assert_eq!(clip(&"ä".repeat(301)).chars().count(), 301);
    }
}
