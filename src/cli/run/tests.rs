//! Tests of `run`: what it exits with, and what it is given.

use super::*;

#[test]
fn statuses_of_shells() {
    const ID: &str = " (runner 0193c1d2-0000-7000-8000-000000000001)";
    let of = |command: &str, message: &str| {
        let bare = exec_status(message, command, "/srv/x");
        let told = exec_status(&format!("{message}{ID}"), command, "/srv/x");
        assert_eq!(bare, told, "{message}");
        told
    };
    for (command, message, status) in [
        ("x", "x: not found in PATH=/bin", 127),
        ("x", "x: not found in PATH=/a (errno 13)", 127),
        ("x", "x: not found in PATH, which /e (errno 13) sets", 127),
        (
            "x",
            "…/x: Permission denied (errno 13): is it executable?",
            126,
        ),
        ("/x", "/x: No such file or directory (errno 2)", 127),
        (
            "/x",
            "/x: No such file or directory (errno 2): the interpreter that it names is missing",
            127,
        ),
        (
            "/tmp/user x",
            "/tmp/user x: No such file or directory (errno 2)",
            127,
        ),
        (
            "/working directory ",
            "/working directory : No such file or directory (errno 2)",
            127,
        ),
        (
            "/x",
            "/x: Permission denied (errno 13): is it executable?",
            126,
        ),
        (
            "x",
            "/bin/x: Permission denied (errno 13): is it executable?",
            126,
        ),
        (
            "/x",
            "/x: Permission denied (errno 13): it is a directory",
            126,
        ),
        (
            "/x",
            "/x: Exec format error (errno 8): a script needs a first line such as “#!/bin/sh”",
            126,
        ),
        (
            "/x",
            "/x: Argument list too long (errno 7): the command and its environment are too large",
            125,
        ),
        (
            "/x",
            "working directory /srv/x: No such file or directory (errno 2)",
            125,
        ),
        (
            "x",
            "working directory /srv/x: No such file or directory (errno 2)",
            125,
        ),
        ("/x", "user 1000: Operation not permitted (errno 1)", 125),
        ("(errno 2)", "the agent refused (errno 2)", 125),
        ("x", "not found in PATH", 125),
    ] {
        assert_eq!(of(command, message), status, "{command}: {message}");
    }
    let long = "/".repeat(400);
    let message = format!("{}: No such file or directory (errno 2)", clip(&long));
    assert_eq!(of(&long, &message), 127);
}

#[test]
fn relative_directories_are_meant_from_here() {
    assert_eq!(absolute("/srv").ok().as_deref(), Some("/srv"));
    assert!(absolute("x").is_ok_and(|p| p.starts_with('/') && p.ends_with("/x")));
    assert!(setenv("NO_SUCH_VARIABLE_HERE").is_err());
    assert_eq!(setenv("A=b=c").ok().as_deref(), Some("A=b=c"));
}

#[test]
fn a_variable_has_a_name() {
    let refused = setenv("").unwrap_err();
    assert!(
        refused.status == USAGE && refused.message.starts_with("-E: "),
        "{refused:?}"
    );
}

#[test]
fn tokens_have_units_and_a_file_may_be_missing() {
    use crate::cli::args::{Cli, Verb};
    use clap::Parser;
    let given = |words: &[&str]| {
        let words = [&["stratavorectl", "run", "web"], words, &["--", "true"]].concat();
        match Cli::try_parse_from(words).ok()?.verb {
            Verb::Run(args) => options(&args, false).ok(),
            _ => None,
        }
    };
    let of = |words: &[&str], key| given(words)?.remove(key);
    assert_eq!(
        of(&["--tokens", "2M"], "tokens"),
        Some(Variant::U64(2_000_000))
    );
    assert_eq!(of(&["--tokens", "2X"], "tokens"), None);
    let files = Variant::from(vec!["-/nowhere/e".to_owned()]);
    assert_eq!(of(&["--env-file", "-/nowhere/e"], "env-file"), Some(files));
}
