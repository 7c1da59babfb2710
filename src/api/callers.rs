//! Callers: whose connection a message came from, and how much of us each of them may take up.

use super::units::Units;
use crate::domain::event::Unit;
use crate::domain::{Error, ErrorKind};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zbus::Connection;
use zbus::fdo::DBusProxy;
use zbus::message::Header;
use zbus::names::BusName;

/// Calls of one connection that may be under way at a time.
pub const CALLS_MAX: usize = 256;
/// Calls of one user that may be, over however many connections.
pub const USER_CALLS_MAX: usize = 1_024;
/// Calls of one user that are worked on at a time; more of them wait for each other and for nobody else. It is less than the
/// launches there may be under way, so that one user alone never has them all. Those that only look are as many more, so
/// that who waits for orders that hang still sees why.
pub const USER_AT_WORK_MAX: usize = 48;
/// Descriptors that a call may bring: those of `run --pipe`.
const DESCRIPTORS_MAX: u32 = 3;
/// Callers whose uid is remembered.
pub(super) const CACHE_MAX: usize = 4_096;
/// Look-ups under way: with [polkit's](super::polkit) questions fewer than the 128 dbus-daemon allows a connection.
const LOOK_UPS_AT_ONCE: usize = 32;
/// How long an act waits for its caller's unit: whoever floods holds up nobody else's for longer.
const UNIT_MAX: Duration = Duration::from_secs(2);
/// The bus answers at once, or something is very wrong.
const BUS_MAX: Duration = Duration::from_secs(10);

/// The uids behind unique names, and the calls under way.
///
/// The look-ups go over a connection of their own: property reads hold a lock of the object
/// server meanwhile, and on the connection that serves, the answer could end up waiting behind
/// the very calls that wait for the lock.
#[derive(Debug)]
pub(super) struct Callers {
    bus: DBusProxy<'static>,
    look_ups: Semaphore,
    uids: Mutex<HashMap<String, u32>>,
    units: Units,
    calls: Calls,
    at_work: Mutex<HashMap<(u32, Kind), Arc<Semaphore>>>,
}

/// How many are under way, by whom.
type Calls = Arc<Mutex<HashMap<Who, usize>>>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    Connection(String),
    User(u32),
}

/// What waits for its own kind alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// It tells what is, soon.
    Look,
    /// Whatever changes something, or takes its time.
    Act,
}

impl Kind {
    fn of(member: Option<&str>) -> Self {
        let looks = |member: &str| {
            ["List", "Describe", "Get", "Rank", "Explain"]
                .iter()
                .any(|verb| member.starts_with(verb))
        };
        match member.is_some_and(looks) {
            true => Self::Look,
            false => Self::Act,
        }
    }
}

/// One call that is worked on; dropping it ends it.
#[derive(Debug)]
pub(super) struct Place {
    _counted: [Slot; 2],
    _turn: Option<OwnedSemaphorePermit>,
}

/// One call under way; dropping it ends it.
#[derive(Debug)]
struct Slot {
    who: Who,
    calls: Calls,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = calls.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                calls.remove(&self.who);
            }
        }
    }
}

impl Callers {
    pub(super) async fn new(lookups: &Connection) -> zbus::Result<Self> {
        Ok(Self {
            bus: DBusProxy::new(lookups).await?,
            look_ups: Semaphore::new(LOOK_UPS_AT_ONCE),
            uids: Mutex::default(),
            units: Units::new(lookups).await?,
            calls: Arc::default(),
            at_work: Mutex::default(),
        })
    }

