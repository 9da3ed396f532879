//! P5 to P8 between segments, simulated: real engines and their sync machines in one thread, with lines that delay, break and lose, crashes, clocks that are
//! hours apart, links that come and go, from one seed.
//!
//! ```text
//! TOMBOLO_SEEDS=1000 cargo test -p tombolo-core --test sync_simulation         more schedules
//! TOMBOLO_SEED=17 [TOMBOLO_SEGMENTS=2] [TOMBOLO_STEPS=3,5] [TOMBOLO_HANDOVER=1] [TOMBOLO_DATA=1]
//!     cargo test -p tombolo-core --test sync_simulation replay -- --nocapture
//! ```
//!
//! With data, contents are too large for rows, some sites have names only, pin, persist, and give up what others hold, and sites leave, are forgotten, go on alone and
//! return (`data`, `away`). The lines that a run ends with say how often each of these really happened.
//!
//! A schedule that breaks a promise is made smaller and printed with the variables that run it again.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unreachable_pub, reason = "a test program")]

mod away;
mod between;
mod data;
mod forgetting;
mod link;
mod machine;
mod operation;
mod outcome;
mod random;
mod settled;
mod site;
mod waits;
mod world;

use outcome::{Outcome, Schedule};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use world::World;

const STEPS: u32 = 60;
const STEPS_WITH_DATA: u32 = 100;
/// Runs that go into making one failing schedule smaller.
const SHRINK_RUNS: usize = 150;

/// What a schedule is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Names, and contents that are part of them.
    Names,
    /// Everybody sees every change before the next one.
    Handover,
    /// Data that is here or is not, and sites that leave and return.
    Data,
}

struct Violation {
    what: String,
    trace: Vec<String>,
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn schedule_of(seed: u64, kind: Kind) -> Schedule {
    let sites = variable("TOMBOLO_SEGMENTS").and_then(|n| usize::try_from(n).ok());
    let sites = sites.unwrap_or(2 + usize::try_from(seed % 5).unwrap());
    let steps = if kind == Kind::Data { STEPS_WITH_DATA } else { STEPS };
    Schedule { seed, sites, steps: (0..steps).collect(), handover: kind == Kind::Handover, data: kind == Kind::Data }
}

fn run(schedule: &Schedule) -> Result<Outcome, Violation> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut world = runtime.block_on(World::new(schedule));
    // A segment that panics breaks a promise too (P13), and its schedule shrinks like any other.
    let what = match catch_unwind(AssertUnwindSafe(|| runtime.block_on(world.run(schedule)))) {
        Ok(Ok(())) => {
            if variable("TOMBOLO_TRACE").is_some() {
                println!("{}", world.trace.join("\n"));
            }
            return Ok(world.outcome);
        }
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
    let kind = match (small.handover, small.data) {
        (true, _) => " TOMBOLO_HANDOVER=1",
        (_, true) => " TOMBOLO_DATA=1",
        _ => "",
    };
    panic!(
        "{}\n\n{}\n\nTOMBOLO_SEED={} TOMBOLO_SEGMENTS={} TOMBOLO_STEPS={}{kind}",
        violation.trace.join("\n"),
        violation.what,
        small.seed,
        small.sites,
        steps.join(",")
    );
}

fn check_all(name: &str, count: u64, kind: Kind) -> Outcome {
    let first = variable("TOMBOLO_FIRST_SEED").unwrap_or(1);
    let next = AtomicU64::new(first);
    let all = Mutex::new(Outcome::default());
    // Whoever is done takes the next one.
    let take = || {
        while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < first + count) {
            match catch_unwind(|| check(&schedule_of(seed, kind))) {
                Ok(outcome) => all.lock().unwrap().add(outcome),
                Err(failure) => {
                    next.store(first + count, Ordering::Relaxed);
                    resume_unwind(failure);
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(take))));
    let all = all.into_inner().unwrap();
    println!("{name}: {count} schedules; in all {all:?}");
    assert!(count < 10 || all.dropped > 0, "nothing was dropped: the schedules test less than they say");
    all
}

fn seeds() -> u64 {
    variable("TOMBOLO_SEEDS").unwrap_or(1000)
}

#[test]
fn linked_segments_converge_and_nothing_is_lost() {
    let all = check_all("at random", seeds(), Kind::Names);
    assert!(seeds() < 20 || all.with_conflicts > 0, "the schedules had no conflicts: they test nothing");
}

#[test]
fn a_hand_over_is_never_a_conflict() {
    check_all("handed over", seeds().div_ceil(4), Kind::Handover);
}

/// P8, P10, P11: data that is pinned, persisted, given up and brought, and sites that are forgotten and return.
#[test]
fn data_is_where_it_is_said_to_be_and_who_returns_brings_what_it_alone_had() {
    // Fewer: they take three times as long.
    let count = variable("TOMBOLO_SEEDS").unwrap_or(600);
    let all = check_all("with data", count, Kind::Data);
    let happened = [all.pinned, all.persisted, all.unpinned, all.given_up, all.returned, all.compared, all.waits];
    assert!(count < 40 || happened.iter().all(|count| *count > 0), "the schedules test less than they say");
}

/// A schedule whose six segments each waited for another, as long as operations draw the same choices.
#[test]
fn segments_that_compare_do_not_wait_for_each_other() {
    check(&schedule_of(1009, Kind::Names));
}

/// One schedule, from the environment.
#[test]
fn replay() {
    let Some(seed) = variable("TOMBOLO_SEED") else { return };
    let kind = match (variable("TOMBOLO_HANDOVER"), variable("TOMBOLO_DATA")) {
        (Some(_), _) => Kind::Handover,
        (_, Some(_)) => Kind::Data,
        _ => Kind::Names,
    };
    let mut schedule = schedule_of(seed, kind);
    if let Ok(steps) = std::env::var("TOMBOLO_STEPS") {
        schedule.steps = steps.split(',').filter_map(|step| step.parse().ok()).collect();
    }
    match run(&schedule) {
        Ok(outcome) => println!("{outcome:?}"),
        Err(violation) => panic!("{}\n\n{}", violation.trace.join("\n"), violation.what),
    }
}
