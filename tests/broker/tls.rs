//! Who lets us in, and who does not: passwords, virtual hosts, certificates; several servers in turn.

use super::consumer::{self, Log};
use super::rabbit::Rabbit;
use super::world::shared;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stratavore::adapters::rabbitmq::{BrokerOptions, RabbitMq};
use stratavore::domain::Timestamp;
use stratavore::domain::cloudevent::Message;
use stratavore::domain::event::{Actor, Draft, Event, EventType};
use stratavore::domain::relay::Outcome;
use stratavore::domain::secret::Secret;
use stratavore::ports::{Broker, Told};

fn lifted() -> Event {
    Event {
        position: 7,
        draft: Draft {
            kind: EventType::FleetChanged,
            project: String::new(),
            subject: "fleet/all".to_owned(),
            seq: 1,
            at: Timestamp(1),
            actor: Actor::host(),
            data: serde_json::json!({ "max_runners": null }),
        },
    }
}

async fn refused(options: BrokerOptions) -> String {
    let shown = format!("{options:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let error = RabbitMq::new(options)
        .connect()
        .await
        .unwrap_err()
        .to_string();
    assert!(!error.contains("hunter2"), "{error}");
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_say_why_and_the_next_server_is_tried() {
    let rabbit = shared().await;
    let good = rabbit.options("x.tls");
    let mut wrong = good.clone();
    wrong.password = Some(Secret::new("hunter2".to_owned()));
    let why = refused(wrong).await;
    assert!(
        why.contains("ACCESS_REFUSED") || why.contains("ACCESS-REFUSED"),
        "{why}"
    );
    let mut vhost = good.clone();
    vhost.servers[0].vhost = "nowhere".to_owned();
    let why = refused(vhost).await;
    assert!(why.contains("nowhere"), "{why}");
    let mut encrypted = good.clone();
    encrypted.servers[0].tls = true;
    let why = refused(encrypted).await;
    assert!(why.contains("TLS"), "{why}");
    let mut closed = good.clone();
    closed.servers[0].port = 1;
    let why = refused(closed.clone()).await;
    assert!(why.contains("127.0.0.1:1: Connection refused"), "{why}");
    // Another kind of exchange has this name.
    let mut other = good.clone();
    other.exchange = "amq.direct".to_owned();
    let why = refused(other).await;
    assert!(why.contains("amq.direct"), "{why}");
    // Who may only write is let in where the exchange is there.
    let lowly = "lowly";
    let control =
        |words: Vec<&'static str>| tokio::task::spawn_blocking(move || rabbit.control(&words));
    control(vec!["add_user", lowly, lowly]).await.unwrap();
    control(vec!["set_permissions", lowly, "^$", ".*", "^$"])
        .await
        .unwrap();
    let mut writer = good.clone();
    writer.servers[0].user = lowly.to_owned();
    writer.password = Some(Secret::new(lowly.to_owned()));
    writer.exchange = "x.lowly".to_owned();
    let why = refused(writer.clone()).await;
    assert!(why.contains("NOT"), "{why}");
    let mut maker = good.clone();
    maker.exchange = "x.lowly".to_owned();
    RabbitMq::new(maker).connect().await.unwrap().close().await;
    // What it writes arrives.
    let channel = consumer::channel(rabbit).await;
    consumer::bind(&channel, "x.lowly", "q.lowly", &["#"]).await;
    let mut link = RabbitMq::new(writer).connect().await.unwrap();
    let message = Arc::new(Message::new(&lifted(), "s", "h", 1));
    link.publish(&message).unwrap();
    let told = link.news().await.unwrap();
    assert_eq!(told, Told::Settled(vec![(7, Outcome::Confirmed)]));
    link.close().await;
    let mut log = Log::default();
    log.read(&channel, "q.lowly", 1).await;
    let ids: Vec<_> = log.all.iter().map(|e| e["id"].clone()).collect();
    assert_eq!(ids, [message.id.as_str()]);
    closed.servers.extend(good.servers);
    RabbitMq::new(closed).connect().await.unwrap().close().await;
}

/// An authority, and certificates it has signed.
fn certificates(folder: &Path) {
    let run = |words: &str| {
        let output = Command::new("openssl")
            .current_dir(folder)
            .args(words.split(' '))
            .output();
        let output = output.expect("openssl is needed: tests/setup.sh test");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    std::fs::write(
        folder.join("names"),
        "subjectAltName=DNS:localhost,DNS:mq.example",
    )
    .unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    for ca in ["ca", "stranger"] {
        run(&format!(
            "req -x509 {key} -subj /CN={ca} -keyout {ca}.key -out {ca}.pem"
        ));
    }
    for (name, subject) in [("server", "mq"), ("client", "relay")] {
        run(&format!(
            "req {key} -subj /CN={subject} -keyout {name}.key -out {name}.csr"
        ));
        run(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {name}.pem"
        ));
    }
}

fn encrypted() -> Rabbit {
    let folder = std::env::temp_dir().join(format!("stratavore-rabbit-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir(&folder).unwrap();
    certificates(&folder);
    let settings = "listeners.ssl.1 = 127.0.0.1:TLS_PORT
ssl_options.cacertfile = FOLDER/ca.pem
ssl_options.certfile = FOLDER/server.pem
ssl_options.keyfile = FOLDER/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
ssl_cert_login_from = common_name
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = EXTERNAL";
    let rabbit = Rabbit::made(folder, settings, "rabbitmq_auth_mechanism_ssl");
    // It listens there a little later.
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", rabbit.tls_port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(90), "no TLS");
        std::thread::sleep(Duration::from_millis(20));
    }
    rabbit
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_checked_and_say_who_we_are() {
    let rabbit = tokio::task::spawn_blocking(encrypted).await.unwrap();
    let file = |name: &str| rabbit.folder.join(name);
    let mut good = rabbit.options("x.tls");
    good.servers[0].host = "localhost".to_owned();
    good.servers[0].port = rabbit.tls_port;
    good.servers[0].tls = true;
    good.ca = Some(file("ca.pem"));
    RabbitMq::new(good.clone())
        .connect()
        .await
        .unwrap()
        .close()
        .await;

    let mut stranger = good.clone();
    stranger.ca = Some(file("stranger.pem"));
    let why = refused(stranger).await;
    assert!(
        why.contains("TLS: ") && why.contains("certificate"),
        "{why}"
    );
    let mut system = good.clone();
    system.ca = None;
    let why = refused(system).await;
    assert!(why.contains("TLS: "), "{why}");
    let mut elsewhere = good.clone();
    elsewhere.servers[0].host = "127.0.0.1".to_owned();
    let why = refused(elsewhere).await;
    assert!(
        why.contains("TLS: ") && why.contains("not valid for name"),
        "{why}"
    );
    let mut broken = good.clone();
    broken.ca = Some(file("ca.key"));
    let why = refused(broken).await;
    assert!(why.contains("no certificate"), "{why}");

    // Our certificate alone says who we are.
    let mut external = good.clone();
    external.servers[0].external = true;
    external.password = None;
    let why = refused(external.clone()).await;
    assert!(why.contains("ACCESS"), "{why}");
    external.certificate = Some((file("client.pem"), file("client.key")));
    RabbitMq::new(external)
        .connect()
        .await
        .unwrap()
        .close()
        .await;
    rabbit.kill();
}
