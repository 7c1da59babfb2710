//! A terminal of one's own: keys as they are pressed, a screen that is given back as it was.

use super::failure::Result;
use rustix::termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use std::io::Write;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    Time,
    Key(char),
    /// The terminal has another size.
    Size,
    /// Ctrl+C, or we are told to end.
    Quit,
}

/// The keyboard and the screen, until it is dropped. Without a terminal only time passes.
#[derive(Debug)]
pub(super) struct Keyboard {
    keys: Option<mpsc::Receiver<char>>,
    before: Option<Termios>,
    screen: bool,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    size: Signal,
}

impl Keyboard {
    /// Takes the terminal, if there is one to be taken.
    pub(super) fn new(screen: bool) -> Result<Self> {
        let mut out = Self {
            keys: None,
            before: None,
            screen,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            size: signal(SignalKind::window_change())?,
        };
        let stdin = std::io::stdin();
        if screen && isatty(&stdin) {
            let before = tcgetattr(&stdin).map_err(std::io::Error::from)?;
            let mut raw = before.clone();
            raw.local_modes
                .remove(LocalModes::ICANON | LocalModes::ECHO);
            tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(std::io::Error::from)?;
            out.before = Some(before);
            out.keys = Some(keys());
        }
        if screen {
            write("\x1b[?1049h\x1b[?25l");
        }
        Ok(out)
    }

    /// Waits until somebody wants to leave; other keys are lost.
    pub(super) async fn quit(&mut self) {
        while !matches!(self.wait(Duration::MAX).await, Wake::Quit | Wake::Key('q')) {}
    }

    /// Waits for a key, but no longer than this.
    pub(super) async fn wait(&mut self, time: Duration) -> Wake {
        tokio::select! {
            () = tokio::time::sleep(time) => Wake::Time,
            _ = self.interrupt.recv() => Wake::Quit,
            _ = self.terminate.recv() => Wake::Quit,
            _ = self.hangup.recv() => Wake::Quit,
            _ = self.size.recv() => Wake::Size,
            key = key(self.keys.as_mut()) => match key {
                Some(key) => Wake::Key(key),
                // The terminal has gone.
                None => Wake::Quit,
            },
        }
    }
}

/// Keys as they come. The thread that reads them ends with the terminal or with the program.
fn keys() -> mpsc::Receiver<char> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok(1..) = rustix::io::read(std::io::stdin(), &mut buffer) {
            if sender.blocking_send(char::from(buffer[0])).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The next key; never, where there is no keyboard.
async fn key(keys: Option<&mut mpsc::Receiver<char>>) -> Option<char> {
    match keys {
        Some(keys) => keys.recv().await,
        None => std::future::pending().await,
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
        if self.screen {
            write("\x1b[?25h\x1b[?1049l");
        }
    }
}

fn write(text: &str) {
    let mut stdout = std::io::stdout();
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}
