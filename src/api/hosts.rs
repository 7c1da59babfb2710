//! Hosts and the fleet on the bus. All of it is `manage-host`, the fleet's cap included: it decides
//! about every project at once, which no manager of one project should.

use super::auth::{Details, Verb};
use super::convert::{self, Dict};
use super::core::{Call, Core};
use super::errors::Result;
use super::options;
use super::values::{Options, in_order, scalar, text, unknown, wrong};
use crate::domain::event::Actor;
use crate::domain::host::{Cordon, Host};
use crate::domain::limits::Value;
use crate::domain::units::{INFINITY, parse_finite_span, show_span};
use crate::domain::{Error, Timestamp, hold, kinds};
use crate::engine::FenceState;
use zbus::Variant;

/// A drain may be put off for at most so long, µs: 30 days. What is meant for ever is a cordon.
const DEADLINE_MAX: u64 = 30 * 86_400_000_000;

impl Core {
    pub(super) async fn list_hosts(&self) -> Result<Vec<Dict>> {
        let (now, hosts) = self.engine().hosts().await?;
        let own = &self.identity().host_id;
        Ok(hosts.iter().map(|h| host_dict(h, now, own)).collect())
    }

    pub(super) fn agent(&self) -> Dict {
        let health = self.engine().health();
        let health = health.borrow();
        let mut dict = Dict::new();
        let state = if health.agent { "ok" } else { "away" };
        convert::put(&mut dict, "state", state);
        convert::maybe(&mut dict, "since", health.agent_left.map(|t| t.0));
        dict
    }

    pub(super) fn lease(&self) -> Dict {
        let mut dict = Dict::new();
        let Some(lease) = self.engine().lease_state() else {
            return dict;
        };
        convert::maybe(&mut dict, "epoch", lease.epoch);
        convert::maybe(&mut dict, "joined_at", lease.joined_at.map(|t| t.0));
        convert::put(&mut dict, "remaining", lease.lease_left);
        let (state, note) = match lease.fence {
            FenceState::Off => ("off", String::new()),
            FenceState::Armed => ("armed", String::new()),
            FenceState::NotArmed(why) => ("not-armed", why),
        };
        convert::put(&mut dict, "self_fence", state);
        if !note.is_empty() {
            convert::put(&mut dict, "self_fence_note", note);
        }
        convert::maybe(&mut dict, "stops_in", lease.stops_in);
        dict
    }

    pub(super) async fn cordon_host(
        &self,
        call: Call<'_>,
        host: &str,
        options: &Options,
    ) -> Result<()> {
        let mut reason = String::new();
        for (key, value) in in_order(options) {
            match key {
                "reason" => reason = one_line(key, value)?,
                _ => return Err(unknown(key, &["reason"]).into()),
            }
        }
        let (host, actor) = self.host_to_manage(&call, host).await?;
        let user = actor.user.clone();
        self.engine().cordon(&host, reason, None, actor).await?;
        tracing::info!(
            message_id = kinds::HOST_CHANGED.id,
            uid = call.uid,
            user,
            "Host cordoned: {host}"
        );
        Ok(())
    }

    pub(super) async fn uncordon_host(
        &self,
        call: Call<'_>,
        host: &str,
        options: &Options,
    ) -> Result<()> {
        options::none(options)?;
        let (host, actor) = self.host_to_manage(&call, host).await?;
        let user = actor.user.clone();
        self.engine().uncordon(&host, actor).await?;
        tracing::info!(
            message_id = kinds::HOST_CHANGED.id,
            uid = call.uid,
            user,
            "Host uncordoned: {host}"
        );
        Ok(())
    }

    pub(super) async fn drain_host(
        &self,
        call: Call<'_>,
        host: &str,
        options: &Options,
    ) -> Result<()> {
        let (mut reason, mut deadline) = (String::new(), 0);
        for (key, value) in in_order(options) {
            match key {
                "reason" => reason = one_line(key, value)?,
                "deadline" => deadline = span(key, value)?,
                _ => return Err(unknown(key, &["deadline", "reason"]).into()),
            }
        }
        let (host, actor) = self.host_to_manage(&call, host).await?;
        let user = actor.user.clone();
        let drain = Some(deadline);
        self.engine().cordon(&host, reason, drain, actor).await?;
        tracing::info!(
            message_id = kinds::HOST_CHANGED.id,
            uid = call.uid,
            user,
            "Host drained: {host}; what runs there is stopped in {} s",
            deadline / 1_000_000
        );
        Ok(())
    }

    pub(super) async fn forget_host(
        &self,
        call: Call<'_>,
        host: &str,
        options: &Options,
    ) -> Result<u32> {
        options::none(options)?;
        let (host, actor) = self.host_to_manage(&call, host).await?;
        let user = actor.user.clone();
        let ended = self.engine().forget_host(&host, actor).await?;
        tracing::warn!(
            message_id = kinds::HOST_CHANGED.id,
            uid = call.uid,
            user,
            "Host forgotten: {host}; {ended} of its runners ended as host-lost"
        );
        Ok(ended)
    }

    pub(super) async fn describe_fleet(&self) -> Result<Dict> {
        let fleet = self.engine().fleet().await?;
        let (now, hosts) = self.engine().hosts().await?;
        let mut dict = Dict::new();
        convert::maybe(&mut dict, "max_runners", fleet.max_runners);
        convert::put(&mut dict, "live", fleet.live);
        convert::put(&mut dict, "queued", fleet.queued);
        let mut states = Dict::new();
        for standing in crate::domain::host::Standing::ALL {
            let of = hosts.iter().filter(|h| h.standing_at(now) == standing);
            let count = u32::try_from(of.count()).unwrap_or(u32::MAX);
            convert::put(&mut states, standing.as_str(), count);
        }
        convert::put(&mut dict, "hosts", states);
        Ok(dict)
    }

