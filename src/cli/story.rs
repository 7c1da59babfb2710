//! What happened to a runner, from its events.

use super::client::{Client, dict, number, text};
use super::failure::{Failure, Result};
use super::render;
use super::text::{clean, cut};
use crate::api::proxy::{Dict, Given};
use std::collections::VecDeque;

/// Rows in one page.
const PAGE: u32 = 500;
/// More events than these pages hold are looked at by nobody; `events` has them all.
const PAGES_MAX: usize = 20;
/// So many of the first and of the last are shown.
const FIRST: usize = 4;
const LAST: usize = 12;

/// The events of one runner: the first and the last.
#[derive(Debug, Default)]
pub(super) struct Story {
    first: Vec<Dict>,
    last: VecDeque<Dict>,
    left_out: u64,
    /// The last `runner.stopping`.
    stopping: Option<Dict>,
}

impl Story {
    /// The story of a runner (its id).
    pub(super) async fn of(client: &Client, id: &str) -> Result<Self> {
        let mut story = Self::default();
        let mut after = 0;
        for _ in 0..PAGES_MAX {
            let filter = Given::from([("runner", id.to_owned().into())]);
            let page = client.manager().list_events(after, PAGE, &filter).await;
            let page = page.map_err(|e| Failure::of_call(&e))?;
            let full = page.len() == PAGE as usize;
            after = page.last().and_then(|e| number(e, "seq")).unwrap_or(after);
            page.into_iter().for_each(|event| story.add(event));
            if !full {
                break;
            }
        }
        Ok(story)
    }

    fn add(&mut self, event: Dict) {
        if what(&event) == "stopping" {
            self.stopping = Some(event.clone_dict());
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

    /// Who asked for the stop, and when: `alice, Sun 2026-…`.
    pub(super) fn asked_by(&self) -> Option<String> {
        let event = self.stopping.as_ref()?;
        let at = render::time(number(event, "time").unwrap_or_default());
        Some(format!("{}, {at}", actor(event)))
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
        Some(format!("{kind} by {}, {at}", actor(event)))
    }

    /// Who launched it, if that was not its user.
    pub(super) fn launched_by(&self, user: &str) -> Option<String> {
        let by = actor(self.first.first().filter(|e| what(e) == "starting")?);
        (by != clean(user)).then_some(by)
    }

    /// The events, a line each, below a blank one.
    pub(super) fn told(&self, width: Option<usize>) -> String {
        if self.first.is_empty() {
            return String::new();
        }
        let line = |event: &Dict| {
            let at = render::time(number(event, "time").unwrap_or_default());
            let text = format!("{at}  {:<8}  by {}", what(event), actor(event));
            format!("{}\n", cut(&clean(&text), width.unwrap_or(usize::MAX)))
        };
        let mut out = String::from("\n");
        out.extend(self.first.iter().map(line));
        if self.left_out > 0 {
            out.push_str(&format!("… {} more: stratavorectl events\n", self.left_out));
        }
        out.extend(self.last.iter().map(line));
        out
    }
}

/// A dictionary that can be had twice.
trait CloneDict {
    fn clone_dict(&self) -> Dict;
}

impl CloneDict for Dict {
    fn clone_dict(&self) -> Dict {
        let entry = |(key, value): (&String, &zbus::OwnedVariant)| {
            Some((key.clone(), value.try_clone().ok()?))
        };
        self.iter().filter_map(entry).collect()
    }
}

/// `ended` of `org.stratavore.runner.ended`.
fn what(event: &Dict) -> &str {
    text(event, "type").rsplit('.').next().unwrap_or_default()
}

/// `alice`, `uid 1000`, or the host itself.
pub(super) fn actor(event: &Dict) -> String {
    let actor = dict(event, "actor");
    match (text(&actor, "user"), number(&actor, "uid")) {
        ("", Some(uid)) => format!("uid {uid}"),
        ("", None) => "the host itself".to_owned(),
        (user, _) => clean(user),
    }
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
