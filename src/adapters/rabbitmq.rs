//! The broker: RabbitMQ, through lapin.
//!
//! Connections are made and given up by whoever uses them (the relay): lapin's own recovery gives up
//! after a while. Every wait is bounded. Each publish is mandatory, persistent and confirmed.
//!
//! **Returned messages.** The broker returns an unroutable message before it confirms it. lapin attaches the
//! *oldest* returned message to whichever confirm comes next, so with several under way a plain
//! confirm says nothing about its own message. Returned messages are therefore known by their own id,
//! and a message is settled only when everything published before it and itself is confirmed: lapin hands
//! returned messages out in the order of publishing, so by then its own, if there was one, is here.

mod link;

use crate::domain::cloudevent::{CONTENT_TYPE, Message};
use crate::domain::relay::Outcome;
use crate::domain::secret::Secret;
use crate::ports::{Broker, BrokerError, Publisher, Told};
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::{AMQPAuthority, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Event, ExchangeKind,
};
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// How long a server may take for each step of letting us in.
const STEP: Duration = Duration::from_secs(10);
/// How often each side shows the other that it lives, in seconds.
const HEARTBEAT: u16 = 20;
/// How long the broker may take for its next word about what is under way. It may be flushing a disk.
const SILENT: Duration = Duration::from_secs(60);
/// How long a good-bye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Where brokers are, and who we are there.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// Tried in this order.
    pub servers: Vec<Server>,
    /// For all of them.
    pub password: Option<Secret>,
    /// The file with the authorities that sign their certificates (PEM); `None` = the system's.
    pub ca: Option<PathBuf>,
    /// The files with our own certificate and its key (PEM).
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The exchange, which is made where it is not there.
    pub exchange: String,
    /// What the broker's lists call this connection.
    pub name: String,
}

/// One broker, or one of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// A name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Encrypted, and its certificate checked.
    pub tls: bool,
    /// Our certificate says who we are (SASL EXTERNAL).
    pub external: bool,
    /// The user.
    pub user: String,
    /// The virtual host.
    pub vhost: String,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "amqps" } else { "amqp" };
        let (host, port) = (&self.host, self.port);
        match host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{port}"),
            false => write!(f, "{scheme}://{host}:{port}"),
        }?;
        match self.vhost.as_str() {
            "/" => Ok(()),
            vhost => write!(f, " (virtual host {vhost})"),
        }
    }
}

/// Brokers as they are configured.
#[derive(Debug)]
pub struct RabbitMq {
    options: BrokerOptions,
    /// The one that let us in last.
    last: AtomicUsize,
}

impl RabbitMq {
    /// Nothing is connected yet.
    pub fn new(options: BrokerOptions) -> Self {
        Self {
            options,
            last: AtomicUsize::default(),
        }
    }

    /// What no broker could make work: certificates that can't be used.
    pub fn check(options: &BrokerOptions) -> Result<(), String> {
        if options.servers.iter().any(|server| server.tls) {
            link::configuration(options)?;
        }
        Ok(())
    }

