//! The embedded store under test: the conformance suite, its schema, its faults, its growth.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::adapters::conformance;
use crate::domain::project::ProjectSettings;
use crate::ports::Store;
use std::sync::Arc;

mod faults;
mod growth;
mod schema;
mod upgrade;

/// A folder of its own for each test, removed at the end.
#[derive(Debug)]
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    /// In memory where there is one: most tests are not about the disk.
    pub(super) fn new() -> Self {
        let shm = Path::new("/dev/shm");
        Self::below(if shm.is_dir() { shm } else { Path::new("/tmp") })
    }

    pub(super) fn below(parent: &Path) -> Self {
        let path = parent.join(format!("stratavore-store-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(super) fn file(&self) -> PathBuf {
        self.0.join("stratavore.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn empty() -> (Folder, SqliteStore) {
    let folder = Folder::new();
    let store = SqliteStore::open(&folder.file(), 3).await.unwrap();
    (folder, store)
}

conformance::suite!(super::empty);

/// Set in a copy of this test program that plays a part.
const PART: &str = "STRATAVORE_TEST_FOLDER";

/// This test program, told to run one test only, in that folder.
fn this(test: &str, folder: &Path) -> Vec<String> {
    let me = std::env::current_exe().unwrap();
    let name = format!("adapters::sqlite::tests::{test}");
    let words = [me.to_str().unwrap(), "--exact", &name, "--nocapture"];
    let mut all = vec!["env".to_owned(), format!("{PART}={}", folder.display())];
    all.extend(words.map(str::to_owned));
    all
}

fn part() -> Option<PathBuf> {
    std::env::var_os(PART).map(PathBuf::from)
}
