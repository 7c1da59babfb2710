//! `completions`: what a shell has to load so that the Tab key knows our words. The shell then
//! asks this program at each press, so that it knows what lives just now.

use super::args::{Cli, Shell};
use super::failure::{FAILED, Failure, Result};
use clap::CommandFactory;
use clap_complete::env::{CompleteEnv, Shells};

/// In the environment when a shell asks.
const ASKED: &str = "STRATAVORECTL_COMPLETE";
const NAME: &str = "stratavorectl";

/// Answers a shell that asks, and ends the program then.
pub(super) fn answer() {
    if std::env::var_os(ASKED).is_some() {
        CompleteEnv::with_factory(Cli::command)
            .var(ASKED)
            .bin(NAME)
            .completer(NAME)
            .complete();
    }
}

/// What the shell loads.
pub(super) fn script(shell: Shell) -> Result<String> {
    let name = shell.name();
    let failed = |why: String| {
        Failure::new(
            FAILED,
            format!("Completions for {name} can't be made: {why}"),
        )
    };
    let shells = Shells::builtins();
    let completer = shells
        .completer(name)
        .ok_or_else(|| failed("no such shell".to_owned()))?;
    let mut out = Vec::new();
    completer
        .write_registration(ASKED, NAME, NAME, NAME, &mut out)
        .map_err(|e| failed(e.to_string()))?;
    let text = String::from_utf8(out).map_err(|e| failed(e.to_string()))?;
    // Found in $fpath, zsh runs the whole file at the first Tab: it is to answer that one, too.
    let first = match shell {
        Shell::Zsh => {
            "[ \"$funcstack[1]\" = _stratavorectl ] && _clap_dynamic_completer_stratavorectl \"$@\"\n"
        }
        Shell::Bash | Shell::Fish => "",
    };
    Ok(format!("{}\n{first}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is installed is what the program prints: `UPDATE_GOLDEN=1` writes it anew.
    #[test]
    fn installed_completions_are_these() -> std::io::Result<()> {
        for (shell, file) in [
            (Shell::Bash, "stratavorectl.bash"),
            (Shell::Zsh, "stratavorectl.zsh"),
            (Shell::Fish, "stratavorectl.fish"),
        ] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("systemd/completions")
                .join(file);
            let text = script(shell).map_err(|f| std::io::Error::other(f.message))?;
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
                std::fs::write(&path, &text)?;
            }
            assert_eq!(
                std::fs::read_to_string(&path)?,
                text,
                "{file}: run this test with UPDATE_GOLDEN=1"
            );
        }
        Ok(())
    }
}