    /// Counts a call in for its connection and its user, or refuses it; then it waits for its turn among its user's.
    pub(super) async fn enter(&self, header: &Header<'_>) -> Result<(u32, Place), Error> {
        // First what needs no answer of the bus.
        if header.unix_fds().is_some_and(|fds| fds > DESCRIPTORS_MAX) {
            let message = format!("A call brings at most {DESCRIPTORS_MAX} descriptors.");
            return Err(Error::new(ErrorKind::LimitsExceeded, message));
        }
        let sender = Who::Connection(sender(header)?.to_owned());
        let connection = self.count(sender, CALLS_MAX, "connection")?;
        let uid = self.uid(header).await?;
        let user = self.count(Who::User(uid), USER_CALLS_MAX, "user")?;
        let kind = Kind::of(header.member().map(|member| member.as_str()));
        let own = line(&self.at_work, uid, kind);
        let place = Place {
            _counted: [connection, user],
            _turn: own.acquire_owned().await.ok(),
        };
        Ok((uid, place))
    }

    fn count(&self, who: Who, most: usize, what: &str) -> Result<Slot, Error> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let count = calls.entry(who.clone()).or_default();
        if *count >= most {
            return Err(Error::new(
                ErrorKind::LimitsExceeded,
                format!(
                    "This {what} has {most} calls under way, which is the most; await some answers first."
                ),
            ));
        }
        *count += 1;
        drop(calls);
        Ok(Slot {
            who,
            calls: Arc::clone(&self.calls),
        })
    }

    /// The uid of a message's sender, from the bus.
    pub(super) async fn uid(&self, header: &Header<'_>) -> Result<u32, Error> {
        let sender = sender(header)?;
        if let Some(uid) = self.lock().get(sender) {
            return Ok(*uid);
        }
        let name = BusName::try_from(sender).map_err(|e| unknown(sender, &e))?;
        let asked = self.bus.get_connection_unix_user(name);
        let uid = self.look_up(sender, asked).await?;
        let mut uids = self.lock();
        if uids.len() >= CACHE_MAX {
            uids.clear();
        }
        uids.insert(sender.to_owned(), uid);
        Ok(uid)
    }

    /// What the bus answers about a sender. The turn among the look-ups is within the time, too.
    async fn look_up<T>(
        &self,
        sender: &str,
        asked: impl Future<Output = zbus::fdo::Result<T>>,
    ) -> Result<T, Error> {
        let answer = async {
            let _turn = self.look_ups.acquire().await;
            asked.await
        };
        match tokio::time::timeout(BUS_MAX, answer).await {
            Ok(found) => found.map_err(|error| unknown(sender, &error)),
            Err(_) => Err(silent(sender)),
        }
    }

    /// The process a message came from.
    pub(super) async fn process(&self, header: &Header<'_>) -> Result<Process, Error> {
        let sender = sender(header)?;
        let name = BusName::try_from(sender).map_err(|e| unknown(sender, &e))?;
        let asked = self.bus.get_connection_credentials(name);
        let found = self.look_up(sender, asked).await?;
        let pid = found.process_id();
        let handle = found.into_process_fd().map(OwnedFd::from);
        let pid = match &handle {
            Some(handle) => pid_of(handle),
            None => pid,
        };
        // 0: it is in another namespace of processes, and to systemd that would be whoever asks.
        let pid = pid.filter(|pid| *pid != 0);
        let pid =
            pid.ok_or_else(|| unknown(sender, &"its process is gone, or not of this host"))?;
        Ok(Process { pid, handle })
    }

    /// The unit a message came from: of the process that opened the connection, when it was asked for first. What is not
    /// told in time is not known.
    pub(super) async fn unit(&self, header: &Header<'_>) -> Option<Unit> {
        let sender = sender(header).ok()?;
        if let Some(known) = self.units.known(sender) {
            return known;
        }
        let found = async {
            let process = self.process(header).await.ok()?;
            let _turn = self.look_ups.acquire().await;
            self.units.find(sender, &process).await
        };
        tokio::time::timeout(UNIT_MAX, found).await.ok().flatten()
    }

    /// A connection is gone. Its name is never given out again.
    pub(super) fn gone(&self, unique_name: &str) {
        self.lock().remove(unique_name);
        self.units.gone(unique_name);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, u32>> {
        self.uids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the calls of this kind of a user wait for each other.
fn line(
    at_work: &Mutex<HashMap<(u32, Kind), Arc<Semaphore>>>,
    uid: u32,
    kind: Kind,
) -> Arc<Semaphore> {
    let mut lines = at_work.lock().unwrap_or_else(PoisonError::into_inner);
    // Who waits or works has a copy.
    lines.retain(|_, line| Arc::strong_count(line) > 1);
    let line = lines
        .entry((uid, kind))
        .or_insert_with(|| Arc::new(Semaphore::new(USER_AT_WORK_MAX)));
    Arc::clone(line)
}

/// The process that opened a connection.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Names this process for ever; buses of a few years ago do not give it.
    pub(super) handle: Option<OwnedFd>,
}

impl Process {
    /// Whether its pid has surely been nobody else's since it opened the connection; what was found
    /// by the pid before is true then.
    pub(super) fn is_surely_it(&self) -> bool {
        self.handle.as_ref().and_then(pid_of) == Some(self.pid)
    }
}

/// The pid of a process that lives, by a descriptor of it.
fn pid_of(handle: &OwnedFd) -> Option<u32> {
    let file = format!("/proc/self/fdinfo/{}", handle.as_raw_fd());
    parse_pid(&std::fs::read_to_string(file).ok()?)
}

/// -1 = it is gone, 0 = it is of another pid namespace.
fn parse_pid(fdinfo: &str) -> Option<u32> {
    let line = fdinfo.lines().find_map(|l| l.strip_prefix("Pid:"))?;
    line.trim().parse().ok().filter(|pid| *pid != 0)
}

/// The unique name a message came from; the bus has put it there.
pub(super) fn sender<'a>(header: &'a Header<'_>) -> Result<&'a str, Error> {
    header.sender().map(|name| name.as_str()).ok_or_else(|| {
        Error::new(
            ErrorKind::NotPermitted,
            "The message names no sender; calls come over a message bus.",
        )
    })
}

fn unknown(sender: &str, why: &dyn std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::NotPermitted,
        format!("The bus does not say which user {sender} belongs to: {why}."),
    )
}

