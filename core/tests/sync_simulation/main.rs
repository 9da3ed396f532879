//! P5 to P8 between segments, simulated: real engines and their sync machines in one thread, with lines that delay, break and lose, crashes, clocks that are
//! hours apart, links that come and go, from one seed.
//!
//! ```text
//! TOMBOLO_SEEDS=1000 cargo test -p tombolo-core --test sync_simulation         more schedules
//! TOMBOLO_SEED=17 [TOMBOLO_SEGMENTS=2] [TOMBOLO_STEPS=3,5] [TOMBOLO_HANDOVER=1]
//!     cargo test -p tombolo-core --test sync_simulation replay -- --nocapture
//! ```
//!
//! A schedule that breaks a promise is made smaller and printed with the variables that run it again.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unreachable_pub, reason = "a test program")]

mod between;
mod forgetting;
mod link;
mod machine;
mod operation;
mod random;
mod site;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use world::{Outcome, Schedule, World};

const STEPS: u32 = 60;
/// Runs that go into making one failing schedule smaller.
const SHRINK_RUNS: usize = 150;

struct Violation {
    what: String,
    trace: Vec<String>,
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn schedule_of(seed: u64, handover: bool) -> Schedule {
    let sites = variable("TOMBOLO_SEGMENTS").and_then(|n| usize::try_from(n).ok());
    let sites = sites.unwrap_or(2 + usize::try_from(seed % 5).unwrap());
    Schedule { seed, sites, steps: (0..STEPS).collect(), handover }
}

fn run(schedule: &Schedule) -> Result<Outcome, Violation> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut world = runtime.block_on(World::new(schedule));
    // A segment that panics breaks a promise too (P13), and its schedule shrinks like any other.
    let what = match catch_unwind(AssertUnwindSafe(|| runtime.block_on(world.run(schedule)))) {
        Ok(Ok(())) => return Ok(world.outcome),
        Ok(Err(what)) => what,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("panic: {}", text.unwrap_or_default())
        }
    };
    Err(Violation { what, trace: world.trace })
}

/// A smaller schedule that breaks a promise too: fewer steps, as far as so many runs get.
fn shrink(schedule: &Schedule, violation: Violation) -> (Schedule, Violation) {
    let (mut best, mut violation) = (schedule.clone(), violation);
    let (mut chunk, mut runs) = (best.steps.len().div_ceil(2), 0);
    while chunk > 0 && runs < SHRINK_RUNS {
        let (mut from, before) = (0, best.steps.len());
        while from < best.steps.len() && runs < SHRINK_RUNS {
            let mut fewer = best.clone();
            fewer.steps.drain(from..(from + chunk).min(best.steps.len()));
            runs += 1;
            match run(&fewer) {
                Err(found) => (best, violation) = (fewer, found),
                Ok(_) => from += chunk,
            }
        }
        if chunk == 1 && best.steps.len() == before {
            break;
        }
        chunk = chunk.div_ceil(2);
    }
    (best, violation)
}

fn check(schedule: &Schedule) -> Outcome {
    let violation = match run(schedule) {
        Ok(outcome) => return outcome,
        Err(violation) => violation,
    };
    println!("seed {} fails: {}\nmaking it smaller", schedule.seed, violation.what);
    let (small, violation) = shrink(schedule, violation);
    let steps: Vec<String> = small.steps.iter().map(u32::to_string).collect();
    let handover = if small.handover { " TOMBOLO_HANDOVER=1" } else { "" };
    panic!(
        "{}\n\n{}\n\nTOMBOLO_SEED={} TOMBOLO_SEGMENTS={} TOMBOLO_STEPS={}{handover}",
        violation.trace.join("\n"),
        violation.what,
        small.seed,
        small.sites,
        steps.join(",")
    );
}

fn check_all(name: &str, count: u64, handover: bool) -> usize {
    let first = variable("TOMBOLO_FIRST_SEED").unwrap_or(1);
    let (mut all, mut with_conflicts) = (Outcome::default(), 0);
    for seed in first..first + count {
        let outcome = check(&schedule_of(seed, handover));
        with_conflicts += usize::from(outcome.conflicts > 0);
        all.operations += outcome.operations;
        all.deltas += outcome.deltas;
        all.crashes += outcome.crashes;
        all.conflicts += outcome.conflicts;
        all.dropped += outcome.dropped;
        all.comparisons += outcome.comparisons;
    }
    println!("{name}: {count} schedules, {with_conflicts} with conflicts at the end; in all {all:?}");
    assert!(count < 10 || all.dropped > 0, "nothing was dropped: the schedules test less than they say");
    with_conflicts
}

fn seeds() -> u64 {
    variable("TOMBOLO_SEEDS").unwrap_or(40)
}

#[test]
fn linked_segments_converge_and_nothing_is_lost() {
    let with_conflicts = check_all("at random", seeds(), false);
    assert!(seeds() < 20 || with_conflicts > 0, "the schedules had no conflicts: they test nothing");
}

#[test]
fn a_hand_over_is_never_a_conflict() {
    check_all("handed over", seeds().div_ceil(4), true);
}

/// A schedule whose six segments each waited for another, as long as operations draw the same choices.
#[test]
fn segments_that_compare_do_not_wait_for_each_other() {
    check(&schedule_of(1009, false));
}

/// One schedule, from the environment.
#[test]
fn replay() {
    let Some(seed) = variable("TOMBOLO_SEED") else { return };
    let mut schedule = schedule_of(seed, variable("TOMBOLO_HANDOVER").is_some());
    if let Ok(steps) = std::env::var("TOMBOLO_STEPS") {
        schedule.steps = steps.split(',').filter_map(|step| step.parse().ok()).collect();
    }
    match run(&schedule) {
        Ok(outcome) => println!("{outcome:?}"),
        Err(violation) => panic!("{}\n\n{}", violation.trace.join("\n"), violation.what),
    }
}
