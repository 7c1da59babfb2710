//! A private Postgres: a host of its own that can be stopped, killed, filled up, cut off and lose its power.
//!
//! It takes TLS connections with a password (scram-sha-256) on the test's network and, through a socket in its host,
//! those of the test itself. Its disk is synced as in production. `stratavore_owner` owns the schemas, `stratavore`
//! is what daemons log in as.

use std::net::Ipv4Addr;
use std::ops::RangeBounds;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::network::{Cable, Network};
use super::sql::Sql;
use super::tls::Authority;
use super::{Host, wait_for, wait_until};

/// What `stratavore`, `stratavore_owner` and `replica` log in with. Words that appear in no other place: a test can look
/// whether a log has them.
pub const PASSWORD: &str = "correct-horse-7391";
pub const OWNER_PASSWORD: &str = "battery-staple-4417";
const REPLICA_PASSWORD: &str = "standby-2288";

/// How long it may take to come up again after a crash.
const UP: Duration = Duration::from_secs(60);

const DATA: &str = "/srv/postgres/data";
const SOCKET: &str = "/run/stratavore-postgres";

const SERVER: &str = r#"
[Unit]
Description=Postgres of the test
ConditionPathExists=/srv/postgres/data/PG_VERSION
[Service]
Type=notify
User=postgres
RuntimeDirectory=stratavore-postgres
ExecStart=PROGRAMS/postgres -D /srv/postgres/data
ExecReload=kill -HUP $MAINPID
KillMode=mixed
KillSignal=SIGINT
TimeoutSec=60
OOMScoreAdjust=-900
"#;

const POOLER: &str = r#"
[Unit]
Description=PgBouncer of the test
After=postgres.service
[Service]
User=postgres
ExecStart=/usr/sbin/pgbouncer -q /srv/postgres/pgbouncer.ini
ExecReload=kill -HUP $MAINPID
KillSignal=SIGINT
LimitNOFILE=8192
Restart=always
RestartSec=100ms
"#;

const SETTINGS: &str = "
listen_addresses = '*'
unix_socket_directories = '/run/stratavore-postgres'
password_encryption = 'scram-sha-256'
ssl = on
ssl_cert_file = '/srv/postgres/server.pem'
ssl_key_file = '/srv/postgres/server.key'
ssl_ca_file = '/srv/postgres/ca.pem'
max_connections = 200
shared_buffers = 64MB
fsync = on
synchronous_commit = on
max_wal_size = 128MB
min_wal_size = 32MB
wal_level = replica
max_wal_senders = 8
wal_keep_size = 64MB
hot_standby = on
log_lock_waits = on
deadlock_timeout = 1s
log_line_prefix = '%a/%u '
";

const POOLER_SETTINGS: &str = "
[databases]
* = host=/run/stratavore-postgres port=5432
[pgbouncer]
listen_addr = *
listen_port = 6432
unix_socket_dir =
auth_type = scram-sha-256
auth_file = /srv/postgres/users.txt
pool_mode = transaction
max_client_conn = 1000
default_pool_size = 20
ignore_startup_parameters = extra_float_digits,options
client_tls_sslmode = require
client_tls_cert_file = /srv/postgres/server.pem
client_tls_key_file = /srv/postgres/server.key
client_tls_ca_file = /srv/postgres/ca.pem
";

/// Dropped, it is gone with its host.
pub struct Postgres {
    host: Host,
    cable: Cable,
    authority: Arc<Authority>,
    programs: String,
    /// Where its socket is, as this machine sees it; another one after each boot of its host.
    socket: Arc<Mutex<PathBuf>>,
}

impl Postgres {
    /// A Postgres in this network, up.
    #[track_caller]
    pub fn start(network: &Network) -> Self {
        Self::with_disk(network, 1024)
    }

    /// With a disk of this size: a small one (not below 300) is soon full.
    #[track_caller]
    pub fn with_disk(network: &Network, disk_mb: u32) -> Self {
        let postgres = Self::boot("postgres", network, disk_mb, Arc::new(Authority::new()));
        postgres.as_postgres(&format!(
            "{programs}/initdb -D {DATA} -A trust -U postgres --locale=C.UTF-8 -E UTF8 --no-instructions >/dev/null",
            programs = postgres.programs
        ));
        postgres.furnish();
        postgres.up();
        let mut sql = postgres.sql("postgres");
        for (role, password, rights) in [
            ("stratavore_owner", OWNER_PASSWORD, "LOGIN"),
            ("stratavore", PASSWORD, "LOGIN"),
            ("replica", REPLICA_PASSWORD, "LOGIN REPLICATION"),
        ] {
            sql.run(&format!(
                "CREATE ROLE {role} {rights} PASSWORD '{password}'"
            ));
        }
        postgres
    }

