//! What a message says, in the formats of those who take it.

use super::super::event::{Event, EventType};
use super::super::time::Timestamp;
use serde_json::{Value, json};

/// More of a text is cut off, in bytes: ntfy takes 4096.
const TEXT_MAX: usize = 3_000;

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Plain JSON: text, event, more, kept_back, host.
    Json,
    /// Slack's incoming webhooks, and what takes the same (Mattermost, Rocket.Chat, Discord's `/slack`).
    Slack,
    /// ntfy: the text itself, with a title and a priority in headers.
    Ntfy,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Json, Self::Slack, Self::Ntfy];

    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Slack => "slack",
            Self::Ntfy => "ntfy",
        }
    }

    /// The format with this word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.as_str() == text)
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The event it is about.
    pub event: Event,
    /// How many like it came before, since the last message about them.
    pub more: u64,
    /// How many others made no message since the last one, as there were too many.
    pub kept_back: u64,
}

/// A message as it is posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posting {
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Further headers, in ASCII.
    pub headers: Vec<(&'static str, String)>,
    /// The body, UTF-8.
    pub body: String,
}

impl Message {
    /// In one line: what happened, to whom, where.
    pub fn title(&self, host: &str) -> String {
        let draft = &self.event.draft;
        let data = &draft.data;
        let text = |key: &str| data[key].as_str().unwrap_or_default();
        if data["test"] == true {
            return format!("Test of a notification from {host}");
        }
        let what = match draft.kind {
            EventType::RunnerEnded => {
                let cause = data["exit"]["cause"].as_str().unwrap_or("unknown");
                format!("{}: a runner ended, {cause}", draft.project)
            }
            EventType::BudgetThreshold => {
                let percent = data["percent"].as_u64().unwrap_or_default();
                format!("{}: {percent} % are used", thing(&draft.subject))
            }
            EventType::BudgetExceeded => format!("{} is used up", thing(&draft.subject)),
            EventType::AdmissionDenied => {
                format!(
                    "{}: launches are refused by {}",
                    draft.project,
                    text("gate")
                )
            }
            kind if kind.short().starts_with("host.") => {
                let what = kind.short().trim_start_matches("host.");
                let name = Some(text("name")).filter(|n| !n.is_empty());
                format!("host {}: {what}", name.unwrap_or(&draft.subject))
            }
            kind => match (kind.short().split_once('.'), draft.project.as_str()) {
                (Some(("runner", what)), project) => format!("{project}: a runner is {what}"),
                (Some((_, what)), _) => format!("{}: {what}", thing(&draft.subject)),
                (None, _) => kind.short().to_owned(),
            },
        };
        format!("{what} ({host})")
    }

    /// What there is to say beyond the title, in lines.
    pub fn text(&self) -> String {
        let draft = &self.event.draft;
        let data = &draft.data;
        let mut lines = Vec::new();
        if let Some(message) = data["exit"]["message"].as_str().filter(|m| !m.is_empty()) {
            lines.push(message.to_owned());
        }
        for key in ["name", "user", "reason", "gate"] {
            if let Some(text) = data[key].as_str().filter(|t| !t.is_empty()) {
                lines.push(format!("{key}: {text}"));
            }
        }
        for key in ["used", "limit", "requested", "count"] {
            if let Some(number) = data[key].as_u64() {
                lines.push(format!("{key}: {number}"));
            }
        }
        lines.push(format!("{}, {}", draft.subject, draft.at.shown()));
        if self.more > 0 {
            lines.push(format!(
                "And {} more like it since the last message.",
                self.more
            ));
        }
        if self.kept_back > 0 {
            lines.push(format!(
                "{} other events made no message: there were too many.",
                self.kept_back
            ));
        }
        let mut text = lines.join("\n");
        if text.len() > TEXT_MAX {
            text.truncate(text.floor_char_boundary(TEXT_MAX));
            text.push('…');
        }
        text
    }

    /// Something is wrong, rather than just over.
    fn is_urgent(&self) -> bool {
        matches!(
            self.event.draft.kind,
            EventType::HostLost | EventType::HostUnreachable | EventType::BudgetExceeded
        )
    }

    /// Body and headers in this format.
    pub fn posting(&self, format: Format, host: &str) -> Posting {
        let (title, text) = (self.title(host), self.text());
        match format {
            Format::Json => Posting {
                content_type: "application/json",
                headers: Vec::new(),
                body: self.json(host, &title, &text).to_string(),
            },
            Format::Slack => Posting {
                content_type: "application/json",
                headers: Vec::new(),
                body: json!({ "text": escaped(&format!("*{title}*\n{text}")) }).to_string(),
            },
            Format::Ntfy => Posting {
                content_type: "text/plain; charset=utf-8",
                headers: vec![
                    ("Title", ascii(&title)),
                    (
                        "Priority",
                        if self.is_urgent() { "high" } else { "default" }.to_owned(),
                    ),
                    ("Tags", "stratavore".to_owned()),
                ],
                body: text,
            },
        }
    }

    fn json(&self, host: &str, title: &str, text: &str) -> Value {
        let draft = &self.event.draft;
        let event = json!({
            "type": format!("org.stratavore.{}", draft.kind.short()),
            "project": draft.project,
            "subject": draft.subject,
            "runnerseq": draft.seq,
            "time": rfc3339(draft.at),
            "data": draft.data,
        });
        json!({
            "host": host,
            "title": title,
            "text": text,
            "more": self.more,
            "kept_back": self.kept_back,
            // A test is about no event.
            "event": if draft.data["test"] == true { Value::Null } else { event },
        })
    }
}

fn rfc3339(at: Timestamp) -> Option<String> {
    let at = jiff::Timestamp::from_microsecond(i64::try_from(at.0).ok()?).ok()?;
    Some(format!("{at:.6}"))
}

/// `budget/project:ml/day` is “budget project:ml/day”.
fn thing(subject: &str) -> String {
    subject.replacen('/', " ", 1)
}

/// Slack takes these three for its own marks.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;")
}

/// A header holds no other characters.
fn ascii(text: &str) -> String {
    let keep = |c: char| {
        if c == ' ' || c.is_ascii_graphic() {
            c
        } else {
            '?'
        }
    };
    text.chars().map(keep).collect()
}
