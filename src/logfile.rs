//! The log file of a runner: the newest of its output, never more than its limit. The shim writes it, the agent reads it.
//!
//! It is two files in one folder. `<id>.log` is written to until it has half of the limit; then it becomes `<id>.old`, in
//! the place of the one before, and another `<id>.log` is begun. Each begins with a line of [`HEADER`] bytes that says
//! which byte of the output comes first in it: so a reader knows in which order they belong together and what it has read
//! already, wherever the writer was killed. `.<id>.new` is a file that was to become `<id>.log`.
//!
//! | file | what |
//! |---|---|
//! | `ring` | when to begin another half, and what is told of output that could not be written. Pure |
//! | `files` | the two files on disk |
//! | `reading` | reading them while they are written |

mod files;
mod reading;
mod ring;

pub use files::{Files, list, remove};
pub use reading::Reading;
pub use ring::{HEADER, Halves, Header, Ring};

fn log_name(id: &str) -> String {
    format!("{id}.log")
}

fn old_name(id: &str) -> String {
    format!("{id}.old")
}

fn new_name(id: &str) -> String {
    format!(".{id}.new")
}
