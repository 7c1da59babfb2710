//! A way to the broker that can be cut, and that can swallow what the broker says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    swallow: Arc<AtomicBool>,
    closed: Arc<AtomicBool>,
    generation: watch::Sender<u64>,
    /// Bytes that went to the broker.
    pub(crate) sent: Arc<AtomicU64>,
    /// Bytes of the broker that were swallowed.
    pub(crate) swallowed: Arc<AtomicU64>,
    /// Connections that were made.
    pub(crate) made: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            swallow: Arc::default(),
            closed: Arc::default(),
            generation: watch::Sender::new(0),
            sent: Arc::default(),
            swallowed: Arc::default(),
            made: Arc::default(),
        };
        let serving = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                serving.made.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serving.clone().serve(client, port));
            }
        });
        proxy
    }

    async fn serve(self, client: TcpStream, port: u16) {
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        let Ok(broker) = TcpStream::connect(("127.0.0.1", port)).await else {
            return;
        };
        let mut generation = self.generation.subscribe();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_broker, mut to_broker) = broker.into_split();
        let up = async {
            let mut buffer = vec![0; 16_384];
            loop {
                let n = from_client.read(&mut buffer).await.unwrap_or(0);
                if n == 0 || to_broker.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
                self.sent.fetch_add(n as u64, Ordering::Relaxed);
            }
        };
        let down = async {
            let mut buffer = vec![0; 16_384];
            loop {
                let n = from_broker.read(&mut buffer).await.unwrap_or(0);
                let swallowed = self.swallow.load(Ordering::Relaxed);
                if n == 0 || (!swallowed && to_client.write_all(&buffer[..n]).await.is_err()) {
                    return;
                }
                if swallowed {
                    self.swallowed.fetch_add(n as u64, Ordering::Relaxed);
                }
            }
        };
        tokio::select! {
            () = up => {}
            () = down => {}
            _ = generation.changed() => {}
        }
    }

    /// Ends all connections at once.
    pub(crate) fn cut(&self) {
        self.generation.send_modify(|n| *n += 1);
    }

    /// Nobody is let through from now on.
    pub(crate) fn close(&self, yes: bool) {
        self.closed.store(yes, Ordering::Relaxed);
    }

    /// Nothing that the broker says arrives from now on.
    pub(crate) fn swallow(&self, yes: bool) {
        self.swallow.store(yes, Ordering::Relaxed);
    }
}