    pub(super) async fn set_fleet(&self, call: Call<'_>, settings: &Options) -> Result<()> {
        if let Some((key, _)) = in_order(settings).iter().find(|(k, _)| *k != "max-runners") {
            return Err(unknown(key, &["max-runners"]).into());
        }
        let Some(max) = options::project(settings)?.max_runners else {
            return Err(Error::invalid("No setting is given.").into());
        };
        let actor = self.manager_of(&call, "").await?;
        let user = actor.user.clone();
        self.engine().set_fleet_max(max, actor).await?;
        let max = max.map_or_else(|| "lifted".to_owned(), |n| format!("set to {n}"));
        tracing::info!(
            message_id = kinds::HOST_CHANGED.id,
            uid = call.uid,
            user,
            "Cap of the fleet {max}"
        );
        Ok(())
    }

    /// The id of the host meant, once the caller may manage it, and who the caller is. Who asks
    /// about a host that is none learns no more than `ListHosts` tells everybody.
    async fn host_to_manage(&self, call: &Call<'_>, host: &str) -> Result<(String, Actor)> {
        let (id, name) = self.engine().host_called(host).await?;
        // polkit's rules know it by its name, however it was called.
        let actor = self.manager_of(call, &name).await?;
        Ok((id, actor))
    }

    pub(super) async fn manager_of(&self, call: &Call<'_>, host: &str) -> Result<Actor> {
        let details = Details {
            host: host.to_owned(),
            ..Details::default()
        };
        self.authorise(call, Verb::ManageHost, details).await?;
        Ok(self.actor(call).await)
    }
}

fn one_line(key: &str, value: &Variant<'static>) -> Result<String> {
    let reason = text(key, value)?;
    hold::check_reason(reason)?;
    Ok(reason.to_owned())
}

/// A span in µs.
fn span(key: &str, value: &Variant<'static>) -> Result<u64> {
    let span = match scalar(value) {
        Some(Value::Number(n)) => n,
        Some(Value::Text("infinity")) => INFINITY,
        Some(Value::Text(text)) => {
            parse_finite_span(text).map_err(|e| Error::invalid(format!("{key}: {}", e.message)))?
        }
        None => return Err(wrong(key, value, "a t (µs), or an s such as “1h 30min”").into()),
    };
    if span > DEADLINE_MAX {
        let given = match span {
            INFINITY => "infinity".to_owned(),
            n => show_span(n),
        };
        return Err(Error::invalid(format!(
            "{key}={given}: at most 30 days are allowed; to let its runners end by themselves, cordon the host and wait."
        ))
        .into());
    }
    Ok(span)
}

fn host_dict(host: &Host, now: Timestamp, own: &str) -> Dict {
    let mut dict = Dict::new();
    let about = &host.about;
    convert::put(&mut dict, "id", about.host.clone());
    convert::put(&mut dict, "name", about.name.clone());
    convert::put(&mut dict, "local", about.host == own);
    convert::put(&mut dict, "state", host.standing_at(now).as_str());
    convert::put(&mut dict, "ready", !host.load.away);
    convert::put(&mut dict, "live", host.live);
    convert::put(&mut dict, "queued", host.queued);
    convert::maybe(&mut dict, "max_runners", about.max_runners);
    if let Some(cordon) = &host.cordon {
        convert::put(&mut dict, "cordon", cordon_dict(cordon));
    }
    let left = match host.lease_until.0.saturating_sub(now.0) {
        // The embedded store's only host holds its lease for ever.
        left if left > DEADLINE_MAX => INFINITY,
        left => left,
    };
    convert::put(&mut dict, "lease_remaining", left);
    convert::put(&mut dict, "version", about.version.clone());
    convert::put(&mut dict, "labels", about.labels.clone());
    convert::put(&mut dict, "advertise", about.advertise.clone());
    convert::put(&mut dict, "boot_id", about.boot().to_owned());
    convert::put(&mut dict, "epoch", host.epoch);
    convert::put(&mut dict, "joined_at", host.joined_at.0);
    convert::put(&mut dict, "renewed_at", host.renewed_at.0);
    convert::maybe(&mut dict, "fenced_after", host.fenced_after);
    convert::put(&mut dict, "cpus", host.load.cpus);
    convert::put(&mut dict, "memory_total", host.load.memory_total);
    convert::put(&mut dict, "memory_promised", host.load.memory_promised);
    dict
}

fn cordon_dict(cordon: &Cordon) -> Dict {
    let mut dict = Dict::new();
    convert::put(&mut dict, "reason", cordon.reason.clone());
    convert::put(&mut dict, "actor", convert::actor(&cordon.actor));
    convert::put(&mut dict, "at", cordon.at.0);
    convert::maybe(&mut dict, "drain_until", cordon.drain_until.map(|t| t.0));
    dict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_spans() {
        assert_eq!(span("deadline", &Variant::from(5u64)).ok(), Some(5));
        let ten = span("deadline", &Variant::from("10min")).ok();
        assert_eq!(ten, Some(600_000_000));
        for wrong in ["soon", "infinity", "31d", "-1"] {
            assert!(span("deadline", &Variant::from(wrong)).is_err(), "{wrong}");
        }
        assert!(span("deadline", &Variant::from(true)).is_err());
    }
}
