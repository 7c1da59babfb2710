//! The outbox drained into RabbitMQ, beside lapin publishing alone; and what a broker that is away costs.

use crate::broker::Broker;
use crate::launch::{self, CALLERS};
use crate::store::{admit, batches, create_projects, end};
use crate::table::{Goal, Table};
use crate::{Res, Size, median};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stratavore::adapters::rabbitmq::RabbitMq;
use stratavore::adapters::sqlite::SqliteStore;
use stratavore::domain::cloudevent::Message;
use stratavore::domain::host::{Load, Registration};
use stratavore::engine::relay::{LIMITS, Relay, RelaySettings};
use stratavore::ports::{Beat, Hosts, Outbox, Rows, Store};

/// Where the files are made: on the host's disk.
const BROKER: &str = "/var/lib/stratavore-bench-rabbitmq";
const FOLDER: &str = "/var/lib/stratavore-bench-outbox";
const EXCHANGE: &str = "bench";
const QUEUE: &str = "bench";
/// The host whose runners [`crate::store`] makes.
const HOST: &str = "host-0";
/// Between two events of a trickle.
const TRICKLE: Duration = Duration::from_millis(10);
/// Nobody listens there.
const NOBODY: &str = "[events]\namqp_urls = [\"amqp://bench@127.0.0.1:1/%2f\"]\n";
const CONFIGURATION: &str = "/etc/stratavore/stratavored.toml";

pub(crate) async fn measure(size: Size, table: &mut Table) -> Res<()> {
    let broker = Broker::start(Path::new(BROKER))?;
    let alone = Alone::connect(&broker).await?;
    let folder = Path::new(FOLDER);
    std::fs::create_dir_all(folder)?;
    let store = Arc::new(SqliteStore::open(&folder.join("outbox.db"), 3).await?);
    store.publish(true);
    store.join(registration(), beat()).await?;
    let admitting: Arc<dyn Store> = store.clone();
    create_projects(&admitting, 1).await?;

    // Once for whatever is done at first use; what is published in a turn is the same for both.
    drain(&store, &broker).await?;
    let (mut apart, mut together) = (Vec::new(), Vec::new());
    let mut messages = Vec::new();
    for _ in 0..size.rounds.min(3) {
        for (is_apart, rounds) in [(true, &mut apart), (false, &mut together)] {
            broker.keep_apart(is_apart)?;
            alone.purge().await?;
            for batch in batches(size.events / 2) {
                let ids = admit(&admitting, batch).await?;
                end(&admitting, ids).await?;
            }
            if messages.is_empty() {
                let rows = store.page(HOST, Rows::Pending, 0, 500).await?.rows;
                messages.extend(
                    rows.iter()
                        .map(|row| Message::new(&row.event, &row.store, &row.source, row.epoch)),
                );
            }
            let (events, took) = drain(&store, &broker).await?;
            let ours = events as f64 / took;
            alone.purge().await?;
            let begun = Instant::now();
            alone.publish(&messages, events).await?;
            rounds.push((ours, events as f64 / begun.elapsed().as_secs_f64()));
        }
    }
    broker.keep_apart(false)?;
    let what = format!("outbox of {} events drained", size.events);
    let ceiling = format!("lapin alone, window {}", LIMITS.window);
    // As with a broker on another machine, which is the common case.
    table.beside(
        format!("{what}, the broker on CPUs of its own; {ceiling}"),
        "1/s",
        &apart,
        Goal::AtLeast(0.9),
    );
    table.beside(
        format!("{what}, all on the same CPUs; {ceiling}"),
        "1/s",
        &together,
        Goal::None,
    );

    alone.purge().await?;
    let relay = relay(&store, &broker);
    let (mut ours, mut ceiling) = (Vec::new(), Vec::new());
    for n in 0..size.trickle as u64 {
        tokio::time::sleep(TRICKLE).await;
        let ids = admit(&admitting, 1).await?;
        let committed = Instant::now();
        published(&relay, 2 * n + 1).await?;
        ours.push(committed.elapsed().as_secs_f64() * 1e3);
        end(&admitting, ids).await?;
        published(&relay, 2 * n + 2).await?;
        tokio::time::sleep(TRICKLE).await;
        let begun = Instant::now();
        alone.publish(&messages[..1], 1).await?;
        ceiling.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    relay.flush(Duration::from_secs(10)).await;
    let rounds = [(p99(&mut ours), p99(&mut ceiling))];
    table.beside(
        "commit to confirm at a trickle, p99; lapin's publish to confirm",
        "ms",
        &rounds,
        Goal::None,
    );
    store.close().await;
    drop(broker);
    std::fs::remove_dir_all(folder)?;
    away(size, table).await
}

/// Launches while the broker does not answer, and without one.
async fn away(size: Size, table: &mut Table) -> Res<()> {
    if Path::new(CONFIGURATION).exists() {
        return Err(format!("{CONFIGURATION} is there: this host is not a disposable one").into());
    }
    std::fs::create_dir_all(Path::new(CONFIGURATION).parent().ok_or("no folder")?)?;
    let measured = launches(size).await;
    drop(std::fs::remove_file(CONFIGURATION));
    let what = format!("launches, {CALLERS} callers, broker away; no broker");
    table.between_ours(what, "1/s", &measured?, Goal::AtLeast(0.95));
    launch::services("restart").await
}

async fn launches(size: Size) -> Res<Vec<(f64, f64)>> {
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        callers.push(launch::connect().await?);
    }
    launch::create_project(&callers[0]).await?;
    let mut rounds = Vec::new();
    for _ in 0..size.rounds {
        let mut rates = [0.0; 2];
        for (n, text) in ["", NOBODY].into_iter().enumerate() {
            std::fs::write(CONFIGURATION, text)?;
            launch::services("restart").await?;
            let (rate, _) = launch::rate(size.turn, &callers).await?;
            launch::ended(&callers[0]).await?;
            rates[n] = rate;
        }
        rounds.push((rates[1], rates[0]));
    }
    Ok(rounds)
}

