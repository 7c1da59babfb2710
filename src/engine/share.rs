//! How much of a host one user may take up, so that the others have theirs.

use super::Shared;
use crate::domain::{Error, ErrorKind, RunnerId, RunnerSpec};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most runners of one user that live on a host, wait for their turn there or are being launched. A launch that is
/// repeated with its request id is being launched until it is known as that.
pub const USER_RUNNERS_MAX: usize = 4_096;

/// Who is on the way to being live or to waiting, and counts already: a number of our own, the runner
/// and the user that it is to run as.
///
/// Whoever counts holds this lock, and what is under way is in here before it is looked for anywhere
/// else and until it is there: so it is counted, and by its id it is counted once.
#[derive(Debug, Default)]
pub(super) struct UnderWay(Mutex<Coming>);

#[derive(Debug, Default)]
struct Coming {
    last: u64,
    all: BTreeMap<u64, (RunnerId, u32)>,
}

/// A place among a user's runners that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    shared: Arc<Shared>,
    number: u64,
}

impl UnderWay {
    fn lock(&self) -> MutexGuard<'_, Coming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shared.under_way.lock().all.remove(&self.number);
    }
}

impl Shared {
    /// Takes a place for one more runner of a user, or refuses it to who has as many as one may have.
    /// It is to be kept until the runner is among the live or those that wait, or nothing comes of it.
    pub(super) fn take_share(
        self: &Arc<Self>,
        id: RunnerId,
        spec: &RunnerSpec,
    ) -> Result<Share, Error> {
        let mut under_way = self.under_way.lock();
        // No user has more than all together, and some of those twice.
        let all = self.read(HashMap::len) + self.queue.count() + under_way.all.len();
        if all < USER_RUNNERS_MAX {
            return Ok(self.enter(&mut under_way, id, spec.uid));
        }
        let mut live: BTreeSet<RunnerId> = BTreeSet::new();
        self.read(|all| {
            let theirs = all.iter().filter(|(_, e)| e.runner.spec.uid == spec.uid);
            live.extend(theirs.map(|(id, _)| *id));
        });
        let waiting: BTreeSet<RunnerId> = {
            let ids = self.queue.ids();
            let theirs = ids.iter().filter(|(_, uid)| **uid == spec.uid);
            let theirs = theirs.map(|(id, _)| *id);
            theirs.filter(|id| !live.contains(id)).collect()
        };
        let coming = under_way.all.values().filter(|(_, uid)| *uid == spec.uid);
        let coming = coming.map(|(id, _)| *id);
        let coming: BTreeSet<RunnerId> = coming
            .filter(|id| !live.contains(id) && !waiting.contains(id))
            .collect();
        let (live, waiting, coming) = (live.len(), waiting.len(), coming.len());
        if live + waiting + coming < USER_RUNNERS_MAX {
            return Ok(self.enter(&mut under_way, id, spec.uid));
        }
        let message = format!(
            "{} (uid {}) has {live} live runners on this host, {waiting} that wait and {coming} that are being launched, and {USER_RUNNERS_MAX} is the most of one user; stop some, or wait until some have ended.",
            spec.user, spec.uid
        );
        Err(Error::new(ErrorKind::QuotaExceeded, message))
    }

    /// Keeps the place of a runner that waits no longer and is not live yet.
    pub(super) fn keep_share(self: &Arc<Self>, id: RunnerId, spec: &RunnerSpec) -> Share {
        self.enter(&mut self.under_way.lock(), id, spec.uid)
    }

    fn enter(self: &Arc<Self>, coming: &mut Coming, id: RunnerId, uid: u32) -> Share {
        coming.last += 1;
        let number = coming.last;
        coming.all.insert(number, (id, uid));
        Share {
            shared: Arc::clone(self),
            number,
        }
    }
}
