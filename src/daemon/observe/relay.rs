//! The relay in numbers: what waits for the broker, as it was counted a few seconds ago, and how the broker is.

use crate::engine::Engine;
use crate::engine::relay::BrokerState;
use prometheus::core::Collector;
use prometheus::{IntCounter, IntGauge};

/// What is known. Without a broker there is nothing to be up or to wait; what was not counted yet is left out.
pub(super) fn collectors(engine: &Engine) -> prometheus::Result<Vec<Box<dyn Collector>>> {
    let relay = engine.relay();
    let state = relay.map(|relay| relay.state().borrow().clone());
    let published = IntCounter::new(
        "stratavore_outbox_published_total",
        "Events that the broker has confirmed.",
    )?;
    published.inc_by(relay.map_or(0, |relay| relay.published()));
    let mut all: Vec<Box<dyn Collector>> = vec![Box::new(published)];
    let Some(state) = state else {
        return Ok(all);
    };
    let mut gauge = |name: &str, help: &str, value: u64| -> prometheus::Result<()> {
        let gauge = IntGauge::new(name, help)?;
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        all.push(Box::new(gauge));
        Ok(())
    };
    gauge(
        "stratavore_broker_up",
        "Whether the broker is connected.",
        u64::from(!matches!(state.broker, BrokerState::Down(_))),
    )?;
    gauge(
        "stratavore_broker_blocked",
        "Whether the broker is connected and takes nothing for now.",
        u64::from(matches!(state.broker, BrokerState::Blocked(_))),
    )?;
    gauge(
        "stratavore_outbox_refused",
        "Events in hand that the broker has refused, because a queue is full.",
        state.refused,
    )?;
    if let Some(backlog) = state.backlog {
        gauge(
            "stratavore_outbox_pending",
            "Events of this host that are still to be published.",
            backlog.pending,
        )?;
        gauge(
            "stratavore_outbox_parked",
            "Events of this host that no queue is bound for, and those behind them.",
            backlog.parked,
        )?;
        gauge(
            "stratavore_outbox_oldest_seconds",
            "How long ago the oldest event happened that is to be published; 0 = there is none.",
            state.oldest_seconds(),
        )?;
    }
    Ok(all)
}
