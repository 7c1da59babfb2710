//! Every verdict by the tampering that it is about; random chains, random tampering.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::domain::Timestamp;
use crate::domain::audit::Note;
use proptest::prelude::*;

const HOST: &str = "h1";

fn key(n: u8) -> Key {
    Key::new(&(n..n + 32).collect::<Vec<u8>>()).unwrap()
}

fn note(n: u64) -> Note {
    Note {
        at: Timestamp(n * 10),
        text: format!("{{\"kind\":\"runner.ended\",\"n\":{n}}}"),
    }
}

/// A chain with its head and its keys; the key is replaced before these entries.
#[derive(Debug, Clone)]
struct Chain {
    entries: Vec<Entry>,
    head: Head,
    keys: Vec<Key>,
    checkpoint: Option<Checkpoint>,
}

impl Chain {
    fn of(length: u64, rotations: &[u64]) -> Self {
        let mut keys = vec![key(0)];
        let mut head = Head::none();
        let mut entries = Vec::new();
        let at = Timestamp(1);
        entries.push(head.append(&keys[0], HOST, Note::begun(HOST, &keys[0], None, at)));
        while head.n < length {
            let current = keys.last().unwrap().clone();
            let next = match rotations.contains(&(head.n + 1)) {
                false => note(head.n + 1),
                true => {
                    let new = key(u8::try_from(keys.len()).unwrap());
                    keys.push(new.clone());
                    Note::rotated(HOST, &new, &current, at)
                }
            };
            entries.push(head.append(&current, HOST, next));
        }
        Self {
            entries,
            head,
            keys,
            checkpoint: None,
        }
    }

    /// The first so many are removed as retention does it.
    fn pruned(mut self, count: usize) -> Self {
        let mut last = Head::none();
        for entry in self.entries.drain(..count) {
            let named = said(&entry.entry);
            (last.n, last.mac) = (entry.n, entry.mac);
            if let Said::Begun(key) | Said::Rotated(key) = named {
                last.key = key;
            }
        }
        let key = self.keys.last().unwrap();
        self.checkpoint = Some(Checkpoint::new(key, HOST, &last));
        self
    }

    fn with(&self, keys: &[Key], anchors: &[Anchor]) -> Report {
        let checkpoint = self.checkpoint.as_ref();
        let head = Some(&self.head);
        let mut verifier = Verifier::new(HOST, keys, checkpoint, head, anchors.to_vec());
        self.entries.iter().for_each(|entry| verifier.feed(entry));
        verifier.finish()
    }

    fn verdict(&self) -> Verdict {
        self.with(&self.keys, &[]).verdict
    }

    fn anchor(&self, n: usize) -> Anchor {
        Anchor {
            host: HOST.to_owned(),
            n: self.entries[n].n,
            mac: self.entries[n].mac,
        }
    }
}

#[test]
fn a_whole_chain_is_whole() {
    let chain = Chain::of(12, &[5, 6, 9]);
    let anchors = [
        chain.anchor(3),
        chain.anchor(11),
        Anchor {
            host: "another".to_owned(),
            n: 99,
            mac: Mac::NONE,
        },
    ];
    let report = chain.with(&chain.keys, &anchors);
    assert_eq!(
        (&report.verdict, report.entries, report.anchors),
        (&Verdict::Whole, 12, 2)
    );
    assert_eq!((report.first, report.last), (1, 12));
    let pruned = chain.clone().pruned(7);
    let report = pruned.with(
        &pruned.keys,
        &[chain.anchor(1), chain.anchor(6), chain.anchor(9)],
    );
    assert_eq!(report.verdict, Verdict::Whole);
    assert_eq!((report.first, report.anchors), (8, 2));
    assert_eq!(chain.clone().pruned(12).verdict(), Verdict::Whole);
}

