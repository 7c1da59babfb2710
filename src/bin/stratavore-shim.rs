//! The parent of one runner; see `stratavore::shim`.

use std::io::IsTerminal;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|arg| arg == "--version")
    {
        println!("stratavore-shim {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if let [first, rest @ ..] = &words[..]
        && first == stratavore::wire::WITHOUT_PRIVILEGES
    {
        return stratavore::shim::exec_without_privileges(rest);
    }
    if std::io::stdin().is_terminal() {
        eprintln!(
            "stratavore-shim is started by stratavore-agent, with its gate as standard input."
        );
        return ExitCode::from(2);
    }
    stratavore::shim::run()
}
