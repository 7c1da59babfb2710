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
    if std::io::stdin().is_terminal() {
        eprintln!(
            "stratavore-shim is started by stratavore-agent, with its gate as standard input."
        );
        return ExitCode::from(2);
    }
    stratavore::shim::run()
}