#[test]
fn the_tail_cut_off() {
    let whole = Chain::of(9, &[]);
    let mut chain = whole.clone();
    chain.entries.truncate(6);
    assert_eq!(chain.verdict(), Verdict::Cut { last: 6, head: 9 });
    // The head was put back, too: only an anchor knows.
    (chain.head.n, chain.head.mac) = (6, chain.entries[5].mac);
    assert_eq!(chain.verdict(), Verdict::Whole);
    let report = chain.with(&chain.keys, &[whole.anchor(7)]);
    assert_eq!(report.verdict, Verdict::Short { last: 6, anchor: 8 });
    chain.head.n = 4;
    assert_eq!(chain.verdict(), Verdict::HeadDiffers { head: 4, last: 6 });
    // All of it is gone.
    chain.entries.clear();
    chain.head = Head::none();
    assert_eq!(chain.verdict(), Verdict::Empty);
    let report = chain.with(&chain.keys, &[whole.anchor(7)]);
    assert_eq!(report.verdict, Verdict::Short { last: 0, anchor: 8 });
}

#[test]
fn who_has_the_key_still_differs_from_the_anchor() {
    let whole = Chain::of(9, &[]);
    let mut other = Chain::of(4, &[]);
    for n in 5..=11 {
        let mut note = note(n);
        note.text.push(' ');
        let entry = other.head.append(&other.keys[0], HOST, note);
        other.entries.push(entry);
    }
    assert_eq!(other.verdict(), Verdict::Whole);
    let report = other.with(&other.keys, &[whole.anchor(2), whole.anchor(7)]);
    assert_eq!(report.verdict, Verdict::Rewritten { n: 8 });
}

#[test]
fn keys_that_are_missing_are_named() {
    let chain = Chain::of(9, &[4]);
    let needs = |keys: &[Key]| chain.with(keys, &[]).verdict;
    let wrong = |n: u64, at: usize| Verdict::WrongKey {
        key: chain.keys[at].id().to_owned(),
        n,
    };
    assert_eq!(needs(&[]), wrong(1, 0));
    assert_eq!(needs(&[key(99)]), wrong(1, 0));
    assert_eq!(needs(&chain.keys[1..]), wrong(1, 0));
    assert_eq!(needs(&chain.keys[..1]), wrong(5, 1));
    // Of what was pruned no key is needed.
    let pruned = chain.clone().pruned(4);
    assert_eq!(pruned.with(&chain.keys[1..], &[]).verdict, Verdict::Whole);
}

#[test]
fn a_key_that_was_lost_is_told() {
    let mut chain = Chain::of(3, &[]);
    chain.keys.push(key(50));
    let begun = Note::begun(HOST, &chain.keys[1], Some(chain.keys[0].id()), Timestamp(2));
    let entry = chain.head.append(&chain.keys[1], HOST, begun);
    chain.entries.push(entry);
    let entry = chain.head.append(&chain.keys[1], HOST, note(5));
    chain.entries.push(entry);
    let report = chain.with(&chain.keys, &[]);
    assert_eq!(
        (report.verdict, report.unsigned_keys),
        (Verdict::Whole, vec![4])
    );
}

#[test]
fn a_head_that_was_put_back_under_a_running_daemon_stays_known() {
    let mut chain = Chain::of(9, &[]);
    let expected = chain.head.clone();
    chain.entries.truncate(6);
    (chain.head.n, chain.head.mac) = (6, chain.entries[5].mac);
    let told = Note::head_differed(HOST, &expected, &chain.head, Timestamp(3));
    let entry = chain.head.append(&chain.keys[0], HOST, told);
    chain.entries.push(entry);
    assert_eq!(chain.verdict(), Verdict::Cut { last: 6, head: 9 });
}