    async fn attempt(&self, server: &Server) -> Result<Rabbit, String> {
        let options = &self.options;
        let tls = server.tls.then_some(options);
        let (wire, cut) = within("no connection", link::dial(server, tls)).await?;
        let uri = AMQPUri {
            scheme: AMQPScheme::AMQP,
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo {
                    username: server.user.clone(),
                    password: options
                        .password
                        .as_ref()
                        .map_or_else(String::new, |password| password.reveal().to_owned()),
                },
                host: server.host.clone(),
                port: server.port,
            },
            vhost: server.vhost.clone(),
            query: lapin::uri::AMQPQueryString {
                heartbeat: Some(HEARTBEAT),
                auth_mechanism: Some(match server.external {
                    true => SASLMechanism::External,
                    false => SASLMechanism::Plain,
                }),
                ..Default::default()
            },
        };
        let properties = ConnectionProperties::default()
            .with_connection_name(options.name.as_str().into())
            .with_client_property("product".into(), "stratavored".into());
        let wire = Mutex::new(Some(wire));
        let connecting = link::connect(uri, wire, properties);
        let connection = within("no answer to the greeting", connecting.map(told)).await?;
        let channel = within("no channel", connection.create_channel().map(told)).await?;
        let exchange = ShortString::from(options.exchange.as_str());
        let declare = async |channel: &Channel, passive: bool| {
            let options = ExchangeDeclareOptions {
                passive,
                durable: true,
                ..ExchangeDeclareOptions::default()
            };
            let name = exchange.clone();
            let declared =
                channel.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default());
            within("no answer about the exchange", declared.map(told)).await
        };
        // Whoever may not make it may look for it. The refusal was the end of the channel.
        let channel = match declare(&channel, false).await {
            Ok(()) => channel,
            Err(why) if !why.contains("ACCESS") => return Err(why),
            Err(_) => {
                let channel = connection.create_channel().map(told);
                let channel = within("no channel", channel).await?;
                declare(&channel, true).await?;
                channel
            }
        };
        let confirmed = channel.confirm_select(ConfirmSelectOptions::default());
        within("no answer about confirms", confirmed.map(told)).await?;
        // Only now: a refusal to make the exchange is no event that ends it.
        let events = connection.events_listener().boxed();
        Ok(Rabbit {
            connection,
            channel: Arc::new(channel),
            exchange,
            events,
            pending: FuturesUnordered::new(),
            line: VecDeque::new(),
            first: 0,
            returned: HashSet::new(),
            blocked: false,
            heard: Instant::now(),
            _cut: cut,
        })
    }
}

/// The most characters of what the other side says.
const SAID_MAX: usize = 500;

/// What the other side says, for a journal or a terminal: one line without control characters.
fn clean(said: &str) -> String {
    let line = said.chars().take(SAID_MAX);
    line.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What lapin says of an error, in one line.
fn told<T>(result: lapin::Result<T>) -> Result<T, String> {
    result.map_err(|error| clean(&error.to_string()))
}

async fn within<T>(what: &str, step: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = |_| Err(format!("{what} within {} s", STEP.as_secs()));
    timeout(STEP, step).await.unwrap_or_else(late)
}

#[async_trait]
impl Broker for RabbitMq {
    async fn connect(&self) -> Result<Box<dyn Publisher>, BrokerError> {
        let mut whys = Vec::new();
        let servers = &self.options.servers;
        let first = self.last.load(Ordering::Relaxed);
        for n in 0..servers.len() {
            let at = (first + n) % servers.len();
            let server = &servers[at];
            match self.attempt(server).await {
                Ok(rabbit) => {
                    self.last.store(at, Ordering::Relaxed);
                    return Ok(Box::new(rabbit));
                }
                Err(why) => whys.push(format!("{server}: {}", clean(&why))),
            }
        }
        Err(BrokerError(whys.join("; ")))
    }
}

type Confirming = BoxFuture<'static, (u64, lapin::Result<Confirmation>)>;

/// A message that was handed over.
#[derive(Debug)]
struct Sent {
    position: u64,
    /// Whether it was taken, as far as its own confirm says.
    taken: Option<bool>,
}

/// One connection with one channel.
struct Rabbit {
    connection: Connection,
    channel: Arc<Channel>,
    exchange: ShortString,
    events: BoxStream<'static, Event>,
    pending: FuturesUnordered<Confirming>,
    /// What is not settled, in the order of publishing; the first has the number `first`.
    line: VecDeque<Sent>,
    first: u64,
    /// Positions of messages that came back.
    returned: HashSet<u64>,
    blocked: bool,
    /// When the broker said something about what is under way, or nothing was.
    heard: Instant,
    /// Ends the connection, whatever state it is in, when this is dropped.
    _cut: link::Cut,
}

impl fmt::Debug for Rabbit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let under_way = self.line.len();
        f.debug_struct("Rabbit")
            .field("under_way", &under_way)
            .finish_non_exhaustive()
    }
}

