//! A RabbitMQ of the measurement's own: its own node, ports and folder. The host is a disposable one with a
//! network of its own, so the ports are free.

use crate::Res;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use stratavore::adapters::rabbitmq::{BrokerOptions, Server};
use stratavore::domain::secret::Secret;

const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const PORT: u16 = 5673;
const EPMD: u16 = 4370;
/// The user and the password; nobody else reaches this network.
const USER: &str = "bench";

/// Killed and removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Broker {
    folder: PathBuf,
    process: Child,
    /// How many CPUs there are.
    cpus: usize,
}

impl Broker {
    /// Makes it in `folder`, which is not there yet, and starts it.
    pub(crate) fn start(folder: &Path) -> Res<Self> {
        if !Path::new(PROGRAM).exists() {
            return Err(format!("{PROGRAM} is missing. Get it with: tests/setup.sh bench").into());
        }
        fs::create_dir_all(folder)?;
        fs::write(
            folder.join("rabbitmq.conf"),
            format!(
                "listeners.tcp.1 = 127.0.0.1:{PORT}\ndefault_user = {USER}\ndefault_pass = {USER}\ndisk_free_limit.absolute = 1MB\n"
            ),
        )?;
        fs::write(folder.join("plugins"), "[].\n")?;
        let owned = Command::new("chown")
            .args(["-R", "rabbitmq:rabbitmq"])
            .arg(folder)
            .status()?;
        if !owned.success() {
            return Err(format!("chown {}: {owned}", folder.display()).into());
        }
        let file = |name: &str| folder.join(name).display().to_string();
        let mut server = Command::new("setpriv");
        server.args([
            "--reuid=rabbitmq",
            "--regid=rabbitmq",
            "--clear-groups",
            "--pdeathsig=KILL",
            "--",
            PROGRAM,
        ]);
        server
            .current_dir("/")
            .env("HOME", folder)
            .env("RABBITMQ_NODENAME", "bench@localhost")
            .env("RABBITMQ_DIST_PORT", (PORT + 1).to_string())
            .env("ERL_EPMD_PORT", EPMD.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_MNESIA_BASE", file("mnesia"))
            .env("RABBITMQ_LOG_BASE", file("log"))
            .env("RABBITMQ_LOGS", file("log.txt"))
            .env("RABBITMQ_CONFIG_FILE", file("rabbitmq"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", file("plugins"))
            .env("RABBITMQ_PID_FILE", file("pid"))
            .env("LC_ALL", "C.UTF-8");
        let log = fs::File::create(folder.join("out"))?;
        let process = server
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut broker = Self {
            folder: folder.to_owned(),
            process,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
        };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", PORT)).is_err() {
            let ended = broker.process.try_wait()?.is_some();
            if ended || begun.elapsed() > Duration::from_secs(90) {
                let said = fs::read_to_string(folder.join("out")).unwrap_or_default();
                return Err(format!("RabbitMQ does not start: {said}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(broker)
    }

    /// Gives it the first half of the CPUs and the rest to who measures, or everybody all of them.
    pub(crate) fn keep_apart(&self, is_apart: bool) -> Res<()> {
        let all = self.cpus;
        let (first, second) = match (is_apart, all) {
            (true, 2..) => (
                format!("0-{}", all / 2 - 1),
                format!("{}-{}", all / 2, all - 1),
            ),
            _ => (format!("0-{}", all - 1), format!("0-{}", all - 1)),
        };
        let found = Command::new("pgrep").args(["-u", "rabbitmq"]).output()?;
        for pid in String::from_utf8_lossy(&found.stdout).split_whitespace() {
            bind(&first, pid)?;
        }
        bind(&second, &std::process::id().to_string())
    }

    /// Where it is, for a relay.
    pub(crate) fn options(&self, exchange: &str) -> BrokerOptions {
        BrokerOptions {
            servers: vec![Server {
                host: "127.0.0.1".to_owned(),
                port: PORT,
                tls: false,
                external: false,
                user: USER.to_owned(),
                vhost: "/".to_owned(),
            }],
            password: Some(Secret::new(USER.to_owned())),
            ca: None,
            certificate: None,
            exchange: exchange.to_owned(),
            name: "bench".to_owned(),
        }
    }

    /// Where it is, for lapin alone.
    pub(crate) fn url(&self) -> String {
        format!("amqp://{USER}:{USER}@127.0.0.1:{PORT}/%2f")
    }
}

/// Binds a process with all its threads.
fn bind(cpus: &str, pid: &str) -> Res<()> {
    let bound = Command::new("taskset")
        .args(["-a", "-p", "-c", cpus, pid])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    match bound.success() || !Path::new("/proc").join(pid).exists() {
        true => Ok(()),
        false => Err(format!("taskset -a -p -c {cpus} {pid}: {bound}").into()),
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // The script that was started has the node as its child.
        let _ = Command::new("pkill")
            .args(["-KILL", "-u", "rabbitmq"])
            .status();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
