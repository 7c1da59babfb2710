//! Receivers that do what they should not, over plain and encrypted connections.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What a receiver does with those who connect.
#[derive(Debug, Clone)]
enum Receiver {
    /// Takes the request and answers with this.
    Answers(Vec<u8>),
    /// Takes the connection and the request, and says nothing.
    Hangs,
    /// Says this and nothing more.
    Stalls(Vec<u8>),
    /// Answers one byte after the other, without end.
    Trickles,
    /// Answers with a head, or a body, that never ends.
    Floods(&'static str),
    /// Closes at once.
    Closes,
}

/// A receiver, and how many bytes it could send.
struct Started {
    address: String,
    sent: Arc<AtomicUsize>,
    requests: tokio::sync::mpsc::UnboundedReceiver<String>,
}

async fn start(receiver: Receiver, tls: Option<TlsAcceptor>) -> Started {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let port = listener.local_addr().unwrap().port();
    let sent = Arc::new(AtomicUsize::new(0));
    let (tell, requests) = tokio::sync::mpsc::unbounded_channel();
    let counted = Arc::clone(&sent);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (receiver, counted, tell) = (receiver.clone(), Arc::clone(&counted), tell.clone());
            let tls = tls.clone();
            tokio::spawn(async move {
                match tls {
                    None => serve(stream, receiver, &counted, &tell).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            serve(stream, receiver, &counted, &tell).await;
                        }
                    }
                }
            });
        }
    });
    Started {
        address: format!("{scheme}://localhost:{port}"),
        sent,
        requests,
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    receiver: Receiver,
    sent: &AtomicUsize,
    tell: &tokio::sync::mpsc::UnboundedSender<String>,
) {
    if let Receiver::Closes = receiver {
        return;
    }
    let mut request = Vec::new();
    let mut part = [0; 4_096];
    // Our requests end with their body.
    while !String::from_utf8_lossy(&request).ends_with("the end") {
        match stream.read(&mut part).await {
            Ok(read) if read > 0 => request.extend_from_slice(&part[..read]),
            _ => return,
        }
    }
    let _ = tell.send(String::from_utf8_lossy(&request).into_owned());
    match receiver {
        Receiver::Answers(answer) => {
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
        Receiver::Hangs => std::future::pending().await,
        Receiver::Stalls(begun) => {
            let _ = stream.write_all(&begun).await;
            std::future::pending().await
        }
        Receiver::Trickles => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").await;
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Receiver::Floods(head) => {
            let _ = stream.write_all(head.as_bytes()).await;
            while stream.write_all(&[b'x'; 4_096]).await.is_ok() {
                sent.fetch_add(4_096, Ordering::Relaxed);
            }
        }
        Receiver::Closes => {}
    }
}

fn letter(address: &str) -> Letter {
    Letter {
        to: Address::parse(&format!("{address}/hook/hunter2?token=hunter2")).unwrap(),
        headers: vec![
            ("Content-Type", "text/plain".to_owned()),
            ("Stratavore-Signature", "v1=00".to_owned()),
        ],
        body: "Grüße, the end".to_owned(),
    }
}

fn answer(status: &str) -> Receiver {
    Receiver::Answers(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok").into_bytes())
}

#[tokio::test]
async fn a_letter_arrives_as_it_is() {
    let mut receiver = start(answer("204 No Content"), None).await;
    let letter = letter(&receiver.address);
    assert_eq!(Webhooks::default().post(&letter).await, Ok(()));
    let request = receiver.requests.recv().await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, letter.body);
    let mut lines = head.lines();
    assert_eq!(
        lines.next(),
        Some("POST /hook/hunter2?token=hunter2 HTTP/1.1")
    );
    let head = head.to_lowercase();
    for line in [
        &format!("host: {}", letter.to.authority()),
        "content-type: text/plain",
        "content-length: 16",
        "stratavore-signature: v1=00",
        "connection: close",
    ] {
        assert!(head.lines().any(|l| l == line), "{line}: {head}");
    }
}

#[tokio::test]
async fn what_a_receiver_answers_decides_whether_it_is_tried_again() {
    let moved = "302 Found\r\nLocation: http://127.0.0.1:1/";
    for (status, again, part) in [
        ("500 Oops", true, "it answers 500"),
        ("503 Later", true, "it answers 503"),
        ("429 Slowly", true, "it answers 429"),
        ("404 Nothing", false, "it answers 404"),
        ("403 No", false, "it answers 403"),
        (moved, false, "redirect (302), and those are not followed"),
    ] {
        let receiver = start(answer(status), None).await;
        let said = Webhooks::default().post(&letter(&receiver.address)).await;
        let why = said.clone().unwrap_err().why().to_owned();
        assert!(
            why.contains(part) && !why.contains("hunter2"),
            "{status}: {why}"
        );
        assert_eq!(
            matches!(said, Err(Undelivered::Later(_))),
            again,
            "{status}"
        );
    }
    for receiver in [
        Receiver::Closes,
        Receiver::Answers(b"SSH-2.0-OpenSSH\r\n".to_vec()),
    ] {
        let started = start(receiver.clone(), None).await;
        let said = Webhooks::default().post(&letter(&started.address)).await;
        let Err(Undelivered::Later(why)) = said else {
            panic!("{receiver:?}: {said:?}");
        };
        assert!(
            why.contains("no answer of HTTP") && !why.contains("hunter2"),
            "{why}"
        );
    }
    // Nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let said = Webhooks::default().post(&letter(&address)).await;
    let why = said.unwrap_err().why().to_owned();
    assert!(
        why.contains("no connection to 127.0.0.1:") && !why.contains("hunter2"),
        "{why}"
    );
    let said = Webhooks::default()
        .post(&letter("http://nobody.invalid"))
        .await;
    assert!(said.unwrap_err().why().contains("can't be looked up"));
}

#[tokio::test]
async fn no_receiver_holds_us_up() {
    // A head, or half of one, that never comes takes the time of a try and no more.
    let slow = [Receiver::Hangs, Receiver::Trickles].map(async |receiver| {
        let started = start(receiver, None).await;
        let begun = Instant::now();
        let said = Webhooks::default().post(&letter(&started.address)).await;
        assert_eq!(said, later("no answer within 10 s"));
        begun.elapsed()
    });
    for took in futures_util::future::join_all(slow).await {
        assert!(took < TRY_MAX * 3, "{took:?}");
    }
}

#[tokio::test]
async fn no_answer_is_read_to_an_end_that_it_does_not_have() {
    for (head, good) in [
        ("HTTP/1.1 200 OK\r\nX: ", false),
        ("HTTP/1.1 200 OK\r\n\r\n", true),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n",
            true,
        ),
    ] {
        let started = start(Receiver::Floods(head), None).await;
        let said = Webhooks::default().post(&letter(&started.address)).await;
        assert_eq!(said.is_ok(), good, "{head}: {said:?}");
        // What the kernel holds of it comes on top.
        let sent = started.sent.load(Ordering::Relaxed);
        assert!(sent < 16 << 20, "{head}: {sent}");
    }
}