#[test]
fn nothing_hides_what_is_wrong_later() {
    // Entries were lost, which the chain tells, and long after that one is changed.
    let mut chain = Chain::of(4, &[]);
    let expected = Head {
        n: 6,
        ..chain.head.clone()
    };
    let told = Note::head_differed(HOST, &expected, &chain.head, Timestamp(50));
    for next in [told, note(6), note(7), note(8)] {
        let entry = chain.head.append(&chain.keys[0], HOST, next);
        chain.entries.push(entry);
    }
    assert_eq!(chain.verdict(), Verdict::Cut { last: 4, head: 6 });
    chain.entries[6].at = Timestamp(1);
    assert_eq!(chain.verdict(), Verdict::Changed { n: 7 });

    // A former key is not given, and something is missing.
    let mut chain = Chain::of(12, &[5]);
    let current = &chain.keys.clone()[1..];
    let needs = Verdict::WrongKey {
        key: key(0).id().to_owned(),
        n: 1,
    };
    assert_eq!(chain.with(current, &[]).verdict, needs);
    chain.entries.truncate(10);
    let cut = Verdict::Cut { last: 10, head: 12 };
    assert_eq!(chain.with(current, &[]).verdict, cut);
    chain.entries.remove(7);
    let removed = Verdict::Removed { from: 8, to: 8 };
    assert_eq!(chain.with(current, &[]).verdict, removed);
}

/// Who has a key that was replaced can neither go on with it nor sign for what came before.
#[test]
fn a_key_that_was_replaced_signs_no_more() {
    let whole = Chain::of(12, &[5]);
    let former = &whole.keys[0];
    let mut forged = whole.clone();
    forged.entries.truncate(7);
    forged.head = Head {
        n: 7,
        mac: forged.entries[6].mac,
        key: whole.keys[1].id().to_owned(),
    };
    let begun = Note::begun(HOST, former, Some(whole.keys[1].id()), Timestamp(3));
    for next in [begun, note(9)] {
        let entry = forged.head.append(former, HOST, next);
        forged.entries.push(entry);
    }
    assert_eq!(forged.verdict(), Verdict::Changed { n: 8 });

    let mut forged = whole.clone().pruned(7);
    let passed = Head {
        n: 7,
        mac: whole.entries[6].mac,
        key: whole.keys[1].id().to_owned(),
    };
    assert_eq!(forged.verdict(), Verdict::Whole);
    forged.checkpoint = Some(Checkpoint::new(former, HOST, &passed));
    assert_eq!(forged.verdict(), Verdict::CheckpointChanged { n: 7 });
}

#[test]
fn a_checkpoint_is_not_for_everybody_to_make() {
    let chain = Chain::of(9, &[]).pruned(4);
    let mut forged = chain.clone();
    // Two more are gone, and the checkpoint says so; but not with the key.
    let gone = forged.entries.remove(0);
    let checkpoint = forged.checkpoint.as_mut().unwrap();
    (checkpoint.n, checkpoint.mac) = (gone.n, gone.mac);
    assert_eq!(forged.verdict(), Verdict::CheckpointChanged { n: 5 });
    let mut without = chain.clone();
    without.checkpoint = None;
    assert_eq!(without.verdict(), Verdict::Removed { from: 1, to: 4 });
    // That of another host.
    let mut other = chain;
    other.checkpoint = other.checkpoint.map(|c| Checkpoint {
        check: Checkpoint::fitting(&other.keys[0], "h2", c.n, &c.mac, &c.next_key),
        ..c
    });
    assert_eq!(other.verdict(), Verdict::CheckpointChanged { n: 4 });
}

#[test]
fn a_file_that_breaks_off() {
    let chain = Chain::of(4, &[]);
    let mut verifier = Verifier::new(HOST, &chain.keys, None, Some(&chain.head), []);
    chain.entries[..2].iter().for_each(|e| verifier.feed(e));
    verifier.torn();
    assert_eq!(verifier.finish().verdict, Verdict::Torn { last: 2 });
}

fn any_chain() -> impl Strategy<Value = Chain> {
    (2u64..24, prop::collection::vec(2u64..24, 0..3), 0usize..6).prop_map(
        |(length, rotations, pruned)| {
            let chain = Chain::of(length, &rotations);
            match pruned.min(chain.entries.len() - 2) {
                0 => chain,
                pruned => chain.pruned(pruned),
            }
        },
    )
}

