//! What is kept of launches that wait, in memory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Mutex;
use stratavore::domain::{Error, ErrorKind, RunnerId};
use stratavore::ports::{Drawer, Kept};

#[derive(Debug, Default)]
pub struct FakeDrawer(Mutex<BTreeMap<RunnerId, Kept>>);

impl FakeDrawer {
    /// Of whom something is kept.
    pub fn kept(&self) -> Vec<RunnerId> {
        self.0.lock().expect("no panic").keys().copied().collect()
    }

    /// Its row says something else than what was asked for.
    pub fn forge(&self, id: RunnerId) {
        if let Some(kept) = self.0.lock().expect("no panic").get_mut(&id) {
            kept.identity = "another".to_owned();
        }
    }

    /// The disk has lost it.
    pub fn lose(&self, id: RunnerId) {
        self.0.lock().expect("no panic").remove(&id);
    }
}

#[async_trait::async_trait]
impl Drawer for FakeDrawer {
    async fn put(&self, id: RunnerId, kept: Kept) -> Result<(), Error> {
        match self.0.lock().expect("no panic").entry(id) {
            Entry::Occupied(_) => Err(Error::new(ErrorKind::Conflict, "It is there already.")),
            Entry::Vacant(place) => {
                place.insert(kept);
                Ok(())
            }
        }
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