impl Rabbit {
    /// A confirm has come, with whatever message lapin has attached to it.
    fn heard(&mut self, number: u64, answer: lapin::Result<Confirmation>) -> Result<(), String> {
        let (taken, came_back) = match told(answer)? {
            Confirmation::Ack(message) => (true, message),
            Confirmation::Nack(message) => (false, message),
            Confirmation::NotRequested => {
                return Err("the channel does not confirm what it takes".to_owned());
            }
        };
        if let Some(message) = came_back {
            let id = message.delivery.properties.message_id().as_ref();
            let position = id.and_then(|id| id.as_str().rsplit_once('-')?.1.parse::<u64>().ok());
            self.returned.extend(position);
        }
        let index = usize::try_from(number - self.first).unwrap_or(usize::MAX);
        if let Some(sent) = self.line.get_mut(index) {
            sent.taken = Some(taken);
        }
        self.heard = Instant::now();
        Ok(())
    }

    /// What is settled: everything before it is confirmed, and so is it.
    fn settled(&mut self) -> Vec<(u64, Outcome)> {
        let mut settled = Vec::new();
        while let Some(Sent {
            position,
            taken: Some(taken),
        }) = self.line.front()
        {
            let outcome = match (taken, self.returned.remove(position)) {
                (false, _) => Outcome::Refused,
                (true, true) => Outcome::Returned,
                (true, false) => Outcome::Confirmed,
            };
            settled.push((*position, outcome));
            self.line.pop_front();
            self.first += 1;
        }
        settled
    }
}

#[async_trait]
impl Publisher for Rabbit {
    fn publish(&mut self, message: &Arc<Message>) -> Result<(), BrokerError> {
        let number = self.first + self.line.len() as u64;
        if self.line.is_empty() {
            self.heard = Instant::now();
        }
        self.line.push_back(Sent {
            position: message.position,
            taken: None,
        });
        let properties = BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_delivery_mode(2)
            .with_message_id(message.id.as_str().into())
            .with_type(message.kind.as_str().into())
            .with_timestamp(message.at)
            .with_app_id("stratavore".into());
        let (channel, exchange) = (Arc::clone(&self.channel), self.exchange.clone());
        let message = Arc::clone(message);
        let mut confirming: Confirming = Box::pin(async move {
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let key = ShortString::from(message.routing_key.as_str());
            let published =
                channel.basic_publish(exchange, key, options, &message.body, properties);
            match published.await {
                Ok(confirm) => (number, confirm.await),
                Err(error) => (number, Err(error)),
            }
        });
        // The first poll numbers it and puts it in line for the socket, so that they go in this order.
        let mut nobody = Context::from_waker(Waker::noop());
        match confirming.as_mut().poll(&mut nobody) {
            Poll::Ready((number, answer)) => self.heard(number, answer).map_err(BrokerError),
            Poll::Pending => {
                self.pending.push(confirming);
                Ok(())
            }
        }
    }

    async fn news(&mut self) -> Result<Told, BrokerError> {
        loop {
            let settled = self.settled();
            if !settled.is_empty() {
                return Ok(Told::Settled(settled));
            }
            let silent = self.heard + SILENT;
            let waits = !self.line.is_empty() && !self.blocked;
            tokio::select! {
                Some((number, answer)) = self.pending.next(), if !self.pending.is_empty() => {
                    self.heard(number, answer).map_err(BrokerError)?;
                    // Whatever has come with it, before anything is settled.
                    while let Some(Some((number, answer))) = self.pending.next().now_or_never() {
                        self.heard(number, answer).map_err(BrokerError)?;
                    }
                }
                event = self.events.next() => match event {
                    Some(Event::ConnectionBlocked(why)) => {
                        self.blocked = true;
                        return Ok(Told::Blocked(Some(clean(&why))));
                    }
                    Some(Event::ConnectionUnblocked) => {
                        self.blocked = false;
                        self.heard = Instant::now();
                        return Ok(Told::Blocked(None));
                    }
                    Some(Event::Error(error)) => return Err(BrokerError(clean(&error.to_string()))),
                    Some(_) => {}
                    None => return Err(BrokerError("the connection is gone".to_owned())),
                },
                () = sleep_until(silent), if waits => {
                    let why = format!("no word about what is under way for {} s", SILENT.as_secs());
                    return Err(BrokerError(why));
                }
            }
        }
    }

    async fn close(self: Box<Self>) {
        let bye = self.connection.close(200, "stratavored stops".into());
        let _ = timeout(GOODBYE, bye).await;
    }
}
