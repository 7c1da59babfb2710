//! Launches of other hosts that are being carried out here. One user has only so many of the places, on whichever hosts
//! they ask: some are left for the others, however long the user's own take.

use crate::domain::event::Actor;
use crate::domain::order::{LAUNCHES_MAX, OWN_LAUNCHES_MAX};
use crate::domain::{Error, ErrorKind};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who has asked for what is in hand, by a number of our own.
#[derive(Debug, Default, Clone)]
pub(super) struct Hands(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    last: u64,
    all: BTreeMap<u64, Actor>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Hand {
    hands: Hands,
    number: u64,
}

impl Hands {
    /// Takes a place for a launch that `asker` wants, or refuses it.
    pub(super) fn take(&self, asker: &Actor) -> Result<Hand, Error> {
        let mut taken = self.lock();
        let own = taken.all.values().filter(|a| asker.is_also(a)).count();
        if own >= OWN_LAUNCHES_MAX {
            return Err(busy(&format!(
                "{own} launches in hand that you asked for; {OWN_LAUNCHES_MAX} is the most of one user, on whichever hosts they ask"
            )));
        }
        if taken.all.len() >= LAUNCHES_MAX {
            return Err(busy(&format!(
                "{LAUNCHES_MAX} launches of other hosts in hand, as many as it takes at a time"
            )));
        }
        taken.last += 1;
        let number = taken.last;
        taken.all.insert(number, asker.clone());
        Ok(Hand {
            hands: self.clone(),
            number,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.hands.lock().all.remove(&self.number);
    }
}

fn busy(why: &str) -> Error {
    Error::new(
        ErrorKind::HostUnavailable,
        format!(
            "The host that was asked has {why}; nothing was launched. Launch again when one of them has begun."
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(user: &str, host: &str) -> Actor {
        Actor {
            uid: Some(1000),
            user: Some(user.to_owned()),
            host: Some(host.to_owned()),
            unit: None,
        }
    }

    #[test]
    fn a_user_of_many_hosts_leaves_places_for_others() {
        let hands = Hands::default();
        let from = |n: usize| asker("alice", &format!("h{}", n % 4));
        let mut own: Vec<Hand> = (0..16).map(|n| hands.take(&from(n)).unwrap()).collect();
        for n in 0..4 {
            let refused = hands.take(&from(n)).unwrap_err();
            assert_eq!(refused.kind, ErrorKind::HostUnavailable);
            assert_eq!(
                refused.message,
                "The host that was asked has 16 launches in hand that you asked for; 16 is the most of one user, on whichever hosts they ask; nothing was launched. Launch again when one of them has begun."
            );
        }
        let others = (0..48).map(|n| hands.take(&asker(&format!("u{}", n / 16), "h0")).unwrap());
        let others: Vec<Hand> = others.collect();
        let full = hands.take(&asker("bob", "h0")).unwrap_err();
        assert!(
            full.message.contains("has 64 launches of other hosts"),
            "{full}"
        );
        // One that is over makes room for another one, and for one alone.
        own.pop();
        own.push(hands.take(&from(9)).unwrap());
        assert!(hands.take(&from(9)).is_err() && hands.take(&asker("bob", "h0")).is_err());
        drop(others);
        assert!(hands.take(&from(9)).is_err() && hands.take(&asker("bob", "h0")).is_ok());
    }
}
