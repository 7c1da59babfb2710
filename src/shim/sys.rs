//! The few calls that neither std nor rustix offers: fork, execve, signal dispositions and
//! signalfd. The only place of the project with `unsafe`.
#![allow(unsafe_code)]

use rustix::io::Errno;
use rustix::process::Signal;
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_uint};
use std::os::fd::{FromRawFd, OwnedFd};

/// The C library's `sigset_t` (128 bytes in glibc and musl): bit n - 1 stands for signal n.
#[repr(C)]
struct SigSet([u64; 16]);

const NONE: SigSet = SigSet([0; 16]);
const ALL: SigSet = SigSet([u64::MAX; 16]);
const SIG_SETMASK: c_int = 2;
/// rt_sigaction(2), asked directly: the C library's own function leaves out the two signals
/// that it keeps for itself, and they can come in ignored as any other.
#[cfg(target_arch = "x86_64")]
const SYS_RT_SIGACTION: c_long = 13;
#[cfg(any(
    target_arch = "aarch64",
    target_arch = "riscv64",
    target_arch = "loongarch64"
))]
const SYS_RT_SIGACTION: c_long = 134;
#[cfg(target_arch = "x86_64")]
const SYS_KEYCTL: c_long = 250;
#[cfg(any(
    target_arch = "aarch64",
    target_arch = "riscv64",
    target_arch = "loongarch64"
))]
const SYS_KEYCTL: c_long = 219;
const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
const SYS_CLOSE_RANGE: c_long = 436;
const CLOSE_RANGE_CLOEXEC: c_uint = 4;

unsafe extern "C" {
    fn fork() -> c_int;
    fn execve(path: *const c_char, argv: *const *const c_char, env: *const *const c_char) -> c_int;
    fn _exit(status: c_int) -> !;
    fn sigprocmask(how: c_int, set: *const SigSet, old: *mut SigSet) -> c_int;
    fn signalfd(fd: c_int, mask: *const SigSet, flags: c_int) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    #[cfg(target_env = "gnu")]
    fn malloc_trim(pad: usize) -> c_int;
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Whose side of [`fork_here`] we are on.
pub(super) enum Side {
    Child,
    Parent(i32),
}

/// Forks. The shim has one thread, so the child may do what the parent may.
pub(super) fn fork_here() -> Result<Side, Errno> {
    // SAFETY: the process has a single thread, so no lock of the allocator or of std can be
    // held by a thread that the child does not have.
    match unsafe { fork() } {
        -1 => Err(last()),
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent(pid)),
    }
}

/// execve(2); comes back only with an error.
pub(super) fn exec(path: &CStr, argv: &[CString], env: &[CString]) -> Errno {
    let pointers = |list: &[CString]| -> Vec<*const c_char> {
        let ends = std::iter::once(std::ptr::null());
        list.iter().map(|s| s.as_ptr()).chain(ends).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: all three point to NUL-terminated strings or null-terminated arrays of such that
    // outlive the call.
    unsafe { execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    last()
}

/// Ends a forked child without running the parent's exit handlers.
pub(super) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { _exit(status) }
}

/// All signals do what they do by default, whatever was inherited.
pub(super) fn reset_signals() {
    /// The kernel's `struct sigaction`: all zero is SIG_DFL without flags or mask.
    const DEFAULT: [u64; 4] = [0; 4];
    let none = std::ptr::null_mut::<u64>();
    for number in 1..=64 as c_int {
        // SAFETY: the new action is as large as the kernel's struct, the old one is not asked
        // for, and 8 is the size of the kernel's signal set. SIGKILL and SIGSTOP are refused.
        unsafe { syscall(SYS_RT_SIGACTION, number, DEFAULT.as_ptr(), none, 8usize) };
    }
}

/// No signal is blocked.
pub(super) fn unblock_signals() {
    // SAFETY: the set is a valid sigset_t, the old one is not asked for.
    unsafe { sigprocmask(SIG_SETMASK, &NONE, std::ptr::null_mut()) };
}

/// Every signal that can be is blocked and comes out of the returned signalfd instead
/// (non-blocking, close-on-exec).
pub(super) fn block_signals() -> Result<OwnedFd, Errno> {
    let flags = rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
    // SAFETY: the sets are valid; -1 asks for a new descriptor.
    let fd = unsafe {
        sigprocmask(SIG_SETMASK, &ALL, std::ptr::null_mut());
        signalfd(-1, &ALL, flags.bits() as c_int)
    };
    match fd {
        -1 => Err(last()),
        // SAFETY: signalfd has just made it and nobody else has it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// Closes all descriptors from 3 on. Only for the very start, before anything is open.
pub(super) fn close_from_3() {
    // SAFETY: nothing in this process owns a descriptor above 2 yet.
    unsafe { syscall(SYS_CLOSE_RANGE, 3 as c_uint, c_uint::MAX, 0 as c_uint) };
}

/// Nothing from descriptor 3 on survives an exec.
pub(super) fn cloexec_from_3() -> Result<(), Errno> {
    // SAFETY: only sets a flag on descriptors.
    match unsafe {
        syscall(
            SYS_CLOSE_RANGE,
            3 as c_uint,
            c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        )
    } {
        -1 => Err(last()),
        _ => Ok(()),
    }
}

/// Joins a new session keyring, with no key in it.
pub(super) fn join_new_keyring() -> Result<(), Errno> {
    let no_name = std::ptr::null::<c_char>();
    // SAFETY: without a name the kernel makes a keyring that nobody else can join.
    match unsafe { syscall(SYS_KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, no_name) } {
        -1 => Err(last()),
        _ => Ok(()),
    }
}

/// Gives freed memory back to the kernel.
pub(super) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim only touches free chunks.
    unsafe {
        malloc_trim(0)
    };
}

/// A signal by its number, as `domain::signal::check` lets it through.
pub(super) fn signal_from(number: i32) -> Option<Signal> {
    match Signal::from_named_raw(number) {
        Some(named) => Some(named),
        // SAFETY: the real-time signals that the C library leaves to programs.
        None if (34..=64).contains(&number) => Some(unsafe { Signal::from_raw_unchecked(number) }),
        None => None,
    }
}
