//! All that is there, whoever knows of it: the agent itself, the cgroup tree, systemd, the
//! folder of sockets and the folder of records.

use super::hub::{Agent, Phase, lock};
use super::policy::refusal;
use super::shim::from_socket_name;
use super::{log, shim};
use crate::domain::RunnerId;
use crate::domain::kinds;
use crate::wire::{Answer, PACKET_MAX, PAGE, Refusal, RefusalCode, Seen};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Room for the rest of the message around the runners.
const ENVELOPE: usize = 1 << 10;

/// One page of what is there.
pub(super) fn page(
    ids: &BTreeSet<RunnerId>,
    after: Option<RunnerId>,
    mut seen: impl FnMut(RunnerId) -> io::Result<Option<Seen>>,
) -> io::Result<Answer> {
    let mut runners = Vec::new();
    let mut room = PACKET_MAX - ENVELOPE;
    for id in ids.iter().copied().filter(|id| Some(*id) > after) {
        let Some(mut runner) = seen(id)? else {
            continue;
        };
        let mut size = length(&runner);
        if size > PACKET_MAX - ENVELOPE {
            // No record of ours is so large.
            runner.record = Some(None);
            size = length(&runner);
        }
        if runners.len() == PAGE || size > room {
            return Ok(Answer::Inventory {
                runners,
                more: true,
            });
        }
        room -= size;
        runners.push(runner);
    }
    Ok(Answer::Inventory {
        runners,
        more: false,
    })
}

fn length(runner: &Seen) -> usize {
    serde_json::to_vec(runner).map_or(usize::MAX, |bytes| bytes.len() + 1)
}

impl Agent {
    /// The ids of all runners of which something is there. What can't be listed is an error:
    /// to leave it out would be to say that it is not there.
    pub(super) async fn snapshot(&self) -> Result<BTreeSet<RunnerId>, Refusal> {
        let mut ids: BTreeSet<RunnerId> = lock(&self.runners).keys().copied().collect();
        ids.extend(self.cgroups.scan().map_err(unknown)?.into_keys());
        ids.extend(self.socket_ids().map_err(unknown)?);
        ids.extend(self.exits.ids().map_err(unknown)?);
        // Beside those, systemd only has units that hold nothing.
        match self.systemd.list("stratavore-*.scope").await {
            Ok(units) => {
                for (unit, state) in units {
                    let Some(id) = RunnerId::from_unit(&unit) else {
                        continue;
                    };
                    ids.insert(id);
                    if state == "failed" {
                        lock(&self.failed_units).insert(id);
                    }
                }
            }
            Err(fault) => log::warning(
                kinds::SYSTEMD,
                format_args!("systemd does not list its scopes: {fault}"),
            ),
        }
        Ok(ids)
    }

    pub(super) fn socket_ids(&self) -> io::Result<Vec<RunnerId>> {
        let names = self.sockets.names()?;
        Ok(names.iter().filter_map(|n| from_socket_name(n)).collect())
    }

    /// One runner as it is now; `None` = nothing of it is left, or it is just being made.
    fn seen(&self, id: RunnerId, scopes: &BTreeMap<RunnerId, String>) -> io::Result<Option<Seen>> {
        let runner = self.runner(id).ok();
        let phase = runner.as_ref().map(|r| r.phase.borrow().clone());
        if matches!(phase, Some(Phase::Preparing | Phase::Undone)) {
            return Ok(None);
        }
        let cgroup = runner.as_ref().map(|r| &r.cgroup).or(scopes.get(&id));
        let over = phase.as_ref().is_some_and(Phase::is_over);
        let shim = match &runner {
            Some(runner) if runner.link().is_some() => true,
            // No connection to it yet. It may be frozen and have too many waiting, and what goes
            // wrong here says nothing about it.
            Some(_) if !over => !matches!(
                shim::connect(self.sockets.as_fd(), id),
                Ok(shim::Found::Nobody)
            ),
            _ => false,
        };
        let seen = Seen {
            id,
            scope: cgroup.is_some_and(|c| self.cgroups.populated(c)),
            shim,
            gated: phase == Some(Phase::Gated),
            frozen: cgroup.is_some_and(|c| self.cgroups.frozen(c)),
            record: self.exits.record(id)?,
        };
        let left = seen.scope || seen.shim || seen.record.is_some();
        let tell = left || phase.is_some() || lock(&self.failed_units).contains(&id);
        Ok(tell.then_some(seen))
    }

    /// A page of the snapshot that a connection has taken.
    pub(super) fn page(
        self: &Arc<Self>,
        ids: &BTreeSet<RunnerId>,
        after: Option<RunnerId>,
    ) -> Result<Answer, Refusal> {
        let scopes = self.cgroups.scan().map_err(unknown)?;
        page(ids, after, |id| self.seen(id, &scopes)).map_err(unknown)
    }
}

fn unknown(error: io::Error) -> Refusal {
    refusal(
        RefusalCode::Failed,
        format!("What is there can't be found out: {error}."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FromAgent, Reply, encode};
    use proptest::prelude::*;

    fn id(n: u128) -> RunnerId {
        RunnerId::from_uuid(uuid::Uuid::from_u128(n))
    }

    fn seen(id: RunnerId, long: usize) -> Seen {
        let text = format!(
            r#"{{"v":1,"id":"{id}","boot_id":"b","launch_error":{{"step":"exec","errno":2,"message":"{}"}}}}"#,
            "x".repeat(long)
        );
        Seen {
            id,
            scope: true,
            shim: true,
            gated: false,
            frozen: false,
            record: Some(serde_json::from_str(&text).ok()),
        }
    }

    proptest! {
        #[test]
        fn pages_tell_of_everybody_once_and_fit_a_packet(
            sizes in proptest::collection::btree_map(0u128..500, 0usize..9_000, 0..200),
            gone in proptest::collection::btree_set(0u128..500, 0..20),
        ) {
            let ids: BTreeSet<_> = sizes.keys().map(|n| id(*n)).collect();
            let (mut after, mut told) = (None, Vec::new());
            loop {
                let answer = page(&ids, after, |i| {
                    let found = sizes.iter().find(|(n, _)| id(**n) == i);
                    Ok(found.filter(|(n, _)| !gone.contains(n)).map(|(_, size)| seen(i, *size)))
                });
                let Ok(answer) = answer else { unreachable!() };
                let reply = FromAgent::Reply(Reply { seq: u64::MAX, result: Ok(answer.clone()) });
                prop_assert!(encode(&reply).is_ok());
                let Answer::Inventory { runners, more } = answer else { unreachable!() };
                prop_assert!(runners.len() <= PAGE);
                after = runners.last().map(|r| r.id).or(after);
                told.extend(runners.into_iter().map(|r| r.id));
                if !more {
                    break;
                }
            }
            let expected: Vec<_> = sizes.keys().filter(|n| !gone.contains(n)).map(|n| id(*n)).collect();
            prop_assert_eq!(told, expected);
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_left_out() {
        let answer = page(&[id(1), id(2)].into(), None, |i| match i == id(1) {
            true => Ok(Some(seen(i, 1))),
            false => Err(io::ErrorKind::Other.into()),
        });
        assert!(answer.is_err());
    }

    #[test]
    fn a_record_that_fits_no_packet_is_told_as_unreadable() {
        let answer = page(&[id(1)].into(), None, |i| Ok(Some(seen(i, PACKET_MAX))));
        assert!(
            matches!(answer, Ok(Answer::Inventory { runners, more: false }) if runners.len() == 1 && runners[0].record == Some(None))
        );
    }
}