/// It may have the right: nobody can tell now.
fn silent(sender: &str) -> Error {
    Error::new(
        ErrorKind::HostUnavailable,
        format!(
            "The bus has not said for {} s which user {sender} belongs to; nothing was done. Try again in a moment. See: systemctl status dbus.",
            BUS_MAX.as_secs()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::BorrowedFd;
    use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};

    #[test]
    fn orders_that_hang_keep_nobody_from_looking() {
        let at_work = Mutex::default();
        let enter = |uid, member| line(&at_work, uid, Kind::of(Some(member))).try_acquire_owned();
        let orders: Vec<_> = (0..USER_AT_WORK_MAX).map(|_| enter(1, "Stop")).collect();
        assert!(orders.iter().all(Result::is_ok));
        assert!(enter(1, "Launch").is_err() && enter(2, "Launch").is_ok());
        for look in [
            "ListRunners",
            "DescribeRunner",
            "GetRunner",
            "DescribeOutbox",
        ] {
            assert!(enter(1, look).is_ok(), "{look}");
        }
        // Nor does who only looks take more than so much.
        let looks: Vec<_> = (0..USER_AT_WORK_MAX)
            .map(|_| enter(1, "ListEvents"))
            .collect();
        assert!(looks.iter().all(Result::is_ok) && enter(1, "ListHolds").is_err());
        drop(orders);
        assert!(enter(1, "Logs").is_ok());
    }

    /// A bus that takes everything and never says a word.
    #[derive(Debug)]
    struct Mute;

    impl Socket for Mute {
        type ReadHalf = Self;
        type WriteHalf = Self;

        fn split(self) -> Split<Self, Self> {
            Split::new(Self, Self)
        }
    }

    #[async_trait::async_trait]
    impl ReadHalf for Mute {
        async fn recvmsg(&mut self, _: &mut [u8]) -> std::io::Result<(usize, Vec<OwnedFd>)> {
            std::future::pending().await
        }
    }

    #[async_trait::async_trait]
    impl WriteHalf for Mute {
        async fn sendmsg(&mut self, sent: &[u8], _: &[BorrowedFd<'_>]) -> std::io::Result<usize> {
            Ok(sent.len())
        }

        async fn close(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// All look-ups are under way, and none comes to an end.
    #[tokio::test(start_paused = true)]
    async fn a_unit_is_waited_for_only_so_long() {
        let guid = "0123456789abcdef0123456789abcdef";
        let ours = zbus::connection::Builder::authenticated_socket(Mute, guid);
        let callers = Callers::new(&ours.build().await.unwrap()).await.unwrap();
        let call = zbus::Message::method_call("/", "Launch").sender(":1.7");
        let call = call.build(&()).unwrap();
        let unit = async || tokio::time::timeout(BUS_MAX, callers.unit(&call.header())).await;
        let begun = tokio::time::Instant::now();
        let all = u32::try_from(LOOK_UPS_AT_ONCE).unwrap();
        let look_ups = callers.look_ups.acquire_many(all).await.unwrap();
        assert_eq!(unit().await, Ok(None));
        assert_eq!(begun.elapsed(), UNIT_MAX);
        // Nor does it matter whether the bus answers.
        drop(look_ups);
        assert_eq!(unit().await, Ok(None));
        assert_eq!(begun.elapsed(), 2 * UNIT_MAX);
    }

    /// The same of who sent it, without which nothing is done.
    #[tokio::test(start_paused = true)]
    async fn a_sender_is_looked_up_only_so_long() {
        let guid = "0123456789abcdef0123456789abcdef";
        let ours = zbus::connection::Builder::authenticated_socket(Mute, guid);
        let callers = Callers::new(&ours.build().await.unwrap()).await.unwrap();
        let call = zbus::Message::method_call("/", "Launch").sender(":1.7");
        let call = call.build(&()).unwrap();
        let all = u32::try_from(LOOK_UPS_AT_ONCE).unwrap();
        let look_ups = callers.look_ups.acquire_many(all).await.unwrap();
        let looked = async || {
            let begun = tokio::time::Instant::now();
            let header = call.header();
            let whole = 2 * BUS_MAX;
            let uid = tokio::time::timeout(whole, callers.uid(&header)).await;
            assert_eq!(begun.elapsed(), BUS_MAX);
            let process = tokio::time::timeout(whole, callers.process(&header)).await;
            assert_eq!(begun.elapsed(), whole);
            let errors = [uid.unwrap().unwrap_err(), process.unwrap().unwrap_err()];
            for error in errors {
                assert_eq!(error.kind, ErrorKind::HostUnavailable, "{error:?}");
                assert!(error.message.contains("has not said for 10 s"), "{error:?}");
            }
        };
        looked().await;
        drop(look_ups);
        looked().await;
    }

    #[test]
    fn a_process_that_is_gone_has_no_pid() {
        let info = |pid: &str| {
            format!("pos:\t0\nflags:\t02000002\nmnt_id:\t15\nPid:\t{pid}\nNSpid:\t{pid}\n")
        };
        assert_eq!(parse_pid(&info("4711")), Some(4711));
        assert_eq!(parse_pid(&info("-1")), None);
        assert_eq!(parse_pid(&info("0")), None);
        assert_eq!(parse_pid("pos:\t0\n"), None);
    }

    #[test]
    fn a_pidfd_tells_of_its_process_alone() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        let process = Process {
            pid: child.id(),
            handle: Some(handle.unwrap()),
        };
        assert!(process.is_surely_it());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.is_surely_it());
        let unsure = Process {
            pid: 1,
            handle: None,
        };
        assert!(!unsure.is_surely_it());
    }
}
