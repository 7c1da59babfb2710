//! Users by number and by name, as the system's user database knows them. It may be a directory
//! service far away, so it is asked on a thread of its own and its answers are kept for a while.

use super::values::User;
use crate::domain::name::shown;
use crate::domain::{Error, ErrorKind};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long an answer is kept.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How many of them are kept.
const CACHE_MAX: usize = 4_096;
/// A directory service that takes longer is taken for not knowing.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How many questions are put at a time.
const AT_ONCE: usize = 8;

/// Answers of the name service (`None` = there is no such user) and when they came.
type Known<K, V> = HashMap<K, (Option<V>, Instant)>;

/// Names by uid, and users by name.
#[derive(Debug)]
pub(super) struct Users {
    names: Mutex<Known<u32, String>>,
    users: Mutex<Known<String, (u32, String)>>,
    questions: Arc<Semaphore>,
}

impl Default for Users {
    fn default() -> Self {
        Self {
            names: Mutex::default(),
            users: Mutex::default(),
            questions: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Users {
    /// The name of a user; `None` if it has none.
    pub(super) async fn name(&self, uid: u32) -> Option<String> {
        if let Some((name, at)) = locked(&self.names).get(&uid)
            && at.elapsed() < REMEMBERED
        {
            return name.clone();
        }
        let found = self
            .ask(move || nix::unistd::User::from_uid(uid.into()))
            .await
            .ok()?;
        let name = found.map(|user| user.name);
        let mut names = locked(&self.names);
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
                None => Err(none(format!("with the uid {uid}"))),
            },
            User::Name(name) => {
                let found = self.called(name).await?;
                found.ok_or_else(|| none(format!("“{}”", shown(name))))
            }
        }
    }

    /// The user of this name, or alias; `None`: there is none here.
    pub(super) async fn called(&self, name: &str) -> Result<Option<(u32, String)>, Error> {
        if let Some((known, at)) = locked(&self.users).get(name)
            && at.elapsed() < REMEMBERED
        {
            return Ok(known.clone());
        }
        let wanted = name.to_owned();
        let asked = self.ask(move || nix::unistd::User::from_name(&wanted));
        let found = asked.await.map_err(|why| {
            let message = format!("The user “{}” can't be looked up: {why}.", shown(name));
            Error::new(ErrorKind::HostUnavailable, message)
        })?;
        let found = found.map(|user| (user.uid.as_raw(), user.name));
        let mut users = locked(&self.users);
        if users.len() >= CACHE_MAX {
            users.clear();
        }
        users.insert(name.to_owned(), (found.clone(), Instant::now()));
        Ok(found)
    }

    /// On a thread of its own, which holds its permit to the end even if nobody waits any more.
    async fn ask(
        &self,
        look: impl FnOnce() -> nix::Result<Option<nix::unistd::User>> + Send + 'static,
    ) -> Result<Option<nix::unistd::User>, String> {
        let questions = Arc::clone(&self.questions);
        let asked = async move {
            let permit = questions.acquire_owned().await.map_err(|e| e.to_string())?;
            let thread = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                look()
            });
            match thread.await {
                Ok(Ok(found)) => Ok(found),
                // These are how "no such user" is said by some modules.
                Ok(Err(nix::Error::ENOENT | nix::Error::ESRCH | nix::Error::EPERM)) => Ok(None),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        };
        let answer = tokio::time::timeout(ANSWER_MAX, asked).await;
        answer.unwrap_or_else(|_| Err("the user database does not answer".to_owned()))
    }
}

fn none(which: String) -> Error {
    let message = format!("There is no user {which} on this host.");
    Error::new(ErrorKind::NoSuchUser, message)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_not_there_is_no_such_user() {
        let users = Users::default();
        for user in [
            User::Uid(54_321_987),
            User::Name("no-such-user-here".to_owned()),
        ] {
            let refused = users.find(&user).await.unwrap_err();
            assert_eq!(refused.kind, ErrorKind::NoSuchUser, "{refused}");
        }
    }
}
