//! A made-up store of two hosts, a broker, and faults at every step.

mod model;

use super::*;
use model::{LIMITS, Stored, Turn, World, turn};
use proptest::prelude::*;

fn of_either() -> impl Strategy<Value = Vec<(bool, Turn)>> {
    prop::collection::vec((any::<bool>(), turn()), 0..250)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn everything_arrives_in_order_whatever_happens(
        events in prop::collection::vec((0u8..4, any::<bool>()), 1..60),
        bound in prop::collection::vec(0u8..4, 0..5),
        park in any::<[bool; 2]>(),
        turns in of_either(),
    ) {
        let mut world = World::new(&events, &bound, park);
        turns.iter().for_each(|(other, turn)| world.turn(usize::from(*other), turn));
        world.bound = (0..4).collect();
        // One is told to try again while the other one still keeps what is before.
        for at in [1, 0, 1] {
            world.turn(at, &Turn::Retry);
        }
        world.drain();
        world.check()?;
        prop_assert!(world.outbox.is_empty(), "{:?}", world.outbox);
    }

    #[test]
    fn so_it_does_when_the_setting_changes_and_a_host_is_given_up(
        events in prop::collection::vec((0u8..4, any::<bool>()), 1..60),
        bound in prop::collection::vec(0u8..4, 0..5),
        park in any::<[bool; 2]>(),
        first in of_either(),
        restart in any::<[bool; 2]>(),
        second in of_either(),
        third in of_either(),
    ) {
        let mut world = World::new(&events, &bound, park);
        first.iter().for_each(|(other, turn)| world.turn(usize::from(*other), turn));
        for at in [0, 1] {
            world.turn(at, &Turn::Restart(restart[at]));
        }
        second.iter().for_each(|(other, turn)| world.turn(usize::from(*other), turn));
        world.turn(0, &Turn::Adopt);
        third.iter().for_each(|(other, turn)| world.turn(usize::from(*other), turn));
        world.bound = (0..4).collect();
        world.turn(1, &Turn::Retry);
        world.drain();
        world.check()?;
        prop_assert!(world.outbox.is_empty(), "{:?}", world.outbox);
    }
}

#[test]
fn what_nobody_wants_holds_up_its_own_subject_alone() {
    let mut world = World::of_one(&[0, 1, 0, 1, 0], &[1], true);
    world.drain();
    assert_eq!(world.log, [(1, 1), (1, 2)]);
    let why: Vec<_> = world.outbox.iter().map(|s| s.parked).collect();
    assert_eq!(
        why,
        [
            Some(Why::Unroutable),
            Some(Why::Follows),
            Some(Why::Follows)
        ]
    );
    world.bound.insert(0);
    world.turn(0, &Turn::Retry);
    world.drain();
    assert_eq!(world.log[2..], [(0, 1), (0, 2), (0, 3)]);
}

#[test]
fn where_unroutable_events_are_accepted_nothing_is_parked() {
    let mut world = World::of_one(&[0, 0], &[], false);
    world.drain();
    assert!(world.outbox.is_empty());
}

#[test]
fn what_was_parked_goes_first_where_unroutable_events_are_accepted_now() {
    let mut world = World::of_one(&[0, 0], &[], true);
    world.drain();
    world.turn(0, &Turn::Restart(false));
    let (position, subject, seq) = (3, 0, 3);
    world.all.insert(position, (subject, seq));
    world.outbox.push(Stored {
        position,
        subject,
        seq,
        host: 0,
        parked: None,
    });
    world.ask(0, 8);
    assert!(!world.read(0), "it waits for those that are parked");
    world.drain();
    assert_eq!(world.log, [(0, 1), (0, 2), (0, 3)]);
}

#[test]
fn a_page_from_before_a_retry_parks_nothing() {
    let mut world = World::of_one(&[0], &[], true);
    world.drain();
    world.all.insert(2, (0, 2));
    world.outbox.push(Stored {
        position: 2,
        subject: 0,
        seq: 2,
        host: 0,
        parked: None,
    });
    world.ask(0, 8);
    world.bound.insert(0);
    world.turn(0, &Turn::Retry);
    world.read(0);
    assert!(world.hosts[0].window.settlement().is_empty());
}

#[test]
fn a_full_queue_holds_up_its_own_project_alone() {
    // Many subjects of a project whose queue is full, and one of another.
    let mut window = Window::new(LIMITS, true);
    let row = |position: u64, project: &str| Row {
        position,
        subject: format!("runner/{position}").into(),
        project: project.into(),
        seq: 1,
        behind: None,
        behind_unroutable: false,
    };
    for position in 1..=12 {
        assert_eq!(window.offer(row(position, "full"), || ()), Offer::Taken);
    }
    for position in 1..=4 {
        assert_eq!(window.take().map(|(at, _)| at), Some(position));
    }
    for position in 1..=4 {
        window.outcome(position, Outcome::Refused);
    }
    assert_eq!((window.refused(), window.room()), (4, 12));
    assert_eq!(window.offer(row(13, "full"), || ()), Offer::Waits);
    assert_eq!(window.offer(row(14, "other"), || ()), Offer::Taken);
    assert_eq!(window.take().map(|(at, _)| at), Some(14));
    assert!(
        window.take().is_none(),
        "what was refused is not tried by itself"
    );
    window.outcome(14, Outcome::Confirmed);
    window.again(1);
    assert_eq!(window.take().map(|(at, _)| at), Some(1));
    window.outcome(1, Outcome::Refused);
    window.again(1);
    assert_eq!(window.take().map(|(at, _)| at), Some(2), "each in its turn");
    // There is room again.
    window.outcome(2, Outcome::Confirmed);
    assert_eq!(window.refused(), 0);
    assert_eq!(window.take().map(|(at, _)| at), Some(1));
    assert_eq!(window.offer(row(5, "full"), || ()), Offer::Taken);
}

