//! Encrypted connections: whose certificate is checked, and by whom.

use super::cluster::{done, give};
use super::conformance::{admit, launch, project, unavailable};
use super::*;
use crate::domain::secret::Secret;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority, and certificates it has signed.
fn certificates(folder: &Path) {
    let run = |words: &str| {
        let mut openssl = Command::new("openssl");
        done(openssl.current_dir(folder).args(words.split(' ')));
    };
    std::fs::write(
        folder.join("names"),
        "subjectAltName=DNS:localhost,DNS:db.example",
    )
    .unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    for ca in ["ca", "stranger"] {
        run(&format!(
            "req -x509 {key} -subj /CN={ca} -keyout {ca}.key -out {ca}.pem"
        ));
    }
    for (name, subject) in [("server", "db"), ("client", "owner")] {
        run(&format!(
            "req {key} -subj /CN={subject} -keyout {name}.key -out {name}.csr"
        ));
        run(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {name}.pem"
        ));
    }
}

struct Encrypted {
    cluster: Cluster,
    port: u16,
}

fn encrypted() -> Encrypted {
    let folder = super::cluster::folder();
    certificates(&folder);
    // Free now; whoever takes it meanwhile makes the server say so.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let file = |name: &str| folder.join(name).display().to_string();
    let settings = [
        "listen_addresses = 'localhost'".to_owned(),
        format!("port = {port}"),
        "ssl = on".to_owned(),
        format!("ssl_cert_file = '{}'", file("server.pem")),
        format!("ssl_key_file = '{}'", file("server.key")),
        format!("ssl_ca_file = '{}'", file("ca.pem")),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let cluster = Cluster::made(folder, &settings);
    let access =
        "local all all trust\nhostssl all owner all cert\nhostssl all guest all scram-sha-256\n";
    let file = cluster.folder.join("data/pg_hba.conf");
    std::fs::write(&file, access).unwrap();
    give(&cluster.folder);
    cluster.start();
    Encrypted { cluster, port }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_passwords() {
    let Encrypted { cluster, port } = tokio::task::spawn_blocking(encrypted).await.unwrap();
    let file = |name: &str| -> PathBuf { cluster.folder.join(name) };
    let socket = ServerAddress::Socket(cluster.folder.clone(), port);
    let local = PostgresOptions {
        servers: vec![socket.clone()],
        ..cluster.options("postgres")
    };
    let good = PostgresOptions {
        servers: vec![ServerAddress::Tcp("localhost".to_owned(), port)],
        tls: TlsMode::VerifyFull,
        tls_ca: Some(file("ca.pem")),
        tls_certificate: Some((file("client.pem"), file("client.key"))),
        ..local.clone()
    };
    let store = PostgresStore::open(good.clone(), 3).await.unwrap();
    project(&store, "p", ProjectSettings::default()).await;
    admit(&store, launch(1, "p")).await;
    let encrypted = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
        WHERE s.ssl AND s.client_dn = '/CN=owner' AND a.application_name = 'stratavored'";
    let encrypted = store
        .read(async |on| on.one(encrypted, vec![]).await?.int(0))
        .await;
    assert_eq!(encrypted.unwrap(), 2);
    let mut role = connect::connect(&local, &connect::Latest::default())
        .await
        .map(Link::Postgres)
        .unwrap();
    role.say("CREATE ROLE guest LOGIN SUPERUSER PASSWORD 'right'")
        .await
        .unwrap();

    let of = async |change: &dyn Fn(&mut PostgresOptions)| {
        let mut options = good.clone();
        change(&mut options);
        PostgresStore::open(options, 2).await.map(drop)
    };
    let stranger = file("stranger.pem");
    for mode in [TlsMode::VerifyFull, TlsMode::VerifyCa, TlsMode::Require] {
        // An authority that is given is asked.
        let said = unavailable(
            of(&|o| {
                o.tls = mode;
                o.tls_ca = Some(stranger.clone());
            })
            .await,
        );
        assert!(said.contains("no encrypted connection"), "{mode:?}: {said}");
    }
    // Only the last one asks for the name.
    let address = |o: &mut PostgresOptions| {
        o.servers = vec![ServerAddress::Tcp("127.0.0.1".to_owned(), port)]
    };
    for mode in [TlsMode::Require, TlsMode::VerifyCa] {
        of(&|o| {
            address(o);
            o.tls = mode;
        })
        .await
        .unwrap();
    }
    assert!(unavailable(of(&address).await).contains("no encrypted connection"));
    let said = unavailable(of(&|o| o.tls_certificate = None).await);
    assert!(said.contains("does not let user owner in"), "{said}");
    let said = unavailable(of(&|o| o.tls = TlsMode::Disable).await);
    assert!(said.contains("does not let user owner in"), "{said}");
    // A password, right and wrong.
    let guest = |word: &str| {
        let password = Some(Secret::new(word.to_owned()));
        move |o: &mut PostgresOptions| {
            o.user = "guest".to_owned();
            o.tls_certificate = None;
            o.password = password.clone();
        }
    };
    of(&guest("right")).await.unwrap();
    let said = unavailable(of(&guest("hunter2")).await);
    assert!(
        said.contains("check the password in the credential") && !said.contains("hunter2"),
        "{said}"
    );
    // What is said about encryption is not about a socket.
    of(&|o| o.servers.insert(0, socket.clone())).await.unwrap();
    of(&|o| o.servers = vec![socket.clone()]).await.unwrap();
}