    /// A second one that follows `self` by streaming replication, and has what `self` confirms. It can be read;
    /// [`Postgres::promote`] makes it the first.
    #[track_caller]
    pub fn standby(&self, network: &Network) -> Self {
        let standby = Self::boot("standby", network, 1024, Arc::clone(&self.authority));
        standby.as_postgres(&format!(
            "{}/pg_basebackup -D {DATA} -R -X stream -c fast \
             -d 'host={} user=replica password={REPLICA_PASSWORD} sslmode=require application_name=standby'",
            standby.programs,
            self.address()
        ));
        standby.furnish();
        standby.up();
        // Asynchronous replication may lose the last commits, and nothing could hold then.
        let mut sql = self.sql("postgres");
        sql.run("ALTER SYSTEM SET synchronous_standby_names = 'standby'");
        sql.rows("SELECT pg_reload_conf()");
        wait_until("each commit waits for the standby", UP, || {
            let asked = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
            sql.number(asked) == 1
        });
        standby
    }

    /// Ends its following: it takes writes from now on.
    #[track_caller]
    pub fn promote(&self) {
        self.sql("postgres").rows("SELECT pg_promote()");
        self.sql("postgres")
            .run("ALTER SYSTEM RESET synchronous_standby_names");
        self.sql("postgres").rows("SELECT pg_reload_conf()");
        wait_until("the standby takes writes", UP, || {
            self.sql("postgres")
                .try_rows("SELECT pg_is_in_recovery() AS follows")
                .is_ok_and(|rows| rows[0]["follows"] == false)
        });
    }

    #[track_caller]
    fn boot(name: &str, network: &Network, disk_mb: u32, authority: Arc<Authority>) -> Self {
        let cable = network.cable();
        let programs = programs();
        let server = authority.server(&[cable.address, network.machine_address()]);
        let host = Host::builder(name)
            .root(super::Root::Machine)
            .disk_mb(disk_mb)
            .cable(&cable)
            .unit("postgres.service", &SERVER.replace("PROGRAMS", &programs))
            .unit("pgbouncer.service", POOLER)
            .file("/srv/postgres/ca.pem", authority.pem())
            .file("/srv/postgres/server.pem", server.certificate)
            .file("/srv/postgres/server.new", server.key)
            .file("/srv/postgres/pgbouncer.ini", POOLER_SETTINGS)
            .file(
                "/srv/postgres/users.txt",
                format!(
                    "\"stratavore\" \"{PASSWORD}\"\n\"stratavore_owner\" \"{OWNER_PASSWORD}\"\n"
                ),
            )
            .want("postgres.service")
            .boot();
        // A private key is its owner's alone, or Postgres refuses it.
        host.sh(
            "install -o postgres -m 600 /srv/postgres/server.new /srv/postgres/server.key && chown postgres /srv/postgres",
        )
        .ok();
        let socket = Arc::new(Mutex::new(host.path(SOCKET)));
        Postgres {
            host,
            cable,
            authority,
            programs,
            socket,
        }
    }

    fn furnish(&self) {
        self.host.sh(&format!(
            "cat >{DATA}/conf.d.conf <<'END'\n{SETTINGS}\nEND\n\
             grep -q conf.d.conf {DATA}/postgresql.conf || echo \"include 'conf.d.conf'\" >>{DATA}/postgresql.conf\n\
             chown postgres {DATA}/*.conf"
        )).ok();
        self.write_access("");
        // What we wrote is to survive a power cut as Postgres' own files do.
        self.host.sh("sync -f /srv").ok();
    }

    /// Who may connect; `also` is asked of everybody from the network.
    fn write_access(&self, also: &str) {
        self.host.write(
            &format!("{DATA}/pg_hba.conf"),
            format!(
                "local all all trust\n\
                 hostssl all all 0.0.0.0/0 scram-sha-256 {also}\n\
                 hostssl replication replica 0.0.0.0/0 scram-sha-256\n"
            ),
        );
    }

