//! A small HTTP server for the pages of [`Pages`]: GET and HEAD, one request for each connection,
//! everything bounded. Whoever sends slowly, much or nothing is sent away and delays nobody.

use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// How long the head of a request may take; so long all places can be taken by connections that say nothing.
const HEAD: Duration = Duration::from_secs(2);
/// How long a connection may take in all.
const ALL: Duration = Duration::from_secs(15);
/// The largest head of a request, in bytes.
const HEAD_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
/// Pause when no connection can be accepted (descriptors have run out).
const AGAIN: Duration = Duration::from_millis(200);

/// Plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// What is answered.
#[derive(Debug, Clone)]
pub struct Page {
    /// HTTP's status.
    pub status: u16,
    /// `Content-Type:`.
    pub kind: &'static str,
    /// The content.
    pub body: String,
}

/// What there is to see.
pub trait Pages: Send + Sync + 'static {
    /// The page at this path. It may compute for a while, and waits for nothing.
    fn page(&self, path: &str) -> Option<Page>;
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, pages: Arc<dyn Pages>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    // Pages are made one after the other: together they take one core at most.
    let turn = Arc::new(Semaphore::new(1));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let (pages, turn) = (Arc::clone(&pages), Arc::clone(&turn));
        tokio::spawn(async move {
            let _ = tokio::time::timeout(ALL, connection(stream, pages, turn)).await;
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, pages: Arc<dyn Pages>, turn: Arc<Semaphore>) {
    let service = service_fn(move |request| {
        let (pages, turn) = (Arc::clone(&pages), Arc::clone(&turn));
        async move { Ok::<_, Infallible>(answer(&request, pages, &turn).await) }
    });
    // What goes wrong on a connection is its peer's affair.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: &Request<Incoming>,
    pages: Arc<dyn Pages>,
    turn: &Semaphore,
) -> Response<String> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = respond(plain(405, "Only GET and HEAD.\n"));
        let allowed = HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(ALLOW, allowed);
        return refused;
    }
    let path = request.uri().path().to_owned();
    let _turn = turn.acquire().await;
    let made = tokio::task::spawn_blocking(move || pages.page(&path)).await;
    respond(match made {
        Ok(Some(page)) => page,
        Ok(None) => plain(404, "There are /metrics, /healthz, /readyz and /sd.\n"),
        Err(_) => plain(500, "This page could not be made.\n"),
    })
}

fn plain(status: u16, body: &str) -> Page {
    Page {
        status,
        kind: TEXT,
        body: body.to_owned(),
    }
}

fn respond(page: Page) -> Response<String> {
    let mut response = Response::new(page.body);
    *response.status_mut() =
        StatusCode::from_u16(page.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    struct Hello;

    impl Pages for Hello {
        fn page(&self, path: &str) -> Option<Page> {
            (path == "/hello").then(|| plain(200, "hello\n"))
        }
    }

    async fn start() -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(serve(listener, Arc::new(Hello)));
        Ok(address)
    }

    async fn ask(address: SocketAddr, request: &[u8]) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        // It may be answered, and closed, before all of it was sent.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    #[tokio::test]
    async fn pages_are_served_and_nothing_else() -> Outcome {
        let address = start().await?;
        let page = ask(address, b"GET /hello?x=1 HTTP/1.1\r\nHost: h\r\n\r\n").await?;
        assert!(
            page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("\r\n\r\nhello\n"),
            "{page}"
        );
        assert!(
            page.contains("content-type: text/plain; charset=utf-8\r\n"),
            "{page}"
        );
        let head = ask(address, b"HEAD /hello HTTP/1.1\r\nHost: h\r\n\r\n").await?;
        assert!(
            head.contains("content-length: 6\r\n") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
        for (request, status) in [
            ("GET /other HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), "404"),
            (
                "POST /hello HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
                "405",
            ),
            ("nonsense\r\n\r\n".to_owned(), "400"),
            (
                format!("GET /hello HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9_000)),
                "431",
            ),
            (
                format!("GET /hello HTTP/1.1\r\n{}\r\n", "X: x\r\n".repeat(100)),
                "431",
            ),
        ] {
            let answer = ask(address, request.as_bytes()).await?;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{request}: {answer}"
            );
        }
        Ok(())
    }

    #[tokio::test]
    async fn who_says_nothing_is_sent_away() -> Outcome {
        let address = start().await?;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS + 8 {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"GET /hello HTTP/1.1\r\nX: ").await?;
            silent.push(stream);
        }
        let begun = Instant::now();
        let page = ask(address, b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n").await?;
        assert!(page.contains("200 OK"), "{page}");
        assert!(begun.elapsed() < HEAD * 3, "{:?}", begun.elapsed());
        Ok(())
    }
}
