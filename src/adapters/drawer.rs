//! What is kept of launches that wait: a file for each, for the daemon alone, in a folder of its
//! own beside the store. Environment values are in there: nothing of it is ever shown.

use crate::domain::event::Actor;
use crate::domain::inputs::Inputs;
use crate::domain::spec::Setenv;
use crate::domain::{Error, ErrorKind, RunnerId};
use crate::ports::{Drawer, Kept};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most bytes of all of them.
const ALL_MAX: u64 = 256 << 20;
/// No file is larger: a launch's environment has 256 KiB at most, and JSON may need six bytes for one.
const FILE_MAX: u64 = 4 << 20;

/// The folder.
#[derive(Debug, Clone)]
pub struct FileDrawer(Arc<PathBuf>);

/// A file as it is written.
#[derive(Serialize, Deserialize)]
struct Page {
    v: u32,
    setenv: Vec<(String, String)>,
    inputs: Inputs,
    actor: Actor,
    #[serde(default)]
    identity: String,
}

impl FileDrawer {
    /// In this folder, which is made when it is needed.
    pub fn new(folder: PathBuf) -> Self {
        Self(Arc::new(folder))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let folder = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&folder)).await;
        done.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn failed(&self, error: &io::Error) -> Error {
        let folder = self.0.display();
        Error::new(
            ErrorKind::StoreUnavailable,
            format!("What a launch that waits needs can't be kept or read in {folder}: {error}."),
        )
    }
}

fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.collect(),
    }
}

/// The bytes of all files.
fn size(folder: &Path) -> io::Result<u64> {
    let sizes = entries(folder)?.into_iter();
    Ok(sizes.map(|e| e.metadata().map_or(0, |m| m.len())).sum())
}

/// The names that are ids. What else is there was cut short, and goes.
fn ids(folder: &Path) -> io::Result<Vec<RunnerId>> {
    let mut out = Vec::new();
    for entry in entries(folder)? {
        match entry.file_name().to_str().and_then(|n| n.parse().ok()) {
            Some(id) => out.push(id),
            None => fs::remove_file(entry.path())?,
        }
    }
    Ok(out)
}

fn write(folder: &Path, id: RunnerId, bytes: &[u8]) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder)?;
    let temp = folder.join(format!(".{id}"));
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temp)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    // Never over one that is there: the id may be another's, if another host has chosen it.
    let written = written.and_then(|()| fs::hard_link(&temp, folder.join(id.to_string())));
    let _ = fs::remove_file(&temp);
    written.and_then(|()| File::open(folder)?.sync_all())
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[async_trait]
impl Drawer for FileDrawer {
    async fn put(&self, id: RunnerId, kept: Kept) -> Result<(), Error> {
        let setenv = kept.setenv.into_iter().map(|e| (e.name, e.value));
        let page = Page {
            v: 1,
            setenv: setenv.collect(),
            inputs: kept.inputs,
            actor: kept.actor,
            identity: kept.identity,
        };
        let bytes = serde_json::to_vec(&page).map_err(|e| self.failed(&e.into()))?;
        let put = self.blocking(move |folder| {
            let there = size(folder)?;
            if there.saturating_add(bytes.len() as u64) > ALL_MAX {
                return Ok(false);
            }
            write(folder, id, &bytes).map(|()| true)
        });
        match put.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::new(
                ErrorKind::QueueFull,
                format!(
                    "The environments of the runners that wait on this host have {} MiB together, which is the most. Try again when some have started.",
                    ALL_MAX >> 20
                ),
            )),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::new(
                ErrorKind::Conflict,
                format!("Runner {id} is there already."),
            )),
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn get(&self, id: RunnerId) -> Result<Option<Kept>, Error> {
        let found = self.blocking(move |folder| read(&folder.join(id.to_string())));
        let Some(bytes) = found.await.map_err(|error| self.failed(&error))? else {
            return Ok(None);
        };
        // The text of a parser's error may quote what is in there.
        let page: Page = serde_json::from_slice(&bytes)
            .map_err(|_| self.failed(&io::Error::other("the file is damaged")))?;
        let setenv = page
            .setenv
            .into_iter()
            .map(|(name, value)| Setenv { name, value });
        Ok(Some(Kept {
            setenv: setenv.collect(),
            inputs: page.inputs,
            actor: page.actor,
            identity: page.identity,
        }))
    }

    async fn remove(&self, id: RunnerId) {
        let removed = self.blocking(move |folder| fs::remove_file(folder.join(id.to_string())));
        if let Err(error) = removed.await
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(runner = %id, %error, "What was kept of a launch stays until the next start");
        }
    }

    async fn ids(&self) -> Result<Vec<RunnerId>, Error> {
        let found = self.blocking(ids).await;
        found.map_err(|error| self.failed(&error))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn kept() -> Kept {
        Kept {
            setenv: vec![Setenv {
                name: "KEY".to_owned(),
                value: "secret\n\u{1}".to_owned(),
            }],
            inputs: Inputs::default(),
            actor: Actor::host(),
            identity: "1f".to_owned(),
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_for_us_alone_and_comes_back() {
        let folder = std::env::temp_dir().join(format!("drawer-{}", uuid::Uuid::now_v7()));
        let drawer = FileDrawer::new(folder.join("queue"));
        let id = RunnerId::from_uuid(uuid::Uuid::now_v7());
        assert_eq!(drawer.ids().await, Ok(vec![]));
        assert_eq!(drawer.get(id).await, Ok(None));
        drawer.put(id, kept()).await.unwrap();
        assert_eq!(drawer.get(id).await, Ok(Some(kept())));
        // Another one with this id changes nothing of it.
        let other = Kept {
            setenv: Vec::new(),
            ..kept()
        };
        let refused = drawer.put(id, other).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Conflict);
        assert_eq!(drawer.get(id).await, Ok(Some(kept())));
        let file = folder.join("queue").join(id.to_string());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(&folder.join("queue"))), (0o600, 0o700));
        // What was cut short is cleared away, what is damaged is an error that quotes nothing.
        fs::write(folder.join("queue/.half"), "x").unwrap();
        assert_eq!(drawer.ids().await, Ok(vec![id]));
        assert!(!folder.join("queue/.half").exists());
        fs::write(&file, "{\"v\":1,\"setenv\":[[\"KEY\",\"secret\"").unwrap();
        let error = drawer.get(id).await.unwrap_err();
        assert!(!error.message.contains("secret"), "{error}");
        drawer.remove(id).await;
        drawer.remove(id).await;
        assert_eq!(drawer.ids().await, Ok(vec![]));
        fs::remove_dir_all(folder).unwrap();
    }
}