    /// From now on who connects must show a certificate of [`Postgres::authority`], too; or need not any more.
    #[track_caller]
    pub fn want_certificates(&self, want: bool) {
        self.write_access(if want { "clientcert=verify-ca" } else { "" });
        self.host.sh("systemctl reload postgres").ok();
    }

    /// Its settings and who may connect from the network are these alone, and its certificate is in these files of its
    /// data folder.
    #[track_caller]
    pub fn set_up(&self, settings: &str, access: &str, certificate: &str, key: &str) {
        self.as_postgres(&format!(
            "install -m 600 /srv/postgres/server.pem {DATA}/{certificate} && install -m 600 /srv/postgres/server.key {DATA}/{key}"
        ));
        let own = "unix_socket_directories = '/run/stratavore-postgres'";
        self.host.write(
            &format!("{DATA}/conf.d.conf"),
            format!("{own}\n{settings}\n"),
        );
        let access = format!("{access}\nlocal all all trust\n");
        self.host.write(&format!("{DATA}/pg_hba.conf"), access);
        self.restart();
    }

    /// A new database whose schema belongs to `stratavore_owner`; `stratavore` may use what that role makes there.
    #[track_caller]
    pub fn database(&self, name: &str) {
        self.sql("postgres").run(&format!(
            "CREATE DATABASE {name} OWNER stratavore_owner;\nREVOKE ALL ON DATABASE {name} FROM PUBLIC;\n\
             GRANT CONNECT, TEMPORARY ON DATABASE {name} TO stratavore"
        ));
        self.sql(name).run(
            "ALTER SCHEMA public OWNER TO stratavore_owner;\n\
             GRANT USAGE ON SCHEMA public TO stratavore;\n\
             ALTER DEFAULT PRIVILEGES FOR ROLE stratavore_owner GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO stratavore;\n\
             ALTER DEFAULT PRIVILEGES FOR ROLE stratavore_owner GRANT USAGE, SELECT, UPDATE ON SEQUENCES TO stratavore",
        );
    }

    /// Brings the schema of a database up to date as its owner does it: daemons of `stratavore` may not. These
    /// migrations alone.
    #[track_caller]
    pub fn migrate(&self, database: &str, these: impl RangeBounds<u32>) {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(super::project().join("migrations/postgres"))
                .expect("migrations/postgres")
                .flatten()
                .map(|entry| entry.path())
                .collect();
        files.sort();
        let mut script = String::new();
        for file in &files {
            let name = file.file_name().unwrap().to_string_lossy();
            let version: u32 = name[..4].parse().expect("its number");
            if !these.contains(&version) {
                continue;
            }
            script += &std::fs::read_to_string(file).expect("a migration");
            script += &format!("\nUPDATE meta SET value = '{version}' WHERE key = 'schema';\n");
        }
        let words = [
            "-XAtq1",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            SOCKET,
            "-U",
            "stratavore_owner",
        ];
        let psql = ["psql"].into_iter().chain(words).chain([database]);
        self.host.command(psql).stdin(script).run().ok();
    }

    /// Asks as its superuser, from outside the fleet.
    pub fn sql(&self, database: &str) -> Sql {
        Sql::new(Arc::clone(&self.socket), "postgres", database)
    }