/// It was taken, and must not be posted again because its receiver does not come to an end.
#[tokio::test]
async fn the_status_decides_although_the_answer_does_not_end_in_time() {
    for (status, expected) in [("200 OK", Ok(())), ("503 Later", later("it answers 503"))] {
        // The body is announced and never comes.
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\n");
        let started = start(Receiver::Stalls(head.into_bytes()), None).await;
        let hasty = Webhooks {
            try_max: BODY_TIME / 2,
            ..Webhooks::default()
        };
        assert_eq!(hasty.post(&letter(&started.address)).await, expected);
        // In the usual time, too.
        let said = Webhooks::default().post(&letter(&started.address)).await;
        assert_eq!(said, expected);
    }
}

/// An authority's certificate, and what a server needs that it vouches for.
fn certificates() -> (PathBuf, TlsAcceptor) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder =
        std::env::temp_dir().join(format!("stratavore-webhook-{}-{n}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost").unwrap();
    let run = |words: &str| {
        let openssl = Command::new("openssl")
            .current_dir(&folder)
            .args(words.split(' '))
            .output();
        let done = openssl.expect("openssl is missing: apt-get install openssl");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    run(&format!(
        "req -x509 {key} -subj /CN=ca -keyout ca.key -out ca.pem"
    ));
    run(&format!(
        "req {key} -subj /CN=hook -keyout server.key -out server.csr"
    ));
    run(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
    );
    let certificate = CertificateDer::from_pem_file(folder.join("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    (folder, TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn whose_certificate_is_not_known_gets_nothing() {
    let (folder, tls) = tokio::task::spawn_blocking(certificates).await.unwrap();
    let mut authorities = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(folder.join("ca.pem")).unwrap();
    authorities.add(ca).unwrap();
    let trusting = Webhooks {
        authorities: Some(authorities.clone()),
        ..Webhooks::default()
    };
    let mut receiver = start(answer("200 OK"), Some(tls)).await;
    assert_eq!(trusting.post(&letter(&receiver.address)).await, Ok(()));
    assert!(
        receiver
            .requests
            .recv()
            .await
            .unwrap()
            .contains("/hook/hunter2")
    );
    // By a name that is not in it, and by an authority that nobody knows here.
    let elsewhere = receiver.address.replace("localhost", "127.0.0.1");
    let (other, _) = tokio::task::spawn_blocking(certificates).await.unwrap();
    let mut others = RootCertStore::empty();
    others
        .add(CertificateDer::from_pem_file(other.join("ca.pem")).unwrap())
        .unwrap();
    let strange = Webhooks {
        authorities: Some(others),
        ..Webhooks::default()
    };
    for (webhooks, address) in [(&trusting, &elsewhere), (&strange, &receiver.address)] {
        let said = webhooks.post(&letter(address)).await;
        let Err(Undelivered::Later(why)) = said else {
            panic!("{said:?}");
        };
        assert!(
            why.contains("no encrypted connection") && !why.contains("hunter2"),
            "{why}"
        );
    }
    // Nor does one who does not encrypt.
    let plain = start(answer("200 OK"), None).await;
    let said = trusting
        .post(&letter(&plain.address.replace("http:", "https:")))
        .await;
    assert!(said.is_err());
    assert!(receiver.requests.try_recv().is_err());
    for folder in [folder, other] {
        std::fs::remove_dir_all(folder).unwrap();
    }
}

proptest! {
    /// Every address that the configuration takes makes a request, and shows nothing of its path.
    #[test]
    fn every_good_address_can_be_posted_to(
        text in "https?://([a-zA-Z0-9._-]{1,12}|\\[[0-9a-f:]{2,9}\\])(:[0-9]{1,6})?(/secret[!-~]{0,20})?(\\?[!-~]{0,20})?",
    ) {
        if let Ok(to) = Address::parse(&text) {
            let shown = format!("{to} {to:?} {}", to.masked());
            prop_assert!(!shown.contains("/secret"), "{}", shown);
            let letter = Letter { to, headers: Vec::new(), body: String::new() };
            prop_assert!(request(&letter).is_some(), "{}", text);
        }
    }

    #[test]
    fn no_address_makes_it_panic(text in "\\PC{0,40}|https?://\\PC{0,40}") {
        let _ = Address::parse(&text);
    }
}