fn registration() -> Registration {
    Registration {
        host: HOST.to_owned(),
        name: HOST.to_owned(),
        boot_id: "bench".to_owned(),
        labels: BTreeMap::new(),
        max_runners: None,
        version: "0".to_owned(),
        advertise: String::new(),
    }
}

fn beat() -> Beat {
    Beat {
        ttl: u64::MAX,
        fenced_after: None,
        load: Load::default(),
    }
}

fn relay(store: &Arc<SqliteStore>, broker: &Broker) -> Relay {
    let settings = RelaySettings {
        host: HOST.to_owned(),
        park: true,
        limits: LIMITS,
    };
    let outbox: Arc<dyn Outbox> = store.clone();
    let broker = RabbitMq::new(broker.options(EXCHANGE));
    Relay::start(settings, outbox, Arc::new(broker))
}

/// Publishes what is there, and stops; how many events, and the seconds from the start to the last confirm.
async fn drain(store: &Arc<SqliteStore>, broker: &Broker) -> Res<(u64, f64)> {
    let events = store.backlog(HOST).await?.pending;
    let begun = Instant::now();
    let relay = relay(store, broker);
    published(&relay, events).await?;
    let took = begun.elapsed().as_secs_f64();
    match relay.flush(Duration::from_secs(30)).await {
        true => Ok((events, took)),
        false => Err("the relay did not settle within 30 s".into()),
    }
}

async fn published(relay: &Relay, events: u64) -> Res<()> {
    let begun = Instant::now();
    while relay.published() < events {
        if begun.elapsed() > Duration::from_secs(300) {
            return Err(format!("{:?}", relay.state().borrow()).into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn p99(values: &mut [f64]) -> f64 {
    // It sorts them.
    median(values);
    values
        .get(values.len() * 99 / 100)
        .copied()
        .unwrap_or(f64::NAN)
}

/// lapin with nothing of ours.
struct Alone {
    _connection: Connection,
    channel: Channel,
}

impl Alone {
    /// Makes the exchange and the queue that both publish to.
    async fn connect(broker: &Broker) -> Res<Self> {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(&broker.url(), properties).await?;
        let channel = connection.create_channel().await?;
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let none = FieldTable::default;
        channel
            .exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, durable, none())
            .await?;
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let mut arguments = none();
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
        channel
            .queue_declare(QUEUE.into(), durable, arguments)
            .await?;
        let options = QueueBindOptions::default();
        channel
            .queue_bind(QUEUE.into(), EXCHANGE.into(), "#".into(), options, none())
            .await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(Self {
            _connection: connection,
            channel,
        })
    }

    async fn purge(&self) -> Res<()> {
        let options = QueuePurgeOptions::default();
        self.channel.queue_purge(QUEUE.into(), options).await?;
        Ok(())
    }

    /// So many of these messages, one after the other and again, with the relay's window.
    async fn publish(&self, messages: &[Message], events: u64) -> Res<()> {
        let mut confirms = FuturesUnordered::new();
        let taken = |answer: lapin::Result<Confirmation>| match answer? {
            Confirmation::Ack(None) => Res::Ok(()),
            other => Err(format!("not taken: {other:?}").into()),
        };
        for message in messages.iter().cycle().take(usize::try_from(events)?) {
            if confirms.len() >= LIMITS.window
                && let Some(answer) = confirms.next().await
            {
                taken(answer)?;
            }
            let properties = BasicProperties::default()
                .with_content_type("application/cloudevents+json".into())
                .with_delivery_mode(2)
                .with_message_id(message.id.as_str().into())
                .with_type(message.kind.as_str().into())
                .with_timestamp(message.at)
                .with_app_id("bench".into());
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let key = ShortString::from(message.routing_key.as_str());
            let channel = self.channel.clone();
            confirms.push(async move {
                let body = &message.body;
                let sent = channel.basic_publish(EXCHANGE.into(), key, options, body, properties);
                // Many at a time are on their way to the socket: one after the other is slower.
                sent.await?.await
            });
        }
        while let Some(answer) = confirms.next().await {
            taken(answer)?;
        }
        Ok(())
    }
}