#[test]
fn however_many_queues_are_full_the_rest_goes_on() {
    let limits = Limits {
        rows: 100,
        window: 50,
        batch: 50,
    };
    let mut window = Window::new(limits, true);
    let row = |position: u64, project: String| Row {
        position,
        subject: format!("runner/{position}").into(),
        project: project.into(),
        seq: 1,
        behind: None,
        behind_unroutable: false,
    };
    for position in 0..4_000 {
        let full = format!("full-{}", position / 4);
        window.asking();
        window.offer(row(position, full), || ());
        while let Some((at, ())) = window.take() {
            window.outcome(at, Outcome::Refused);
        }
    }
    let kept = window.refused();
    assert!((1_000..1_000 + 64 * 4).contains(&kept), "{kept}");
    assert_eq!(window.room(), 100);
    assert_eq!(
        window.offer(row(9_999, "other".to_owned()), || ()),
        Offer::Taken
    );
    assert_eq!(window.take().map(|(at, ())| at), Some(9_999));
}

#[test]
fn what_is_parked_already_is_counted_once() {
    let mut window = Window::new(LIMITS, true);
    let row = |seq: u64, behind_unroutable| Row {
        position: seq,
        subject: "project/p".into(),
        project: "p".into(),
        seq,
        behind: None,
        behind_unroutable,
    };
    assert_eq!(window.offer(row(1, false), || ()), Offer::Taken);
    assert_eq!(window.take().map(|(at, _)| at), Some(1));
    // Another host has parked what is between them.
    assert_eq!(window.offer(row(3, true), || ()), Offer::Taken);
    assert_eq!(window.parked(), 1);
    window.outcome(1, Outcome::Returned);
    assert_eq!(window.parked(), 2);
    window.settled(&window.settlement());
    assert_eq!((window.parked(), window.is_empty()), (0, true));
}

/// Else it would wait for the next pass, which after a long backlog is far away.
#[test]
fn what_follows_one_that_was_settled_while_the_page_was_read_goes_at_once() {
    let mut window = Window::new(LIMITS, true);
    let row = |seq: u64, behind| Row {
        position: seq,
        subject: "runner/r".into(),
        project: "p".into(),
        seq,
        behind,
        behind_unroutable: false,
    };
    window.asking();
    assert_eq!(window.offer(row(1, None), || ()), Offer::Taken);
    assert_eq!(window.take().map(|(at, _)| at), Some(1));
    window.outcome(1, Outcome::Confirmed);
    window.asking();
    window.settled(&window.settlement());
    assert_eq!(window.offer(row(2, Some(1)), || ()), Offer::Taken);
    assert_eq!(window.take().map(|(at, _)| at), Some(2));
    // What is not settled is waited for.
    assert_eq!(window.offer(row(4, Some(3)), || ()), Offer::Waits);
}

/// One for each confirm would be a packet each.
#[test]
fn a_full_window_is_filled_again_by_many_at_once() {
    let limits = Limits {
        rows: 100,
        window: 16,
        batch: 50,
    };
    let mut window = Window::new(limits, true);
    let row = |position: u64| Row {
        position,
        subject: format!("runner/{position}").into(),
        project: "p".into(),
        seq: 1,
        behind: None,
        behind_unroutable: false,
    };
    for position in 1..=30 {
        assert_eq!(window.offer(row(position), || ()), Offer::Taken);
    }
    let taken = |window: &mut Window<()>| std::iter::from_fn(|| window.take().map(drop)).count();
    assert_eq!(taken(&mut window), 16);
    window.outcome(1, Outcome::Confirmed);
    assert_eq!(taken(&mut window), 0, "an eighth is not free yet");
    window.outcome(2, Outcome::Confirmed);
    assert_eq!(taken(&mut window), 2);
    window.outcome(3, Outcome::Confirmed);
    assert_eq!(taken(&mut window), 0, "it was full again");
    window.lost();
    assert_eq!(taken(&mut window), 16);
    // The rest is fewer than it holds: one that was not full takes whatever comes.
    (4..=19).for_each(|at| window.outcome(at, Outcome::Confirmed));
    assert_eq!(taken(&mut window), 11);
    assert_eq!(window.offer(row(31), || ()), Offer::Taken);
    assert_eq!(taken(&mut window), 1);
}
