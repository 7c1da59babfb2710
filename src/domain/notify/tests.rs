//! Rules, how often they speak, and what they say.

use super::super::event::{Actor, Draft};
use super::*;
use crate::domain::secret::Secret;
use proptest::prelude::*;
use serde_json::json;

fn ended(project: &str, cause: &str, n: u64) -> Event {
    Event {
        position: n,
        draft: Draft {
            kind: EventType::RunnerEnded,
            project: project.to_owned(),
            subject: format!("runner/{n}"),
            seq: 3,
            at: Timestamp(n),
            actor: Actor::host(),
            data: json!({ "exit": { "cause": cause, "message": "a <b> & c" }, "name": "naïve" }),
        },
    }
}

fn rule(types: &[&str]) -> Rule {
    let types = types.iter().map(|t| Pattern::parse(t));
    Rule {
        types: types.collect::<Result<_, _>>().unwrap_or_default(),
        ..Rule::default()
    }
}

#[test]
fn a_rule_is_about_what_it_names() {
    let bad = rule(&["runner.ended"]);
    assert!(bad.wants(&ended("p", "oom-kill", 1)));
    for well in ["success", "stopped", "cancelled"] {
        assert!(!bad.wants(&ended("p", well, 1)), "{well}");
    }
    let all = Rule {
        causes: vec![Cause::Success],
        ..rule(&["runner.*"])
    };
    assert!(all.wants(&ended("p", "success", 1)) && !all.wants(&ended("p", "oom-kill", 1)));
    assert!(!rule(&["budget.*"]).wants(&ended("p", "oom-kill", 1)));
    let mut some = rule(&["*"]);
    some.projects = ["ml-*", "web"]
        .map(Pattern::parse)
        .into_iter()
        .flatten()
        .collect();
    assert!(some.wants(&ended("ml-1", "timeout", 1)) && some.wants(&ended("web", "timeout", 1)));
    assert!(!some.wants(&ended("web2", "timeout", 1)));
    let mut told = ended("p", "", 1);
    told.draft.kind = EventType::BudgetThreshold;
    for (percent, wanted) in [(50, false), (80, true), (100, true)] {
        told.draft.data = json!({ "percent": percent });
        assert_eq!(
            rule(&["budget.threshold"]).wants(&told),
            wanted,
            "{percent}"
        );
    }
    for wrong in ["", "a*b", "**"] {
        assert!(Pattern::parse(wrong).is_err(), "{wrong}");
    }
}

/// One event stands for all denials of a user within a second, and comes with each of them.
#[test]
fn denials_of_several_users_in_turns_are_counted_once() {
    let (rule, mut told) = (rule(&["admission.denied"]), Told::default());
    let denied = |position: u64| {
        let mut event = ended("p", "", position);
        event.draft.kind = EventType::AdmissionDenied;
        event.draft.data = json!({ "gate": "project-runners" });
        event
    };
    let mut messages = 0;
    for now in 0..900 {
        messages += u64::from(told.event(&rule, &denied(5 + now % 3), now).is_some());
    }
    assert_eq!((messages, told.untold()), (1, 2));
    // However many users there are, so much is remembered and no more.
    for position in 1_000..20_000 {
        told.event(&rule, &denied(position), 1_000);
    }
    assert_eq!(told.told.len(), TOLD_MAX);
    assert_eq!(told.untold(), 2 + 19_000);
    told.event(&rule, &denied(19_999), 1_000);
    assert_eq!(told.untold(), 2 + 19_000);
}

#[test]
fn like_events_are_one_message_and_their_number() {
    let (rule, mut told) = (rule(&["*"]), Told::default());
    let first = told.event(&rule, &ended("p", "oom-kill", 1), 0);
    assert_eq!(first.map(|m| m.more), Some(0));
    assert_eq!(told.due(), None);
    for n in 2..40 {
        assert_eq!(told.event(&rule, &ended("p", "oom-kill", n), n), None);
    }
    // Others are others.
    assert!(told.event(&rule, &ended("p", "timeout", 40), 40).is_some());
    assert!(told.event(&rule, &ended("q", "oom-kill", 41), 41).is_some());
    assert_eq!(told.due(), Some(rule.repeat));
    assert_eq!(told.overdue(&rule, rule.repeat - 1), vec![]);
    let rest = told.overdue(&rule, rule.repeat);
    assert_eq!(
        rest.iter()
            .map(|m| (m.more, m.event.position))
            .collect::<Vec<_>>(),
        [(37, 39)]
    );
    assert_eq!(told.due(), None);
}

