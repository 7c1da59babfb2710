//! Pruning between the transactions of others, a slice at a time.

use super::{Fail, Locks, Writer};
use crate::adapters::sql::prune::Sweep;
use crate::adapters::sql::within;
use crate::ports::Pruned;

impl Writer {
    /// One slice of the pruning that is under way, if any.
    pub(super) async fn sweep(&mut self) {
        let Some(mut sweep) = self.sweeps.pop_front() else {
            return;
        };
        sweep.begin_at(self.swept);
        match self.sweep_slice(&mut sweep).await {
            Ok(None) => self.sweeps.push_front(sweep),
            Ok(Some(done)) => {
                self.swept = sweep.ended_at(self.swept);
                let _ = sweep.reply.send(Ok(done));
            }
            Err(error) => {
                let told = self.lost(&error);
                let _ = sweep.reply.send(Err(told));
            }
        }
    }

    async fn sweep_slice(&mut self, sweep: &mut Sweep) -> Result<Option<Pruned>, sqlx::Error> {
        self.settle().await?;
        let mut link = self.begin(&Locks::default(), self.base.begin()).await?;
        let limit = self.base.limit();
        let work = async {
            let done = sweep.slice(&mut link).await.map_err(Fail::fault)?;
            link.say("COMMIT").await?;
            if done.is_some() {
                self.base.pruned(&mut link).await.map_err(Fail::fault)?;
            }
            Ok(done)
        };
        match within(limit, work).await {
            Ok(done) => {
                self.link = Some(link);
                self.failing = false;
                Ok(done)
            }
            Err(error) => {
                self.give_up(link, &error).await;
                Err(error)
            }
        }
    }
}