proptest! {
    #[test]
    fn any_chain_is_whole(chain in any_chain()) {
        let report = chain.with(&chain.keys, &[]);
        prop_assert_eq!(report.verdict, Verdict::Whole);
        prop_assert_eq!(report.last, chain.head.n);
    }

    #[test]
    fn a_change_is_found_where_it_is(chain in any_chain(), at in any::<prop::sample::Index>(), what in 0..4, bit in 0usize..4096) {
        let mut chain = chain;
        let at = at.index(chain.entries.len());
        let n = chain.entries[at].n;
        let entry = &mut chain.entries[at];
        match what {
            0 => entry.at.0 ^= 1 << (bit % 40),
            1 => entry.mac.0[bit % 32] ^= 1 << (bit % 8),
            2 => entry.entry.push(' '),
            _ => {
                let mut text = std::mem::take(&mut entry.entry).into_bytes();
                let place = bit % text.len();
                text[place] = if text[place] == b'z' { b'y' } else { b'z' };
                entry.entry = String::from_utf8(text).unwrap();
            }
        }
        // The only entry there is can't be told from one under a key that nobody gave.
        let alone = chain.entries.len() == 1 && chain.checkpoint.is_none();
        let verdict = chain.verdict();
        prop_assert!(verdict == Verdict::Changed { n } || alone, "{:?} at {}: {:?}", verdict, n, what);
    }

    #[test]
    fn what_is_missing_is_named(chain in any_chain(), at in any::<prop::sample::Index>(), count in 1usize..5) {
        let mut chain = chain;
        // Not the last: that is a tail cut off.
        let at = at.index(chain.entries.len() - 1);
        let to = (at + count).min(chain.entries.len() - 1);
        let gone: Vec<_> = chain.entries.drain(at..to).collect();
        let expected = Verdict::Removed { from: gone[0].n, to: gone[gone.len() - 1].n };
        prop_assert_eq!(chain.verdict(), expected);
    }

    #[test]
    fn a_cut_is_told(chain in any_chain(), left in any::<prop::sample::Index>()) {
        let mut chain = chain;
        chain.entries.truncate(left.index(chain.entries.len()));
        let base = chain.checkpoint.as_ref().map_or(0, |c| c.n);
        let last = chain.entries.last().map_or(base, |e| e.n);
        prop_assert_eq!(chain.verdict(), Verdict::Cut { last, head: chain.head.n });
    }

    #[test]
    fn an_entry_is_not_put_in_or_moved(chain in any_chain(), at in any::<prop::sample::Index>(), to in any::<prop::sample::Index>()) {
        let (at, to) = (at.index(chain.entries.len()), to.index(chain.entries.len()));
        // Renumbered, so that nothing seems to be missing.
        let mut moved = chain.clone();
        let entry = moved.entries.remove(at);
        moved.entries.insert(to, entry);
        let first = chain.entries[0].n;
        for (n, entry) in (first..).zip(&mut moved.entries) {
            entry.n = n;
        }
        if at != to {
            prop_assert_eq!(moved.verdict(), Verdict::Changed { n: chain.entries[at.min(to)].n });
        }
        let mut doubled = chain.clone();
        doubled.entries.insert(at, chain.entries[to].clone());
        prop_assert!(!doubled.with(&doubled.keys, &[]).is_whole());
    }

    #[test]
    fn another_key_is_a_wrong_key(chain in any_chain()) {
        let report = chain.with(&[key(100)], &[]);
        prop_assert!(matches!(report.verdict, Verdict::WrongKey { .. }), "{:?}", report.verdict);
    }

    #[test]
    fn another_hosts_chain_does_not_fit(chain in any_chain()) {
        let mut verifier = Verifier::new("h2", &chain.keys, None, None, []);
        chain.entries.iter().for_each(|entry| verifier.feed(entry));
        prop_assert!(!verifier.finish().is_whole());
    }
}
