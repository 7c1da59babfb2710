//! A program without privileges for the agent: the shim's other use. The agent may start a
//! program but not change what it is born with, and root's programs are born with everything.

use super::{capabilities, sys};
use crate::wire::WITHOUT_PRIVILEGES;
use rustix::process::geteuid;
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, clear_ambient_capability_set,
    set_capabilities_secure_bits, set_no_new_privs,
};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Among the first to go when memory is short: it can be had again.
const OOM_SCORE_ADJ: &str = "500";

/// Becomes the program in `words`: root by name, which may read what is root's, but without any
/// capability and with no way to one.
pub fn exec(words: &[OsString]) -> ExitCode {
    let Some((program, arguments)) = words.split_first() else {
        eprintln!("stratavore-shim {WITHOUT_PRIVILEGES} needs a program.");
        return ExitCode::from(2);
    };
    sys::close_from_3();
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    if geteuid().is_root() && give_up().is_err() {
        eprintln!("stratavore-shim can't give up its privileges.");
        return ExitCode::from(125);
    }
    sys::reset_signals();
    sys::unblock_signals();
    let error = Command::new(program).args(arguments).exec();
    eprintln!("{}: {error}", program.display());
    ExitCode::from(127)
}

fn give_up() -> rustix::io::Result<()> {
    // From now on root's exec brings nothing back.
    set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED,
    )?;
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    capabilities::keep(CapabilitySet::empty())
}
