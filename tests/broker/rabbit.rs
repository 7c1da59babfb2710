//! A RabbitMQ of the tests' own: its own node name, ports, epmd and folder. The password is made up, so
//! what lets us in is what we have started. Whatever becomes of the test, it is stopped and removed.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use stratavore::adapters::rabbitmq::{BrokerOptions, Server};
use stratavore::domain::secret::Secret;

/// Cleans up when the tests are over, however they end: in a group of its own, it outlives what ends theirs. Under another
/// name the folder takes in no server that was just being started.
const KEEPER: &str = r#"
    cat > /dev/null
    over=$1.over
    mv "$1" "$over"
    for group in "$over"/group.*; do
        group=${group##*.}
        for try in 1 2 3 4 5 6 7 8 9; do kill -s KILL -- "-$group" || break; sleep 0.1; done
    done
    for try in 1 2 3 4 5 6 7 8 9; do epmd -kill && break; sleep 0.1; done
    rm -rf "$over"
"#;

/// Notes the group that the server is in before there is any of it.
const SERVER: &str = r#": > "$0/group.$$" && exec "$@""#;

const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

pub(crate) struct Rabbit {
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    pub(crate) tls_port: u16,
    environment: Vec<(&'static str, String)>,
    pub(crate) password: String,
    server: std::sync::Mutex<Option<Child>>,
    /// Its standard input is ours: when that closes, it cleans up.
    keeper: Child,
}

fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

fn unprivileged(program: &str) -> Command {
    let path = Path::new(PROGRAMS).join(program);
    assert!(
        path.exists(),
        "RabbitMQ is needed ({} is not there): tests/setup.sh test installs it",
        path.display()
    );
    as_rabbitmq(&path)
}

fn as_rabbitmq(path: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=rabbitmq",
        "--regid=rabbitmq",
        "--clear-groups",
        "--",
    ]);
    command.arg(path).current_dir("/");
    command
}

impl Rabbit {
    /// The one that tests share which do it no harm.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Rabbit> = OnceLock::new();
        SHARED.get_or_init(|| Self::new("", ""))
    }

    /// One with these lines in its configuration, and these plugins.
    pub(crate) fn new(settings: &str, plugins: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("stratavore-rabbit-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        Self::made(folder, settings, plugins)
    }

    pub(crate) fn made(folder: PathBuf, settings: &str, plugins: &str) -> Self {
        let (port, tls_port, epmd) = (free_port(), free_port(), free_port());
        let password = uuid::Uuid::now_v7().to_string();
        let settings = settings.replace("TLS_PORT", &tls_port.to_string());
        let settings = settings.replace("FOLDER", &folder.display().to_string());
        let conf = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\ndefault_user = relay\ndefault_pass = {password}\ndisk_free_limit.absolute = 1MB\n{settings}\n"
        );
        std::fs::write(folder.join("rabbitmq.conf"), conf).unwrap();
        std::fs::write(folder.join("plugins"), format!("[{plugins}].\n")).unwrap();
        if rustix::process::geteuid().is_root() {
            let mut chown = Command::new("chown");
            let status = chown
                .args(["-R", "rabbitmq:rabbitmq"])
                .arg(&folder)
                .status();
            assert!(
                status.unwrap().success(),
                "tests/setup.sh test installs RabbitMQ and its user"
            );
        }
        let file = |name: &str| folder.join(name).display().to_string();
        let environment = vec![
            ("HOME", folder.display().to_string()),
            ("RABBITMQ_NODENAME", format!("stratavore{port}@localhost")),
            ("RABBITMQ_DIST_PORT", free_port().to_string()),
            ("ERL_EPMD_PORT", epmd.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_MNESIA_BASE", file("mnesia")),
            ("RABBITMQ_LOG_BASE", file("log")),
            ("RABBITMQ_LOGS", file("log.txt")),
            ("RABBITMQ_CONFIG_FILE", file("rabbitmq")),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", file("plugins")),
            ("RABBITMQ_PID_FILE", file("pid")),
            ("LC_ALL", "C.UTF-8".to_owned()),
            // Two processors are enough for a test's broker.
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 2:2".to_owned()),
        ];
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&folder)
            .env("ERL_EPMD_PORT", epmd.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let rabbit = Self {
            folder,
            port,
            tls_port,
            environment,
            password,
            server: std::sync::Mutex::default(),
            keeper,
        };
        rabbit.start();
        rabbit
    }

    pub(crate) fn start(&self) {
        let log = std::fs::File::create(self.folder.join("out")).unwrap();
        let server = unprivileged("rabbitmq-server");
        let mut command = Command::new("sh");
        command
            .args(["-c", SERVER])
            .arg(&self.folder)
            .arg(server.get_program())
            .args(server.get_args())
            .current_dir("/")
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0);
        let child = command.spawn().unwrap();
        *self.server.lock().unwrap() = Some(child);
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let said = || std::fs::read_to_string(self.folder.join("out")).unwrap_or_default();
            assert!(
                begun.elapsed() < Duration::from_secs(90),
                "RabbitMQ does not start: {}",
                said()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn end(&self, signal: rustix::process::Signal) {
        let Some(mut child) = self.server.lock().unwrap().take() else {
            return;
        };
        let group = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process_group(group, signal).unwrap();
        let begun = Instant::now();
        // Its last process may be longer about it than its port and its first one.
        while child.try_wait().unwrap().is_none()
            || rustix::process::test_kill_process_group(group).is_ok()
        {
            if begun.elapsed() > Duration::from_secs(30) {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = std::fs::remove_file(self.folder.join(format!("group.{}", child.id())));
    }

    /// As a clean shutdown would.
    pub(crate) fn stop(&self) {
        self.end(rustix::process::Signal::TERM);
    }

    /// As a power cut would.
    pub(crate) fn kill(&self) {
        self.end(rustix::process::Signal::KILL);
    }

    pub(crate) fn control(&self, words: &[&str]) {
        let mut command = unprivileged("rabbitmqctl");
        command
            .arg("-q")
            .args(words)
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
    }

    /// Runs a shell script as the broker's user, with rabbitmqctl on its path and this credential.
    pub(crate) fn script(&self, text: &str, words: &[&str], password: &str) {
        let credentials = self.folder.join(uuid::Uuid::now_v7().to_string());
        std::fs::create_dir(&credentials).unwrap();
        std::fs::write(credentials.join("password"), password).unwrap();
        let mut command = as_rabbitmq(Path::new("/bin/sh"));
        let path = format!("{PROGRAMS}:/usr/bin:/bin");
        command
            .args(["-c", text, "script"])
            .args(words)
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .env("PATH", path)
            .env("CREDENTIALS_DIRECTORY", &credentials)
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        assert!(
            !said.contains(password) && !String::from_utf8_lossy(&output.stdout).contains(password)
        );
    }

    pub(crate) fn server(&self) -> Server {
        Server {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            tls: false,
            external: false,
            user: "relay".to_owned(),
            vhost: "/".to_owned(),
        }
    }

    pub(crate) fn options(&self, exchange: &str) -> BrokerOptions {
        BrokerOptions {
            servers: vec![self.server()],
            password: Some(Secret::new(self.password.clone())),
            ca: None,
            certificate: None,
            exchange: exchange.to_owned(),
            name: "test".to_owned(),
        }
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
