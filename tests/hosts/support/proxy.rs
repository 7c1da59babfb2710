//! A TCP proxy that makes a link slow, silent or broken at a chosen byte.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who connected to the server.
    ToServer,
    /// The answers.
    ToClient,
}

/// Forwards connections to one server. Dropped, all of them are cut.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    rule: Mutex<Rule>,
    changed: Condvar,
    passed: [AtomicU64; 2],
}

#[derive(Debug)]
struct Rule {
    /// Each piece waits this long before it goes on.
    delay: Duration,
    /// What is paused this way waits until it is resumed.
    paused: [bool; 2],
    /// After so many more bytes this way, everything is cut.
    left: [Option<u64>; 2],
    /// New connections are refused.
    refusing: bool,
    ended: bool,
    links: Vec<TcpStream>,
}

impl Proxy {
    /// Listens at `at` on a free port and forwards to `server`.
    #[track_caller]
    pub fn new(at: Ipv4Addr, server: SocketAddr) -> Self {
        let listener = TcpListener::bind((at, 0)).expect("a port for the proxy");
        let address = listener.local_addr().expect("the proxy's address");
        let shared = Arc::new(Shared {
            server,
            rule: Mutex::new(Rule {
                delay: Duration::ZERO,
                paused: [false; 2],
                left: [None; 2],
                refusing: false,
                ended: false,
                links: Vec::new(),
            }),
            changed: Condvar::new(),
            passed: [AtomicU64::new(0), AtomicU64::new(0)],
        });
        let of_listener = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if of_listener.rule.lock().expect("proxy").ended {
                    return;
                }
                let shared = Arc::clone(&of_listener);
                std::thread::spawn(move || Shared::take(&shared, client));
            }
        });
        Proxy { address, shared }
    }

    /// Where to connect instead of to the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A slow link: each piece of data waits this long, both ways.
    pub fn delay(&self, delay: Duration) {
        self.change(|rule| rule.delay = delay);
    }

    /// From now on nothing goes this way, and nobody is told.
    pub fn pause(&self, way: Way) {
        self.change(|rule| rule.paused[way as usize] = true);
    }

    /// Everything goes on, both ways, with what has waited.
    pub fn resume(&self) {
        self.change(|rule| rule.paused = [false; 2]);
    }

    /// Cuts all connections there are. New ones are taken.
    pub fn cut(&self) {
        self.change(Rule::cut);
    }

    /// Cuts all connections when so many more bytes (at least one) have gone this way: in the middle of a commit, say.
    pub fn cut_after(&self, way: Way, bytes: u64) {
        assert!(bytes > 0, "to cut at once there is cut()");
        self.change(|rule| rule.left[way as usize] = Some(bytes));
    }

    /// Cuts all connections and refuses new ones, or takes them again.
    pub fn refuse(&self, refuse: bool) {
        self.change(|rule| {
            rule.refusing = refuse;
            if refuse {
                rule.cut();
            }
        });
    }

    /// Bytes that have gone this way since the beginning.
    pub fn passed(&self, way: Way) -> u64 {
        self.shared.passed[way as usize].load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut Rule)) {
        change(&mut self.shared.rule.lock().expect("proxy"));
        self.shared.changed.notify_all();
    }
}

impl Rule {
    fn cut(&mut self) {
        for link in self.links.drain(..) {
            drop(link.shutdown(Shutdown::Both));
        }
        self.left = [None; 2];
    }
}

impl Shared {
    /// Serves one client, or closes its connection.
    fn take(shared: &Arc<Self>, client: TcpStream) {
        if shared.rule.lock().expect("proxy").refusing {
            return;
        }
        let Ok(server) = TcpStream::connect_timeout(&shared.server, Duration::from_secs(10)) else {
            return;
        };
        let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else {
            return;
        };
        let mut rule = shared.rule.lock().expect("proxy");
        for link in [&client, &server] {
            drop(link.set_nodelay(true));
            rule.links.extend(link.try_clone().ok());
        }
        if rule.refusing || rule.ended {
            return rule.cut();
        }
        Self::carry(shared, Way::ToServer, client, server);
        Self::carry(shared, Way::ToClient, server_too, client_too);
    }

    fn carry(shared: &Arc<Self>, way: Way, mut from: TcpStream, mut to: TcpStream) {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let mut buffer = [0; 16384];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                let n = shared.may_pass(way, n);
                if n == 0 || to.write_all(&buffer[..n]).is_err() {
                    break;
                }
                shared.passed[way as usize].fetch_add(n as u64, Ordering::Relaxed);
                shared.count(way, n as u64);
            }
            // The end of one side is told to the other, unless the link is silent.
            shared.may_pass(way, 0);
            drop(to.shutdown(Shutdown::Write));
        });
    }

    /// Waits as the rule says, and returns how many of the bytes may go.
    fn may_pass(&self, way: Way, bytes: usize) -> usize {
        let delay = self.rule.lock().expect("proxy").delay;
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let mut rule = self.rule.lock().expect("proxy");
        while rule.paused[way as usize] && !rule.ended {
            rule = self.changed.wait(rule).expect("proxy");
        }
        match rule.left[way as usize] {
            Some(left) => bytes.min(usize::try_from(left).unwrap_or(usize::MAX)),
            None => bytes,
        }
    }

    /// Takes what has gone off what may still go; at the last byte all is cut.
    fn count(&self, way: Way, bytes: u64) {
        let mut rule = self.rule.lock().expect("proxy");
        if let Some(left) = &mut rule.left[way as usize] {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                rule.cut();
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|rule| {
            rule.ended = true;
            rule.cut();
        });
        // Wakes the listener, which then goes.
        drop(TcpStream::connect(self.address));
    }
}
