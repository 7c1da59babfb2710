//! Users by number and by name, as the system's user database knows them. It may be a directory
//! service far away, so it is asked on a thread of its own and its answers are kept for a while.

use super::values::User;
use crate::domain::Error;
use crate::domain::name::shown;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer is kept.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How many of them are kept.
const CACHE_MAX: usize = 4_096;
/// A directory service that takes longer is taken for not knowing.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Names by uid.
#[derive(Debug, Default)]
pub(super) struct Users {
    names: Mutex<HashMap<u32, (Option<String>, Instant)>>,
}

impl Users {
    /// The name of a user; `None` if it has none.
    pub(super) async fn name(&self, uid: u32) -> Option<String> {
        if let Some((name, at)) = self.lock().get(&uid)
            && at.elapsed() < REMEMBERED
        {
            return name.clone();
        }
        let found = ask(move || nix::unistd::User::from_uid(uid.into()))
            .await
            .ok()?;
        let name = found.map(|user| user.name);
        let mut names = self.lock();
        if names.len() >= CACHE_MAX {
            names.clear();
        }
        names.insert(uid, (name.clone(), Instant::now()));
        name
    }

    /// Number and name of the user a launch is for.
    pub(super) async fn find(&self, user: &User) -> Result<(u32, String), Error> {
        match user {
            User::Uid(uid) => match self.name(*uid).await {
                Some(name) => Ok((*uid, name)),
                None => Err(Error::invalid(format!(
                    "There is no user with the uid {uid} on this host."
                ))),
            },
            User::Name(name) => {
                let wanted = name.clone();
                let found = ask(move || nix::unistd::User::from_name(&wanted)).await;
                match found {
                    Ok(Some(user)) => Ok((user.uid.as_raw(), user.name)),
                    Ok(None) => Err(Error::invalid(format!(
                        "There is no user “{}” on this host.",
                        shown(name)
                    ))),
                    Err(why) => Err(Error::invalid(format!(
                        "The user “{}” can't be looked up: {why}.",
                        shown(name)
                    ))),
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, (Option<String>, Instant)>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(
    look: impl FnOnce() -> nix::Result<Option<nix::unistd::User>> + Send + 'static,
) -> Result<Option<nix::unistd::User>, String> {
    match tokio::time::timeout(ANSWER_MAX, tokio::task::spawn_blocking(look)).await {
        Ok(Ok(Ok(found))) => Ok(found),
        // These are how "no such user" is said by some modules.
        Ok(Ok(Err(nix::Error::ENOENT | nix::Error::ESRCH | nix::Error::EPERM))) => Ok(None),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the user database does not answer".to_owned()),
    }
}
