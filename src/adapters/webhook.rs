//! Posts letters to webhooks by HTTP/1.1: one connection for each, everything bounded in time and size,
//! redirects not followed. An answer's status is all that is read of it with attention, and decides alone.

use crate::domain::notify::Address;
use crate::ports::{Courier, Letter, Undelivered};
use async_trait::async_trait;
use futures_util::future::{Either, select};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// How long one try may take in all.
const TRY_MAX: Duration = Duration::from_secs(10);
/// And for one address to take the connection: another one may.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;
/// How long the body of an answer is read, and how much of it: some receivers mind a connection that is closed on them.
const BODY_TIME: Duration = Duration::from_secs(1);
const BODY_MAX: usize = 64 << 10;
/// The largest head of an answer, in bytes.
const HEAD_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
/// Names that are looked up at a time. Each takes a thread, which nothing can stop while the name server is silent.
const LOOKUPS_MAX: usize = 8;

/// The way to webhooks.
#[derive(Debug)]
pub struct Webhooks {
    lookups: Arc<Semaphore>,
    /// Whose certificates are good; `None` = those whom the system trusts, as they are then.
    authorities: Option<RootCertStore>,
    /// How long one try may take.
    try_max: Duration,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self {
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            authorities: None,
            try_max: TRY_MAX,
        }
    }
}

#[async_trait]
impl Courier for Webhooks {
    async fn post(&self, letter: &Letter) -> Result<(), Undelivered> {
        let heard = OnceLock::new();
        match timeout(self.try_max, self.attempt(letter, &heard)).await {
            Ok(done) => done,
            // The receiver has it, or has refused it, whatever became of the rest of its answer.
            Err(_) => heard.get().copied().map_or_else(
                || later(format!("no answer within {} s", self.try_max.as_secs())),
                judge,
            ),
        }
    }
}

fn later<T>(why: impl Into<String>) -> Result<T, Undelivered> {
    Err(Undelivered::Later(why.into()))
}

impl Webhooks {
    /// `heard` is the status from the moment on when it is there.
    async fn attempt(
        &self,
        letter: &Letter,
        heard: &OnceLock<StatusCode>,
    ) -> Result<(), Undelivered> {
        let stream = self.connect(&letter.to).await?;
        if !letter.to.is_https() {
            return exchange(stream, letter, heard).await;
        }
        let tls = self.tls().await?;
        let Ok(name) = ServerName::try_from(letter.to.host().to_owned()) else {
            let why = "the host of the address is no name that a certificate could have";
            return Err(Undelivered::Never(why.to_owned()));
        };
        match tls.connect(name, stream).await {
            Ok(stream) => exchange(stream, letter, heard).await,
            Err(error) => later(format!("no encrypted connection ({error})")),
        }
    }

    /// Connects to the first address that lets us.
    async fn connect(&self, to: &Address) -> Result<TcpStream, Undelivered> {
        let mut why = "its name has no address".to_owned();
        for address in self.look_up(to).await?.into_iter().take(ADDRESSES_MAX) {
            match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                // The unit's packet filter swallows what it does not let through, or says so.
                Ok(Err(error)) if error.kind() != ErrorKind::PermissionDenied => {
                    why = format!("no connection to {address} ({error})");
                }
                _ => {
                    why = format!(
                        "no connection to {address} within {} s; does IPAddressAllow= of stratavored.service let it through?",
                        CONNECT_MAX.as_secs()
                    );
                }
            }
        }
        later(why)
    }

    /// Not by `spawn_blocking`, whose threads the daemon would wait for at its end.
    async fn look_up(&self, to: &Address) -> Result<Vec<SocketAddr>, Undelivered> {
        let (host, port) = (to.host().to_owned(), to.port());
        let literal = host.trim_matches(['[', ']']).parse::<IpAddr>();
        if let Ok(address) = literal {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let Ok(permit) = Arc::clone(&self.lookups).acquire_owned().await else {
            return later("its name can't be looked up");
        };
        let (tell, told) = oneshot::channel();
        let thread = std::thread::Builder::new().name("lookup".to_owned());
        let begun = thread.spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs();
            let _ = tell.send(found.map(Vec::from_iter));
            drop(permit);
        });
        if let Err(error) = begun {
            return later(format!("its name can't be looked up ({error})"));
        }
        match told.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => later(format!("its name can't be looked up ({error})")),
            Err(_) => later("its name can't be looked up"),
        }
    }

    async fn tls(&self) -> Result<TlsConnector, Undelivered> {
        let roots = match &self.authorities {
            Some(roots) => roots.clone(),
            None => {
                // Files are read.
                let read = tokio::task::spawn_blocking(|| {
                    let mut roots = RootCertStore::empty();
                    let found = rustls_native_certs::load_native_certs();
                    roots.add_parsable_certificates(found.certs);
                    roots
                });
                read.await.unwrap_or_else(|_| RootCertStore::empty())
            }
        };
        if roots.is_empty() {
            let why =
                "this host trusts no certificate authority: install the package ca-certificates";
            return later(why);
        }
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map(|config| config.with_root_certificates(roots).with_no_client_auth());
        match config {
            Ok(config) => Ok(TlsConnector::from(Arc::new(config))),
            Err(error) => later(format!("no encrypted connection ({error})")),
        }
    }
}

fn request(letter: &Letter) -> Option<Request<String>> {
    let mut request = Request::new(letter.body.clone());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = letter.to.target().reveal().parse().ok()?;
    let headers = request.headers_mut();
    headers.insert(HOST, letter.to.authority().parse().ok()?);
    headers.insert(USER_AGENT, HeaderValue::from_static("stratavored"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in &letter.headers {
        headers.insert(name.parse::<HeaderName>().ok()?, value.parse().ok()?);
    }
    Some(request)
}

/// One request, one answer.
async fn exchange<S>(
    stream: S,
    letter: &Letter,
    heard: &OnceLock<StatusCode>,
) -> Result<(), Undelivered>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(request) = request(letter) else {
        return Err(Undelivered::Never("its address is no URL".to_owned()));
    };
    let made = http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await;
    let (mut sender, connection) = match made {
        Ok(made) => made,
        Err(error) => return later(format!("no connection ({error})")),
    };
    let answered = pin!(async move {
        let answer = sender.send_request(request).await;
        let answer = answer.or_else(|error| later(format!("no answer of HTTP ({error})")))?;
        let status = answer.status();
        let _ = heard.set(status);
        let _ = timeout(BODY_TIME, drain(answer.into_body())).await;
        judge(status)
    });
    // The connection has to be driven for anything to happen; it may be over before the answer is looked at.
    match select(answered, pin!(connection)).await {
        Either::Left((judged, _)) => judged,
        Either::Right((_, answered)) => answered.await,
    }
}

/// Reads a body for as long as it is small.
async fn drain(mut body: Incoming) {
    let mut left = BODY_MAX;
    while let Some(Ok(frame)) =
        std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        let size = frame.data_ref().map_or(0, |data| data.len());
        match left.checked_sub(size) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn judge(status: StatusCode) -> Result<(), Undelivered> {
    let code = status.as_u16();
    match code {
        200..=299 => Ok(()),
        300..=399 => Err(Undelivered::Never(format!(
            "it answers with a redirect ({code}), and those are not followed: give the address that it leads to"
        ))),
        408 | 425 | 429 | 500..=599 => later(format!("it answers {code}")),
        _ => Err(Undelivered::Never(format!("it answers {code}"))),
    }
}

#[cfg(test)]
mod tests;