    /// The folder of its socket, as this machine sees it at present.
    pub fn socket(&self) -> PathBuf {
        self.socket.lock().expect("postgres").clone()
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn address(&self) -> Ipv4Addr {
        self.cable.address
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// For `store.url`: `stratavore` in this database, directly.
    pub fn url(&self, database: &str) -> String {
        self.url_at(&format!("{}:5432", self.address()), database)
    }

    /// The same by PgBouncer, once [`Postgres::start_pooler`] was called.
    pub fn pooled_url(&self, database: &str) -> String {
        self.url_at(&format!("{}:6432", self.address()), database)
    }

    /// The same by somebody in between (a proxy), or several of them: `ADDRESS:PORT,ADDRESS:PORT`.
    pub fn url_at(&self, at: &str, database: &str) -> String {
        format!("postgres://stratavore@{at}/{database}?sslmode=verify-full")
    }

    /// PgBouncer in transaction mode, in front of it.
    #[track_caller]
    pub fn start_pooler(&self) {
        assert!(
            std::path::Path::new("/usr/sbin/pgbouncer").exists(),
            "pgbouncer is missing. Get it with: tests/setup.sh test"
        );
        self.host
            .sh("chown postgres /srv/postgres/users.txt && systemctl start pgbouncer")
            .ok();
        wait_until("PgBouncer listens", UP, || {
            self.host
                .sh("ss -Hltn 'sport = 6432'")
                .out()
                .contains("6432")
        });
    }

    /// In order, as for an upgrade: connections are closed, what was committed is synced.
    #[track_caller]
    pub fn stop(&self) {
        self.host.sh("systemctl stop postgres").ok();
    }

    #[track_caller]
    pub fn start_again(&self) {
        self.up();
    }

    #[track_caller]
    pub fn restart(&self) {
        self.stop();
        self.up();
    }

    /// SIGKILL to all of it. It stays down until [`Postgres::start_again`].
    #[track_caller]
    pub fn kill9(&self) {
        self.host
            .sh("systemctl kill -s KILL postgres; while systemctl is-active -q postgres; do sleep 0.02; done; systemctl reset-failed postgres; true")
            .ok();
    }

    /// It hangs, or goes on: connections stay, nothing is answered.
    #[track_caller]
    pub fn hang(&self, hang: bool) {
        self.host
            .sh(if hang {
                "systemctl freeze postgres"
            } else {
                "systemctl thaw postgres"
            })
            .ok();
    }

    /// Its host loses power: what was not synced is gone. It stays off until [`Postgres::power_on`].
    #[track_caller]
    pub fn power_cut(&mut self) {
        self.host.power_cut();
    }

    #[track_caller]
    pub fn power_on(&mut self) {
        self.host.boot_again();
        *self.socket.lock().expect("postgres") = self.host.path(SOCKET);
        self.up();
    }

    /// Its host is cut off the network, silently; or is back.
    #[track_caller]
    pub fn cut(&self, cut: bool) {
        if cut {
            self.cable.cut()
        } else {
            self.cable.mend()
        }
    }

    /// It becomes a standby, which only answers questions; or takes writes again.
    #[track_caller]
    pub fn read_only(&self, on: bool) {
        if on {
            self.as_postgres(&format!("touch {DATA}/standby.signal"));
            self.restart();
        } else {
            self.promote();
        }
    }

    /// Ends every session but ours.
    #[track_caller]
    pub fn end_sessions(&self) {
        self.sql("postgres").rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
        );
    }

    /// Nothing more can be written to its disk; or there is room again.
    #[track_caller]
    pub fn fill_disk(&self, full: bool) {
        let script = if full {
            // Postgres writes into WAL files it has already: the switch makes it need a new one.
            "dd if=/dev/zero of=/srv/filler bs=256k 2>/dev/null; dd if=/dev/zero of=/srv/filler2 bs=1k 2>/dev/null; true"
        } else {
            "rm -f /srv/filler /srv/filler2"
        };
        self.host.sh(script).ok();
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        self.host
            .sh("journalctl --no-pager -b -n 80 -o short-monotonic -u postgres -u pgbouncer")
            .out()
    }

    #[track_caller]
    fn up(&self) {
        self.host.sh("systemctl start postgres").ok();
        wait_for("Postgres answers", UP, || {
            self.sql("postgres")
                .try_rows("SELECT 1")
                .map_err(|e| format!("{e}\n{}", self.log()))
        });
    }

    /// Runs the client programs as its superuser, on its host.
    #[track_caller]
    pub fn client(&self, script: &str) {
        let programs = programs();
        self.as_postgres(&format!(
            "export PGHOST={SOCKET} PATH={programs}:$PATH\n{script}"
        ));
    }

    #[track_caller]
    fn as_postgres(&self, script: &str) {
        self.host
            .command(["bash", "-euc", script])
            .user("postgres")
            .dir("/srv/postgres")
            .limit(UP)
            .run()
            .ok();
    }
}

/// The folder of the newest server programs of this machine.
#[track_caller]
fn programs() -> String {
    let found = Command::new("sh")
        .args([
            "-c",
            "ls -d /usr/lib/postgresql/*/bin/postgres 2>/dev/null | sort -V | tail -n 1",
        ])
        .output()
        .expect("sh");
    let found = String::from_utf8_lossy(&found.stdout);
    let folder = found.trim().strip_suffix("/postgres").unwrap_or("");
    assert!(
        !folder.is_empty(),
        "there is no Postgres server in /usr/lib/postgresql. Get it with: tests/setup.sh test (Debian package postgresql)"
    );
    folder.to_owned()
}
