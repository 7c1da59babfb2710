//! The way to a broker: TCP, TLS where it is wanted, and a cord to cut it with.
//!
//! lapin's own TLS brings a second set of cryptography along and trusts the system's authorities beside
//! ours, so the connection is made here and handed over to it.

use super::{BrokerOptions, STEP, Server};
use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use futures_util::task::AtomicWaker;
use lapin::tcp::AsyncTcpStream;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The most addresses of a name that are tried.
const ADDRESSES: usize = 8;

/// Cuts the connection when it is dropped.
pub(super) struct Cut(Arc<Cord>);

#[derive(Default)]
struct Cord {
    is_cut: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.0.is_cut.store(true, Ordering::Release);
        self.0.reader.wake();
        self.0.writer.wake();
    }
}

impl Cord {
    fn check(&self, waker: &AtomicWaker, cx: &Context<'_>) -> io::Result<()> {
        waker.register(cx.waker());
        match self.is_cut.load(Ordering::Acquire) {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

enum Inner {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection as lapin uses it.
pub(super) struct Wire {
    inner: Inner,
    cord: Arc<Cord>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

macro_rules! on_stream {
    ($wire:expr, $call:ident, $($argument:expr),*) => {
        match &mut $wire.inner {
            Inner::Plain(stream) => Pin::new(stream).$call($($argument),*),
            Inner::Tls(stream) => Pin::new(stream.as_mut()).$call($($argument),*),
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.cord.check(&self.cord.reader, cx)?;
        let mut buffer = ReadBuf::new(bytes);
        std::task::ready!(on_stream!(self, poll_read, cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.cord.check(&self.cord.writer, cx)?;
        on_stream!(self, poll_write, cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cord.check(&self.cord.writer, cx)?;
        on_stream!(self, poll_flush, cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cord.check(&self.cord.writer, cx).is_err() {
            return Poll::Ready(Ok(()));
        }
        on_stream!(self, poll_shutdown, cx)
    }
}

/// tokio, with our kind of connection.
#[derive(Debug, Clone)]
pub(super) struct Kit(Tokio);

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, f: F) -> T {
        self.0.block_on(f)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        f: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(f)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        f: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(f)
    }
}

impl Reactor for Kit {
    type TcpStream = Wire;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, span: Duration) -> Self::Sleep {
        self.0.sleep(span)
    }

    fn interval(&self, span: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(span)
    }

    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Wire>> + Send + 'static {
        // Nobody asks: connections are made by `dial`.
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

/// Connects, encrypted where options are given. The error is for a person, and says nothing secret.
pub(super) async fn dial(
    server: &Server,
    tls: Option<&BrokerOptions>,
) -> Result<(Wire, Cut), String> {
    let stream = reach(server).await?;
    let _ = stream.set_nodelay(true);
    let inner = match tls {
        None => Inner::Plain(stream),
        Some(options) => {
            let name = ServerName::try_from(server.host.clone())
                .map_err(|_| "TLS: this is no name of a host".to_owned())?;
            let connector = TlsConnector::from(Arc::new(configuration(options)?));
            let stream = connector.connect(name, stream).await;
            Inner::Tls(Box::new(stream.map_err(|e| format!("TLS: {e}"))?))
        }
    };
    let cord = Arc::<Cord>::default();
    let cut = Cut(Arc::clone(&cord));
    Ok((Wire { inner, cord }, cut))
}

/// Each address the name has in its turn: one that does not answer must not hide the others.
async fn reach(server: &Server) -> Result<TcpStream, String> {
    let addresses = lookup_host((server.host.as_str(), server.port)).await;
    let addresses: Vec<_> = addresses
        .map_err(|e| e.to_string())?
        .take(ADDRESSES)
        .collect();
    let each = STEP / 2 / u32::try_from(addresses.len().max(2)).unwrap_or(u32::MAX) * 2;
    let mut why = "the name has no address".to_owned();
    for address in addresses {
        match timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => why = format!("no answer from {}", address.ip()),
        }
    }
    Err(why)
}

/// How TLS is to be made. The error names the file that can't be used.
pub(super) fn configuration(options: &BrokerOptions) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match &options.ca {
        Some(file) => {
            for authority in certificates(file)? {
                roots
                    .add(authority)
                    .map_err(|e| format!("TLS: {}: {e}", file.display()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(
            "TLS: no authority is known that could have signed the broker's certificate; give the credential amqp-ca"
                .to_owned(),
        );
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS: {e}"))?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &options.certificate else {
        return Ok(config.with_no_client_auth());
    };
    let parsed = PrivateKeyDer::from_pem_file(key)
        .map_err(|_| format!("TLS: {} has no key in PEM", key.display()))?;
    config
        .with_client_auth_cert(certificates(certificate)?, parsed)
        .map_err(|e| format!("TLS: {} and its key: {e}", certificate.display()))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |e: &dyn fmt::Display| format!("TLS: {}: {e}", file.display());
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file)
        .map_err(|e| failed(&e))?
        .collect();
    match all.map_err(|e| failed(&e))? {
        none if none.is_empty() => Err(failed(&"no certificate in PEM")),
        all => Ok(all),
    }
}

/// Greets over a connection that is there.
pub(super) async fn connect(
    uri: AMQPUri,
    wire: Mutex<Option<Wire>>,
    properties: ConnectionProperties,
) -> lapin::Result<Connection> {
    let runtime = Runtime::new(Kit(Tokio::current()));
    let give = async move |_: AMQPUri, _: Runtime<Kit>| {
        let wire = wire.lock().unwrap_or_else(PoisonError::into_inner).take();
        wire.map(AsyncTcpStream::Plain)
            .ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted).into())
    };
    Connection::connector(uri, runtime, give, properties).await
}
