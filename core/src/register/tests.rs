use super::*;
use crate::error::{Error, ErrorKind, Result};
use proptest::prelude::*;

const A: SegmentId = SegmentId([0xa; 16]);
const B: SegmentId = SegmentId([0xb; 16]);

fn write(segment: SegmentId, sequence: u64, stamp_time: u64, value: Option<u32>) -> Write<u32> {
    Write { dot: Dot { segment, sequence }, stamp_time, value }
}

/// One step of a little world of replicas of one register.
#[derive(Debug, Clone)]
enum Step {
    Write { at: usize, time: u64, delete: bool, resolve: bool },
    Merge { from: usize, to: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step =
        prop_oneof![
            (0usize..4, 0u64..1 << 20, any::<bool>(), any::<bool>())
                .prop_map(|(at, time, delete, resolve)| Step::Write { at, time, delete, resolve }),
            (0usize..4, 0usize..4).prop_map(|(from, to)| Step::Merge { from, to }),
        ];
    prop::collection::vec(step, 1..40)
}

/// All states that the replicas go through.
fn reachable(steps: &[Step]) -> Vec<Register<u32>> {
    let mut replicas = vec![Register::empty(); 4];
    let mut sequence = 0;
    let mut states = replicas.clone();
    for step in steps {
        match *step {
            Step::Write { at, time, delete, resolve } => {
                sequence += 1;
                let replaces = if resolve {
                    replicas[at].dots()
                } else {
                    replicas[at].shown().map(|w| w.dot).into_iter().collect()
                };
                let value = (!delete).then_some(sequence as u32);
                replicas[at].local_write(write(SegmentId([at as u8; 16]), sequence, time, value), &replaces);
                states.push(replicas[at].clone());
            }
            Step::Merge { from, to } => {
                let other = replicas[from].clone();
                replicas[to].merge(&other);
                states.push(replicas[to].clone());
            }
        }
    }
    states
}

fn join(a: &Register<u32>, b: &Register<u32>) -> Register<u32> {
    let mut joined = a.clone();
    let changed = joined.merge(b);
    assert_eq!(changed, joined != *a);
    joined
}

fn encoded(register: &Register<u32>, own: &SegmentId) -> Vec<u8> {
    let mut out = Vec::new();
    register.encode(&mut out, own, |value, out| out.extend_from_slice(&value.to_be_bytes()));
    out
}

fn decoded(input: &mut &[u8], own: &SegmentId) -> Result<Register<u32>> {
    Register::decode(input, own, |mut bytes| {
        let value = u32::from_be_bytes(take_array(&mut bytes)?);
        if bytes.is_empty() { Ok(value) } else { Err(Error::damaged("a value is too long")) }
    })
}

proptest! {
    #[test]
    fn merging_is_commutative_associative_and_idempotent(steps in steps(), picks in prop::collection::vec(any::<prop::sample::Index>(), 3)) {
        let states = reachable(&steps);
        let [a, b, c] = [&picks[0], &picks[1], &picks[2]].map(|pick| pick.get(&states));
        prop_assert_eq!(join(a, b), join(b, a));
        prop_assert_eq!(join(&join(a, b), c), join(a, &join(b, c)));
        prop_assert_eq!(&join(a, a), a);
        prop_assert_eq!(join(&join(a, b), b), join(a, b));
    }

    #[test]
    fn states_keep_their_invariants(steps in steps()) {
        for state in reachable(&steps) {
            prop_assert!(state.ordered().windows(2).all(|w| w[0].rank() > w[1].rank()));
            prop_assert!(state.ordered().iter().all(|w| state.context().covers(&w.dot)));
            prop_assert_eq!(state.is_empty(), state.ordered().is_empty());
            prop_assert_eq!(state.is_tombstone_only(), state.live_values().count() == 0);
            prop_assert_eq!(state.live_values().count() + state.tombstones().count(), state.ordered().len());
            prop_assert!(state.covered_by(state.context()));
        }
    }

    /// Delivered in any order, twice and by way of others, all that was written ends in one state.
    #[test]
    fn the_order_of_delivery_does_not_matter(steps in steps(), order in any::<prop::sample::Index>()) {
        let states = reachable(&steps);
        let forward = states.iter().fold(Register::empty(), |sum, state| join(&sum, state));
        let turn = order.index(states.len());
        let turned = states[turn..].iter().chain(&states).rev().fold(Register::empty(), |sum, state| join(&sum, state));
        prop_assert_eq!(forward, turned);
    }

    #[test]
    fn encoding_round_trips_for_every_owner(steps in steps()) {
        for state in reachable(&steps) {
            for own in [SegmentId([0; 16]), SegmentId([3; 16]), SegmentId([9; 16])] {
                let mut bytes = encoded(&state, &own);
                bytes.extend_from_slice(b"next");
                let mut rest = bytes.as_slice();
                prop_assert_eq!(&decoded(&mut rest, &own).unwrap(), &state);
                prop_assert_eq!(rest, b"next");
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_damaged(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check_hostile(&bytes);
    }

    #[test]
    fn bent_encodings_are_read_or_damaged(steps in steps(), at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<bool>()) {
        for state in reachable(&steps) {
            let mut bytes = encoded(&state, &A);
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
                if at > 0 || state.is_empty() { check_hostile(&bytes); }
            } else {
                bytes[at] ^= 1 << bit;
                check_hostile(&bytes);
            }
        }
    }
}

/// A decoder that accepts must accept exactly what the encoder writes.
fn check_hostile(bytes: &[u8]) {
    let mut rest = bytes;
    match decoded(&mut rest, &A) {
        Ok(register) => {
            assert!(register.ordered().iter().all(|w| register.context().covers(&w.dot) && !w.dot.is_pending()));
            assert_eq!(encoded(&register, &A), bytes[..bytes.len() - rest.len()]);
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Damaged),
    }
}

#[test]
fn the_usual_register_is_tiny() {
    let mut register = Register::empty();
    register.local_write(write(A, 100, (1_800_000_000_000 << 16) + 3, Some(7)), &[]);
    // Head, segment and flag, sequence, time, length of the value, value.
    assert_eq!(encoded(&register, &A).len(), 1 + 1 + 1 + 8 + 1 + 4);
    assert_eq!(encoded(&register, &B).len(), 1 + 1 + 16 + 1 + 8 + 1 + 4);
    let replaced = register.dots();
    register.local_write(write(A, 200, 1_900_000_000_000 << 16, None), &replaced);
    assert_eq!(encoded(&register, &A).len(), 1 + 1 + 2 + 8);
}

#[test]
fn values_show_before_tombstones_then_the_highest_stamp() {
    let mut here = Register::empty();
    here.local_write(write(A, 1, 10, Some(1)), &[]);
    let mut there = here.clone();
    let first = here.dots();
    here.local_write(write(A, 2, 99, None), &first);
    there.local_write(write(B, 1, 5, Some(2)), &first);
    assert!(here.merge(&there));
    assert_eq!(here.value(), Some(&2), "an edit beats a concurrent delete, whatever the clocks say");
    assert_eq!(here.ordered().len(), 2);
    assert!(!here.has_conflict());

    // A write replaces just what showed: the tombstone stays until somebody resolves it.
    let shown = here.shown().unwrap().dot;
    here.local_write(write(A, 3, 100, Some(3)), &[shown]);
    assert_eq!(here.value(), Some(&3));
    assert_eq!(here.tombstones().map(|w| w.dot).collect::<Vec<_>>(), [Dot::new(A, 2)]);

    // Ties by segment.
    let mut left = Register::empty();
    left.local_write(write(A, 1, 10, Some(1)), &[]);
    let mut right = Register::empty();
    right.local_write(write(B, 1, 10, Some(2)), &[]);
    left.merge(&right);
    assert_eq!(left.value(), Some(&2));
    assert!(left.has_conflict());
}

#[test]
fn an_edit_made_after_seeing_another_is_no_conflict() {
    let mut here = Register::empty();
    here.local_write(write(A, 1, 1000, Some(1)), &[]);
    let mut there = Register::empty();
    there.merge(&here);
    let seen = there.dots();
    there.local_write(write(B, 1, 1, Some(2)), &seen);
    assert!(here.merge(&there));
    assert_eq!(here.ordered().len(), 1, "the clock of B is behind, and it does not matter");
    assert_eq!(here.value(), Some(&2));
    assert!(!here.merge(&there), "a second delivery changes nothing");
}

#[test]
fn pending_changes_show_and_get_their_numbers() {
    let mut register = Register::empty();
    register.local_write(write(B, 5, 70, Some(1)), &[]);
    register.merge(&{
        let mut other = Register::empty();
        other.local_write(write(A, 3, 60, Some(2)), &[]);
        other
    });
    assert_eq!(register.value(), Some(&1));
    let shown = register.shown().unwrap().dot;
    register.local_write(Write::pending(4, A, Some(9)), &[shown]);
    assert!(register.is_pending());
    assert_eq!(register.value(), Some(&9));
    // A second change in the same transaction replaces the first.
    let shown = register.shown().unwrap().dot;
    assert_eq!(shown.slot(), Some(4));
    register.local_write(Write::pending(6, A, None), &[shown]);

    register.assign(&A, 100, 1000);
    assert!(!register.is_pending());
    assert_eq!(register.ordered(), [write(A, 3, 60, Some(2)), write(A, 106, 1006, None)]);
    assert_eq!(register.context().get(&A), 106);
    assert_eq!(register.context().get(&B), 5);
    let row = encoded(&register, &A);
    assert_eq!(decoded(&mut row.as_slice(), &A).unwrap(), register);
}

#[test]
fn damaged_registers_are_refused() {
    let fine = [2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 9, 4, 0, 0, 0, 7];
    assert!(decoded(&mut fine.as_slice(), &A).is_ok());
    type Bend<'a> = &'a dyn Fn(&mut Vec<u8>);
    let bend = |change: Bend| {
        let mut bytes = fine.to_vec();
        change(&mut bytes);
        decoded(&mut bytes.as_slice(), &A).unwrap_err().kind()
    };
    let cases: [Bend; 9] = [
        &|b| b[0] = 4,    // two writes, one there
        &|b| b[0] = 3,    // a context that is not there
        &|b| b[1] = 5,    // a segment that was not spelled out
        &|b| b[2] = 0,    // sequence 0
        &|b| b[3] = 0x80, // a pending time
        &|b| b[11] = 5,   // a value longer than the row
        &|b| b[11] = 3,   // a value that its reader refuses
        &|b| {
            b.splice(2..3, [0x81, 0x00]);
        }, // a number not in its shortest form
        &|b| {
            b.splice(1..2, [3].into_iter().chain(A.0));
        }, // the own segment spelled out
    ];
    for (number, case) in cases.iter().enumerate() {
        assert_eq!(bend(case), ErrorKind::Damaged, "case {number}");
    }
    // The same dot twice, with different stamps.
    let mut twice = fine.to_vec();
    twice[0] = 4;
    twice.extend_from_slice(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 8, 4, 0, 0, 0, 7]);
    assert_eq!(decoded(&mut twice.as_slice(), &A).unwrap_err().kind(), ErrorKind::Damaged);
}
