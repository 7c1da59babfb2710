//! The relay to the broker, where one is configured.

use super::Fatal;
use crate::adapters::rabbitmq::{BrokerOptions, RabbitMq, Server};
use crate::config::{AmqpUrl, Config, Credentials, Unroutable};
use crate::domain::kinds;
use crate::engine::relay::{LIMITS, Relay, RelaySettings};
use crate::ports::Outbox;
use std::sync::Arc;
use std::time::Duration;

/// Rows that are left in one transaction.
const LEFT: u32 = 500;
/// Before the store is asked again that did not answer.
const AGAIN: Duration = Duration::from_secs(30);
/// How often hosts are looked for that were given up meanwhile.
const LOOK: Duration = Duration::from_secs(600);

/// Where the broker is, and who we are there; `None` = none is configured.
fn options(config: &Config, host_name: &str) -> Result<Option<BrokerOptions>, String> {
    if config.events.urls.is_empty() {
        return Ok(None);
    }
    let credentials = Credentials::of_broker()?;
    let server = |url: &AmqpUrl| Server {
        host: url.host.clone(),
        port: url.port,
        tls: url.tls,
        external: url.external,
        user: url.user.clone(),
        vhost: url.vhost.clone(),
    };
    let options = BrokerOptions {
        servers: config.events.urls.iter().map(server).collect(),
        password: credentials.password,
        ca: credentials.ca,
        certificate: credentials.certificate,
        exchange: config.events.exchange.clone(),
        name: format!("stratavored on {host_name}"),
    };
    sound(&options)?;
    Ok(Some(options))
}

/// What could not work whatever the broker says, or would be less than what was asked for.
fn sound(options: &BrokerOptions) -> Result<(), String> {
    let certified = options.certificate.is_some();
    if !certified && options.servers.iter().any(|server| server.external) {
        return Err("events.amqp_urls has auth_mechanism=external: give our certificate, the credentials amqp-cert and amqp-key.".to_owned());
    }
    let encrypted = options.servers.iter().any(|server| server.tls);
    if !encrypted && (certified || options.ca.is_some()) {
        return Err("The credentials amqp-ca, amqp-cert and amqp-key are for amqps://, and events.amqp_urls has none such.".to_owned());
    }
    RabbitMq::check(options)
}

/// Leaves what was still to be published to whoever has a broker: another host of the fleet, or this one when it
/// has one again. So it does with what hosts had that are given up: without a broker nobody else sees to it, and
/// what is somebody's is never removed.
async fn leave(outbox: Arc<dyn Outbox>, host_id: String) {
    let mut count = 0;
    loop {
        let pause = match outbox.leave(&host_id, LEFT).await {
            Ok(0) => {
                let count = std::mem::take(&mut count);
                if count > 0 {
                    tracing::warn!(
                        message_id = kinds::EVENTS_LEFT.id,
                        count,
                        "Events are left that were to be published, and no broker is configured any more"
                    );
                }
                LOOK
            }
            Ok(rows) => {
                count += rows;
                continue;
            }
            Err(error) => {
                tracing::debug!(%error, "Events that were to be published stay as they are for now");
                AGAIN
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Has the store keep this host's events for the broker, and starts the relay. To be called before the host
/// joins.
pub(super) fn start(
    config: &Config,
    host_id: &str,
    host_name: &str,
    outbox: Arc<dyn Outbox>,
) -> Result<Option<Relay>, Fatal> {
    let options = options(config, host_name).map_err(Fatal::Configuration)?;
    outbox.publish(options.is_some());
    let Some(options) = options else {
        tokio::spawn(leave(outbox, host_id.to_owned()));
        return Ok(None);
    };
    let settings = RelaySettings {
        host: host_id.to_owned(),
        park: config.events.unroutable == Unroutable::Park,
        limits: LIMITS,
    };
    let broker = Arc::new(RabbitMq::new(options));
    Ok(Some(Relay::start(settings, outbox, broker)))
}
