//! What happened to a runner, from its events.

use super::client::{Client, number, text};
use super::failure::{Failure, Result};
use super::names::Names;
use super::render;
use super::text::{clean, cut};
use crate::api::proxy::{Dict, Given};
use std::collections::VecDeque;

/// Rows in one page: of a longer story the first and the last so many are read.
const PAGE: u32 = 500;
/// So many of the first and of the last are shown.
const FIRST: usize = 4;
const LAST: usize = 12;

/// The events of one runner: the first and the last.
#[derive(Debug, Default)]
pub(super) struct Story {
    id: String,
    first: Vec<Dict>,
    last: VecDeque<Dict>,
    left_out: u64,
    /// Not all in between was read.
    gap: bool,
    /// Why nothing can be read just now.
    missing: Option<String>,
    /// Who asked for the last stop, and when: `alice, Sun 2026-…`.
    stopping: Option<String>,
    names: Names,
}

impl Story {
    /// The story of a runner (its id). While the store is away there is none, and what else is known can be told.
    pub(super) async fn of(client: &Client, id: &str) -> Result<Self> {
        let names = Names::of(client).await;
        match Self::read(client, id, names).await {
            Err(failure) if failure.passes() => Ok(Self {
                missing: Some(failure.message),
                ..Self::default()
            }),
            other => other,
        }
    }

    async fn read(client: &Client, id: &str, names: Names) -> Result<Self> {
        let filter = Given::from([("runner", id.to_owned().into())]);
        let mut story = Self {
            id: id.to_owned(),
            names,
            ..Self::default()
        };
        let page = client.manager().list_events(0, PAGE, &filter).await;
        let page = page.map_err(|e| Failure::of_call(&e))?;
        let full = page.len() == PAGE as usize;
        let end = page.last().and_then(|e| number(e, "seq")).unwrap_or(0);
        page.into_iter().for_each(|event| story.add(event));
        if full {
            let seq = |e: &Dict| number(e, "seq").unwrap_or_default();
            let mut latest = latest(client, &filter, PAGE).await?;
            latest.retain(|event| seq(event) > end);
            story.gap = latest.len() == PAGE as usize;
            latest.into_iter().for_each(|event| story.add(event));
        }
        Ok(story)
    }

    /// What the hosts are called.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Whether the events could be read at all.
    pub(super) fn is_known(&self) -> bool {
        self.missing.is_none()
    }

    fn add(&mut self, event: Dict) {
        if what(&event) == "stopping" {
            let at = render::time(number(&event, "time").unwrap_or_default());
            self.stopping = Some(format!("{}, {at}", self.names.actor(&event)));
        }
        if self.first.len() < FIRST {
            self.first.push(event);
            return;
        }
        if self.last.len() == LAST {
            self.last.pop_front();
            self.left_out += 1;
        }
        self.last.push_back(event);
    }

    /// Who asked for the stop, and when.
    pub(super) fn asked_by(&self) -> Option<String> {
        self.stopping.clone()
    }

    /// `alice froze it, Sun 2026-…`: the last event of this kind.
    pub(super) fn last_of(&self, kind: &str) -> Option<String> {
        let event = self
            .last
            .iter()
            .rev()
            .chain(self.first.iter().rev())
            .find(|e| what(e) == kind)?;
        let at = render::time(number(event, "time").unwrap_or_default());
        Some(format!("{kind} by {}, {at}", self.names.actor(event)))
    }

    /// Who launched it, if that was not its user.
    pub(super) fn launched_by(&self, user: &str) -> Option<String> {
        let event = self.first.first().filter(|e| what(e) == "starting")?;
        let other = Names::default().actor(event) != clean(user);
        other.then(|| self.names.actor(event))
    }

    /// The events, a line each, below a blank one.
    pub(super) fn told(&self, width: Option<usize>) -> String {
        if let Some(why) = &self.missing {
            return format!("\nIts events can't be read now: {}\n", clean(why));
        }
        if self.first.is_empty() {
            return String::new();
        }
        let line = |event: &Dict| {
            let at = render::time(number(event, "time").unwrap_or_default());
            let text = format!("{at}  {:<8}  by {}", what(event), self.names.actor(event));
            format!("{}\n", cut(&clean(&text), width.unwrap_or(usize::MAX)))
        };
        let mut out = String::from("\n");
        out.extend(self.first.iter().map(line));
        if self.left_out > 0 {
            let least = if self.gap { "at least " } else { "" };
            out.push_str(&super::bus::advice(&format!(
                "… {least}{} more: stratavorectl events --runner={}\n",
                self.left_out,
                clean(&self.id)
            )));
        }
        out.extend(self.last.iter().map(line));
        out
    }
}

/// The last events that fit, oldest first: at most so many, and no more than a page.
pub(super) async fn latest(client: &Client, filter: &Given<'_>, most: u32) -> Result<Vec<Dict>> {
    let mut filter = filter.clone();
    filter.insert("newest", true.into());
    let found = client.manager().list_events(0, most, &filter).await;
    found.map_err(|e| Failure::of_call(&e))
}

/// `ended` of `org.stratavore.runner.ended`.
fn what(event: &Dict) -> &str {
    text(event, "type").rsplit('.').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::wire::Str;

    fn event(kind: &str, user: &str) -> Dict {
        let text = |t: &str| Str::from(t.to_owned()).into();
        let mut actor = Dict::new();
        if !user.is_empty() {
            actor.insert("user".to_owned(), text(user));
        }
        let mut event = Dict::from([
            (
                "type".to_owned(),
                text(&format!("org.stratavore.runner.{kind}")),
            ),
            ("time".to_owned(), 1_700_000_000_000_000u64.into()),
        ]);
        if let Ok(actor) = zbus::Variant::from(actor).try_into_owned() {
            event.insert("actor".to_owned(), actor);
        }
        event
    }

    #[test]
    fn stories_are_short_and_say_who() {
        let mut story = Story::default();
        story.add(event("starting", "root"));
        for _ in 0..100 {
            story.add(event("frozen", "alice"));
        }
        story.add(event("stopping", "al\x1bice"));
        story.add(event("ended", ""));
        let told = story.told(None);
        assert_eq!(told.lines().count(), 1 + FIRST + 1 + LAST, "{told}");
        assert!(
            told.contains("… 87 more") && told.contains("by the host itself"),
            "{told}"
        );
        assert!(
            story
                .asked_by()
                .is_some_and(|by| by.starts_with("al\u{fffd}ice, "))
        );
        assert_eq!(story.launched_by("alice").as_deref(), Some("root"));
        assert_eq!(story.launched_by("root"), None);
    }
}
