//! The merge rules (design, section 4) under random schedules: P5, segments converge, and P6, concurrent work is never lost silently.
//!
//! ```text
//! TOMBOLO_SEEDS=10000 cargo test -p tombolo-core --test merge_rules           more schedules (default 1000)
//! TOMBOLO_SEED=17 [TOMBOLO_SEGMENTS=2] [TOMBOLO_STEPS=3,5] [TOMBOLO_POLICY=keep-both|last-writer-wins|origin-wins]
//!     [TOMBOLO_HANDOVER=1] cargo test -p tombolo-core --test merge_rules replay -- --nocapture
//! ```
//!
//! A schedule that breaks a promise is made as small as it gets and printed with the variables that run it again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test program"
)]

mod broken;
mod examples;
mod model;
mod operation;
mod schedule;

use broken::Broken;
use model::MemorySegment;
use schedule::Schedule;
use std::sync::atomic::{AtomicU64, Ordering};
use tombolo_core::{ConflictPolicy, SegmentId};

const STEPS: u32 = 70;
const POLICIES: [ConflictPolicy; 3] =
    [ConflictPolicy::KeepBoth, ConflictPolicy::LastWriterWins, ConflictPolicy::OriginWins];

fn seeds() -> u64 {
    std::env::var("TOMBOLO_SEEDS").map_or(1000, |text| text.parse().expect("TOMBOLO_SEEDS is a count"))
}

fn segment(policy: ConflictPolicy, broken: Broken) -> impl Fn(usize) -> MemorySegment + Sync {
    move |number| {
        let id = |number: usize| SegmentId([0xa0 + number as u8; 16]);
        // Some tidy up after themselves and some don't: both must do.
        MemorySegment::new(id(number), policy, id(0), number % 2 == 0, broken)
    }
}

fn policy_of(seed: u64) -> ConflictPolicy {
    // Keep-both has the most to show.
    POLICIES[if seed.is_multiple_of(2) { 0 } else { 1 + (seed / 2 % 2) as usize }]
}

/// What many schedules came to.
struct Totals {
    /// The lowest seed that broke a promise.
    failed: Option<u64>,
    /// Schedules that left conflicts.
    real: u64,
    /// Operations that changed something.
    applied: u64,
    /// Contents that were made.
    contents: u64,
}

/// Runs seeds 0 to `count` on all cores, or until one fails.
fn run_all(count: u64, handover: bool, broken: Broken) -> Totals {
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let (real, applied, contents) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count || failed.load(Ordering::Relaxed) < seed {
                        return;
                    }
                    match Schedule::new(seed, STEPS, handover).run(&segment(policy_of(seed), broken)) {
                        Ok(outcome) => {
                            real.fetch_add(u64::from(!outcome.conflicts.is_empty()), Ordering::Relaxed);
                            applied.fetch_add(outcome.applied.into(), Ordering::Relaxed);
                            contents.fetch_add(outcome.contents.into(), Ordering::Relaxed);
                        }
                        Err(_) => {
                            failed.fetch_min(seed, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    Totals {
        failed: Some(failed).filter(|seed| *seed != u64::MAX),
        real: real.into_inner(),
        applied: applied.into_inner(),
        contents: contents.into_inner(),
    }
}

fn explain(schedule: &Schedule, policy: ConflictPolicy, broken: Broken) -> String {
    let (small, violation) = schedule.shrink(&segment(policy, broken));
    let name = POLICIES.iter().zip(["keep-both", "last-writer-wins", "origin-wins"]).find(|(p, _)| **p == policy);
    let name = name.map_or("", |(_, name)| name);
    format!("{small} TOMBOLO_POLICY={name}\n  {}\n{}", violation.trace.join("\n  "), violation.what)
}

fn must_hold(handover: bool) {
    let count = seeds();
    let Totals { failed, real, applied, contents } = run_all(count, handover, Broken::Nothing);
    if let Some(seed) = failed {
        panic!("{}", explain(&Schedule::new(seed, STEPS, handover), policy_of(seed), Broken::Nothing));
    }
    println!(
        "{count} schedules, {applied} operations, {contents} contents, {real} schedules with conflicts, no violation"
    );
    if handover {
        assert_eq!(real, 0);
    } else {
        assert!(real * 2 > count, "schedules are too tame: only {real} of {count} had conflicts");
    }
}

#[test]
fn segments_converge_and_nothing_is_lost() {
    must_hold(false);
}

#[test]
fn handing_over_is_never_a_conflict() {
    must_hold(true);
}

/// Every rule is needed: with one left out, some schedule breaks a promise.
#[test]
fn a_rule_left_out_is_noticed() {
    for broken in [
        Broken::Context,
        Broken::ValuesFirst,
        Broken::OnlyShown,
        Broken::Observe,
        Broken::SameNode,
        Broken::Cycle,
        Broken::Revive,
        Broken::Rescue,
        Broken::LastName,
        Broken::WholeName,
        Broken::KeepDeleted,
        Broken::Delta,
    ] {
        let failed = run_all(2000, false, broken).failed;
        let seed = failed.unwrap_or_else(|| panic!("nobody noticed that the rule {broken:?} was left out"));
        let violation = Schedule::new(seed, STEPS, false).run(&segment(policy_of(seed), broken)).unwrap_err();
        println!("without {broken:?}: seed {seed}: {}", violation.what.lines().next().unwrap_or_default());
    }
}

/// A failing schedule gets smaller, still fails, and fails the same way each time.
#[test]
fn failing_schedules_shrink_and_replay() {
    let broken = Broken::Rescue;
    let seed = run_all(2000, false, broken).failed.expect("the rule is needed");
    let make = segment(policy_of(seed), broken);
    let (small, violation) = Schedule::new(seed, STEPS, false).shrink(&make);
    assert!(small.steps.len() <= 12, "{small}");
    let again = small.run(&make).unwrap_err();
    assert_eq!((again.what, again.trace), (violation.what, violation.trace));
    for at in 0..small.steps.len() {
        let mut fewer = small.clone();
        fewer.steps.remove(at);
        assert!(fewer.run(&make).is_ok(), "step {at} of {small} is not needed");
    }
}

/// Runs one schedule, given by environment variables; without them, seed 0.
#[test]
fn replay() {
    let variable = |name: &str| std::env::var(name).ok();
    let seed = variable("TOMBOLO_SEED").map_or(0, |text| text.parse().expect("TOMBOLO_SEED is a number"));
    let mut schedule = Schedule::new(seed, STEPS, variable("TOMBOLO_HANDOVER").is_some());
    if let Some(text) = variable("TOMBOLO_SEGMENTS") {
        schedule.segments = text.parse().expect("TOMBOLO_SEGMENTS is a count");
    }
    if let Some(text) = variable("TOMBOLO_STEPS") {
        schedule.steps = text.split(',').map(|step| step.parse().expect("a step is a number")).collect();
    }
    let policy = match variable("TOMBOLO_POLICY").as_deref() {
        None => policy_of(seed),
        Some("keep-both") => ConflictPolicy::KeepBoth,
        Some("last-writer-wins") => ConflictPolicy::LastWriterWins,
        Some("origin-wins") => ConflictPolicy::OriginWins,
        Some(other) => panic!("no such policy: {other}"),
    };
    match schedule.run(&segment(policy, Broken::Nothing)) {
        Ok(outcome) => println!("{schedule} holds: {outcome:?}"),
        Err(_) => panic!("{}", explain(&schedule, policy, Broken::Nothing)),
    }
}
