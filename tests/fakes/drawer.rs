//! What is kept of launches that wait, in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;
use stratavore::domain::{Error, RunnerId};
use stratavore::ports::{Drawer, Kept};

#[derive(Debug, Default)]
pub struct FakeDrawer(Mutex<BTreeMap<RunnerId, Kept>>);

impl FakeDrawer {
    /// Of whom something is kept.
    pub fn kept(&self) -> Vec<RunnerId> {
        self.0.lock().expect("no panic").keys().copied().collect()
    }

    /// The disk has lost it.
    pub fn lose(&self, id: RunnerId) {
        self.0.lock().expect("no panic").remove(&id);
    }
}

#[async_trait::async_trait]
impl Drawer for FakeDrawer {
    async fn put(&self, id: RunnerId, kept: Kept) -> Result<(), Error> {
        self.0.lock().expect("no panic").insert(id, kept);
        Ok(())
    }

    async fn get(&self, id: RunnerId) -> Result<Option<Kept>, Error> {
        Ok(self.0.lock().expect("no panic").get(&id).cloned())
    }

    async fn remove(&self, id: RunnerId) {
        self.lose(id);
    }

    async fn ids(&self) -> Result<Vec<RunnerId>, Error> {
        Ok(self.kept())
    }
}
