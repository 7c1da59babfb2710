//! A consumer as the manual describes it: a queue of the example set-up, and the last number per subject.

use super::rabbit::Rabbit;
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What was seen, in order.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) all: Vec<Value>,
}

pub(crate) async fn channel(rabbit: &Rabbit) -> Channel {
    let uri = format!(
        "amqp://relay:{}@127.0.0.1:{}/%2f",
        rabbit.password, rabbit.port
    );
    let connection = Connection::connect(&uri, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    // The connection lives as long as the test.
    std::mem::forget(connection);
    channel
}

/// The queue of the shipped example, under this name, bound to this exchange.
pub(crate) async fn bind(channel: &Channel, exchange: &str, queue: &str, keys: &[&str]) {
    let text = std::fs::read_to_string("systemd/rabbitmq/consumer.json").unwrap();
    let example: Value = serde_json::from_str(&text).unwrap();
    let mut arguments = FieldTable::default();
    for (key, value) in example["queues"][0]["arguments"].as_object().unwrap() {
        let value = match value {
            Value::String(text) => AMQPValue::LongString(text.as_str().into()),
            number => AMQPValue::LongInt(i32::try_from(number.as_i64().unwrap()).unwrap()),
        };
        arguments.insert(ShortString::from(key.as_str()), value);
    }
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    for (name, kind) in [
        (exchange, ExchangeKind::Topic),
        ("stratavore.dead", ExchangeKind::Fanout),
    ] {
        channel
            .exchange_declare(name.into(), kind, durable, FieldTable::default())
            .await
            .unwrap();
    }
    let durable = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare(queue.into(), durable, arguments)
        .await
        .unwrap();
    for key in keys {
        let options = QueueBindOptions::default();
        channel
            .queue_bind(
                queue.into(),
                exchange.into(),
                (*key).into(),
                options,
                FieldTable::default(),
            )
            .await
            .unwrap();
    }
}

/// A queue that is full after ten messages, and says so.
pub(crate) async fn bind_small(channel: &Channel, exchange: &str, queue: &str, key: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(10));
    let overflow = AMQPValue::LongString("reject-publish".into());
    arguments.insert("x-overflow".into(), overflow);
    let durable = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare(queue.into(), durable, arguments)
        .await
        .unwrap();
    let options = QueueBindOptions::default();
    channel
        .queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            options,
            FieldTable::default(),
        )
        .await
        .unwrap();
}

/// How many messages wait in it.
pub(crate) async fn length(channel: &Channel, queue: &str) -> u32 {
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let queue = channel.queue_declare(queue.into(), passive, FieldTable::default());
    queue.await.unwrap().message_count()
}

pub(crate) async fn remove(channel: &Channel, queue: &str) {
    let removed = channel.queue_delete(queue.into(), Default::default());
    removed.await.unwrap();
}

impl Log {
    /// Reads the queue until `enough` is seen and nothing has come for a moment, or a minute is over.
    pub(crate) async fn read(&mut self, channel: &Channel, queue: &str, enough: usize) {
        let tag = format!("c{}", self.all.len());
        let mut consumer = channel
            .basic_consume(
                queue.into(),
                tag.as_str().into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            let quiet = match self.distinct() >= enough {
                true => Duration::from_millis(400),
                false => Duration::from_secs(60).saturating_sub(begun.elapsed()),
            };
            let Ok(Some(Ok(delivery))) = tokio::time::timeout(quiet, consumer.next()).await else {
                break;
            };
            delivery.ack(BasicAckOptions::default()).await.unwrap();
            assert_eq!(
                delivery
                    .properties
                    .content_type()
                    .as_ref()
                    .unwrap()
                    .as_str(),
                "application/cloudevents+json"
            );
            assert_eq!(*delivery.properties.delivery_mode(), Some(2));
            let event: Value = serde_json::from_slice(&delivery.data).unwrap();
            let id = delivery
                .properties
                .message_id()
                .as_ref()
                .unwrap()
                .as_str()
                .to_owned();
            assert_eq!(event["id"], id.as_str());
            crate::schema::message(&event);
            let key = event["type"]
                .as_str()
                .unwrap()
                .trim_start_matches("org.stratavore.");
            assert!(delivery.routing_key.as_str().ends_with(key), "{event}");
            self.all.push(event);
        }
        let _ = channel
            .basic_cancel(tag.as_str().into(), Default::default())
            .await;
    }

    fn distinct(&self) -> usize {
        let ids: std::collections::HashSet<_> = self.all.iter().map(|e| e["id"].as_str()).collect();
        ids.len()
    }

    /// The numbers seen for each subject, and how many came twice. Panics where one came out of order.
    pub(crate) fn seen(&self) -> (BTreeMap<String, u64>, usize) {
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        let mut twice = 0;
        for event in &self.all {
            let subject = event["subject"].as_str().unwrap();
            let seq = event["runnerseq"].as_u64().unwrap();
            let last = seen.entry(subject.to_owned()).or_default();
            if seq <= *last {
                twice += 1;
                continue;
            }
            assert_eq!(seq, *last + 1, "a gap in {subject}");
            *last = seq;
        }
        (seen, twice)
    }
}