#[test]
fn messages_say_what_happened_in_every_format() {
    let message = Message {
        event: ended("p", "oom-kill", 7),
        more: 2,
        kept_back: 1,
    };
    let ntfy = message.posting(Format::Ntfy, "h1");
    assert_eq!(
        ntfy.headers[0],
        ("Title", "p: a runner ended, oom-kill (h1)".to_owned())
    );
    assert!(
        ntfy.body.contains("name: naïve") && ntfy.body.contains("2 more like it"),
        "{}",
        ntfy.body
    );
    assert!(ntfy.headers.iter().all(|(_, v)| v.is_ascii()));
    let slack = message.posting(Format::Slack, "h1").body;
    assert!(slack.contains("a &lt;b&gt; &amp; c"), "{slack}");
    let plain: serde_json::Value =
        serde_json::from_str(&message.posting(Format::Json, "h1").body).unwrap_or_default();
    assert_eq!(plain["event"]["type"], "org.stratavore.runner.ended");
    assert_eq!(
        (plain["more"].as_u64(), plain["kept_back"].as_u64()),
        (Some(2), Some(1))
    );
    let test = Message {
        event: test_event("h1", Timestamp(1)),
        more: 0,
        kept_back: 0,
    };
    assert!(test.title("h1").starts_with("Test"));
}

#[test]
fn a_signature_is_hmac_sha256_of_time_and_body() {
    // As python3 -c "hmac.new(b'0123456789abcdef', b'1763874000.{\"a\":1}', 'sha256')" has it.
    let secret = Secret::new("0123456789abcdef".to_owned());
    assert_eq!(
        signature(&secret, 1_763_874_000, "{\"a\":1}"),
        "v1=e639f894b4a5197db7729ffd3e1d3490a49fd6625acc350957c9c80e68aa45a3"
    );
}

#[test]
fn addresses_are_read_and_not_shown() {
    for (text, shown, host, target) in [
        (
            "https://hooks.example",
            "https://hooks.example",
            "hooks.example",
            "/",
        ),
        (
            "https://Hooks.example:443/a/b?c=d",
            "https://hooks.example/***",
            "hooks.example",
            "/a/b?c=d",
        ),
        ("http://[::1]:8080?x", "http://[::1]:8080/***", "::1", "/?x"),
    ] {
        let Ok(address) = Address::parse(text) else {
            panic!("{text}");
        };
        assert_eq!(address.masked(), shown);
        assert_eq!((address.host(), address.target().reveal()), (host, target));
        assert!(!format!("{address:?} {address}").contains("a/b"));
    }
    for wrong in [
        "",
        "x",
        "https://",
        "https:///x",
        "https://h:99999",
        "https://h:/",
        "https://u@h/",
        "https://h/a b",
        "https://h/#x",
        "https://[::g]/",
    ] {
        assert!(Address::parse(wrong).is_err(), "{wrong}");
    }
}

proptest! {
    /// Every event is told or counted, none twice, and no hour has more messages than the rule allows.
    #[test]
    fn nothing_is_told_too_often_and_nothing_forgotten(
        per_hour in 0u32..6,
        steps in prop::collection::vec((0u64..HOUR / 3, 0usize..700, any::<bool>()), 0..300),
    ) {
        let rule = Rule { per_hour, ..rule(&["*"]) };
        let (mut told, mut now, mut events, mut shown) = (Told::default(), 0, 0, 0);
        let mut sent = Vec::new();
        for (n, (wait, project, look)) in steps.into_iter().enumerate() {
            now += wait;
            let mut messages = Vec::new();
            if look {
                messages.extend(told.overdue(&rule, now));
            } else {
                events += 1;
                messages.extend(told.event(&rule, &ended(&format!("p{project}"), "timeout", n as u64), now));
            }
            for message in messages {
                shown += 1 + message.more + message.kept_back;
                sent.push(now);
            }
            prop_assert_eq!(events, shown + told.untold());
            prop_assert!(told.alike.len() <= ALIKE_MAX);
            let hour = sent.iter().filter(|at| **at + HOUR > now).count();
            prop_assert!(hour <= per_hour as usize);
        }
        // When everything is over, everything is told, if anything may be.
        while per_hour > 0 && let Some(due) = told.due() {
            now = now.max(due);
            for message in told.overdue(&rule, now) {
                shown += 1 + message.more + message.kept_back;
            }
        }
        prop_assert!(per_hour == 0 || events == shown, "{} of {}", shown, events);
    }
}
