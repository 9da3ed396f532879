//! Sites, the links between them, and what happens: a schedule.
//!
//! A schedule is a seed, a number of sites and the steps of it that are taken. Each step draws its choices from (seed, step), whatever came before, so leaving
//! steps out is how a failing schedule shrinks. One thing happens at a time, and each is awaited to its end, so the seed decides what happens.

use crate::away::Away;
use crate::between::Taken;
use crate::data::{Data, label_of};
use crate::link::{BOTH, Link};
use crate::operation::{is_diary, operate};
use crate::outcome::{Outcome, Schedule};
use crate::random::Random;
use crate::site::{Known, Packed, Site, SkewedClock};
use crate::waits::Waits;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tombolo_core::register::{Dot, VersionVector};
use tombolo_core::sync::{Action, Event, Terms, WINDOW};
use tombolo_core::{BucketId, BucketPath, BucketPolicy, ConflictPolicy, DeltaLimit, PutOptions, SegmentId, Versioning};

const HOUR_NS: i64 = 3_600_000_000_000;
const SKEWS_NS: [i64; 8] = [0, 0, 1_000_000, -40_000_000, HOUR_NS, -HOUR_NS, 7 * HOUR_NS, -1_000 * HOUR_NS];
/// More than any schedule needs until nothing is left to be done.
const EVENTS_MAX: usize = 50_000;
const FAULT: &str = "the disk has a bad day";

pub struct World {
    pub seed: u64,
    pub sites: Vec<Site>,
    pub links: Vec<Link>,
    pub buckets: Vec<(BucketId, BucketPolicy)>,
    pub limit: DeltaLimit,
    /// Whether cutting and taking in fail now and then.
    faults: bool,
    now_ns: Arc<AtomicI64>,
    now_ms: u64,
    /// Contents by bucket, and who made them.
    pub made: BTreeMap<(usize, String), String>,
    /// Contents that an operation which saw them took away.
    pub gone: BTreeSet<(usize, String)>,
    /// Contents that are there more than once. Each of them may go where another is still seen, so none of them is missed.
    pub copied: BTreeSet<(usize, String)>,
    /// Contents that something was done about between their being made and taken away: a concurrent deletion may lose against that.
    pub touched: BTreeSet<(usize, String)>,
    /// What stood where a content was put.
    pub over: BTreeMap<(usize, String), String>,
    /// Of each content: who made it, and where that one stood then.
    pub made_at: BTreeMap<(usize, String), Dot>,
    /// Diary entries: bucket, site and number; and how far each diary was when it was written.
    diaries: BTreeMap<(usize, usize, u64), Vec<u64>>,
    /// Answers to the question where a peer stands: who asked, about which bucket, and the answer.
    pub stood: Vec<(usize, usize, VersionVector)>,
    pub waits: Waits,
    pub data: Data,
    pub away: Away,
    pub snapshots: Vec<Taken>,
    pub outcome: Outcome,
    pub trace: Vec<String>,
}

/// Something that can happen next.
enum Next {
    Deliver(usize, usize),
    Do(usize, usize),
    Tell(usize, usize),
    Notice(usize, usize),
}

impl World {
    pub async fn new(schedule: &Schedule) -> World {
        let mut random = Random::of_step(schedule.seed, u32::MAX);
        let policies = [
            (ConflictPolicy::KeepBoth, Versioning::Off),
            (ConflictPolicy::LastWriterWins, Versioning::Off),
            (ConflictPolicy::KeepBoth, Versioning::On),
            (ConflictPolicy::LastWriterWins, Versioning::On),
        ];
        let first = random.below(4);
        let buckets: Vec<(BucketPath, BucketPolicy)> = (0..1 + usize::from(random.percent(25)))
            .map(|at| {
                let (conflicts, versioning) = policies[(first + at) % 4];
                let policy = BucketPolicy { conflicts, versioning, ..BucketPolicy::default() };
                (format!("All/lab/b{at}").parse().unwrap(), policy)
            })
            .collect();
        let now_ns = Arc::new(AtomicI64::new(1_700_000_000_000_000_000));
        let known = Known::default();
        let mut sites = Vec::new();
        for at in 0..schedule.sites {
            let skew_ns = AtomicI64::new(*random.pick(&SKEWS_NS).unwrap_or(&0));
            let clock = SkewedClock { now_ns: now_ns.clone(), skew_ns };
            let seed = schedule.seed.wrapping_mul(64).wrapping_add(at as u64);
            sites.push(Site::new(format!("site{at}"), seed, clock, &buckets, known.clone()).await);
        }
        let mut ids = Vec::new();
        for (at, (_, policy)) in buckets.into_iter().enumerate() {
            ids.push((sites[0].bucket_id(at).await, policy));
        }
        let mut registers = *random.pick(&[usize::MAX, 1, 3, 3, 10]).unwrap_or(&3);
        if schedule.data && registers == 10 {
            registers = usize::MAX;
        }
        let mut world = World {
            seed: schedule.seed,
            sites,
            links: Vec::new(),
            buckets: ids,
            limit: DeltaLimit { registers, bytes: usize::MAX },
            faults: random.percent(30) && !schedule.handover,
            now_ns,
            now_ms: 0,
            made: BTreeMap::new(),
            gone: BTreeSet::new(),
            copied: BTreeSet::new(),
            touched: BTreeSet::new(),
            over: BTreeMap::new(),
            made_at: BTreeMap::new(),
            diaries: BTreeMap::new(),
            stood: Vec::new(),
            waits: Waits::default(),
            data: Data::default(),
            away: Away::default(),
            snapshots: Vec::new(),
            outcome: Outcome::default(),
            trace: Vec::new(),
        };
        world.links = Link::graph(schedule.sites, world.buckets.len(), &mut random);
        if random.percent(25) && !schedule.handover {
            for link in &mut world.links {
                link.terms = [Link::some_terms(&mut random), Link::some_terms(&mut random)];
            }
        }
        let shape: Vec<[usize; 2]> = world.links.iter().map(|link| link.ends).collect();
        world
            .trace
            .push(format!("{} sites, links {shape:?}, {:?}, faults {}", schedule.sites, world.limit, world.faults));
        if schedule.data {
            world.begin_data().await;
        }
        world
    }

    /// Runs all steps, mends all links, delivers everything and checks.
    pub async fn run(&mut self, schedule: &Schedule) -> Result<(), String> {
        for at in 0..self.links.len() {
            self.connect(at).await?;
        }
        for &step in &schedule.steps {
            let mut random = Random::of_step(schedule.seed, step);
            self.now_ns.fetch_add(random.below(3) as i64 * 500_000, Ordering::SeqCst);
            if schedule.handover {
                self.settle().await?;
                if random.percent(30) {
                    self.forgetting(&mut random).await?;
                }
                self.operation(step, &mut random).await?;
            } else if schedule.data && random.percent(35) {
                self.data_step(step, &mut random).await?;
            } else {
                self.step(step, &mut random).await?;
            }
            self.note_without_bytes().await;
        }
        self.return_all().await?;
        self.mend().await?;
        self.settle().await?;
        self.note_without_bytes().await;
        self.check_settled(schedule.handover).await?;
        self.drop_all().await?;
        self.check_snapshots().await?;
        self.check_settled(schedule.handover).await?;
        self.check_data_settled().await
    }

    async fn step(&mut self, step: u32, random: &mut Random) -> Result<(), String> {
        match random.below(100) {
            0..46 => self.operation(step, random).await,
            46..76 => {
                for _ in 0..random.below(12) {
                    if !self.happen(random).await? {
                        break;
                    }
                }
                Ok(())
            }
            76..82 => self.forgetting(random).await,
            82..90 => self.change_links(random).await,
            90..94 => {
                let at = random.below(self.sites.len());
                self.crash(at, random.percent(30)).await
            }
            94..96 => {
                let skew = *random.pick(&SKEWS_NS).unwrap_or(&0);
                self.sites[random.below(self.sites.len())].clock.skew_ns.store(skew, Ordering::SeqCst);
                Ok(())
            }
            96..98 => self.tick(1 + random.below(1000) as u64).await,
            98 => self.probe(random.below(self.links.len()), false).await,
            _ => self.between(step, random).await,
        }
    }

    // ---- changes

    async fn operation(&mut self, step: u32, random: &mut Random) -> Result<(), String> {
        let (at, bucket) = (random.below(self.sites.len()), random.below(self.buckets.len()));
        let before = self.sites[at].shows(bucket).await;
        let content = self.content(step, random);
        let (what, about) = if random.percent(12) {
            (self.write_diary(at, bucket, &before).await, BTreeSet::new())
        } else {
            let done = operate(&self.sites[at], bucket, random, &before, &content).await;
            let copied = done.copied.and_then(|key| before.get(&key));
            self.copied.extend(copied.map(|content| (bucket, content.clone())));
            (done.what, done.about)
        };
        self.operated(at, bucket, &before, content, what, about).await
    }

    /// An operation was done where `before` showed: what it made, and what it took away.
    pub async fn operated(
        &mut self,
        at: usize,
        bucket: usize,
        before: &BTreeMap<String, String>,
        content: String,
        what: String,
        about: BTreeSet<String>,
    ) -> Result<(), String> {
        self.trace.push(format!("{at}/{bucket}: {what}"));
        self.outcome.operations += 1;
        let after = self.sites[at].shows(bucket).await;
        self.check_shown(at, bucket, &what).await?;
        let label = label_of(&content).to_owned();
        if after.values().any(|shown| *shown == label) {
            self.made.insert((bucket, label.clone()), format!("{at}: {what}"));
            let text = if what.starts_with("symlink") { label.clone() } else { content };
            self.data.texts.insert(label.clone(), text);
        }
        let id = self.sites[at].id;
        let made_at = Dot::new(id, self.sites[at].look(bucket).await.get(&id));
        for shown in after.values() {
            self.made_at.entry((bucket, shown.clone())).or_insert(made_at);
        }
        let remaining: BTreeSet<&String> = after.values().collect();
        let at_about: BTreeSet<&String> = about.iter().filter_map(|key| before.get(key)).collect();
        let touched = at_about.iter().filter(|content| remaining.contains(*content));
        self.touched.extend(touched.map(|content| (bucket, (*content).clone())));
        for (key, old) in about.iter().filter_map(|key| before.get(key).map(|old| (key, old))) {
            if let Some(new) = after.get(key).filter(|new| *new != old) {
                self.over.insert((bucket, new.clone()), old.clone());
            }
        }
        if self.buckets[bucket].1.conflicts != ConflictPolicy::KeepBoth && !about.is_empty() {
            // One winner shows, and a change of its name decides: whoever lost there is not back when both are to be kept.
            let shown: BTreeSet<&String> = before.values().collect();
            let is_known = |known: &&(usize, String)| {
                known.0 == bucket
                    && self.made_at.get(*known).is_some_and(|dot| self.sites[at].vectors[bucket].covers(dot))
            };
            let lost: Vec<_> =
                self.made.keys().filter(is_known).filter(|known| !shown.contains(&known.1)).cloned().collect();
            self.copied.extend(lost);
        }
        for content in before.values().filter(|content| !remaining.contains(content) && !content.is_empty()) {
            if !at_about.contains(content) {
                return Err(format!(
                    "P4: '{what}' took away {content}, which it is not about: {before:?} became {after:?}"
                ));
            }
            self.gone.insert((bucket, content.clone()));
            let is_covered = |dot| self.sites[at].vectors[bucket].covers(dot);
            if !self.made_at.get(&(bucket, content.clone())).is_some_and(is_covered) {
                // It was here in part: a deletion does not cover a name that has not come.
                self.touched.insert((bucket, content.clone()));
            }
        }
        // A segment's changes have one numbering, whichever bucket they are in.
        for each in 0..self.buckets.len() {
            self.sites[at].look(each).await;
        }
        self.sites[at].changed.insert(bucket);
        Ok(())
    }

    /// Writes down how far all diaries are here.
    async fn write_diary(&mut self, at: usize, bucket: usize, shows: &BTreeMap<String, String>) -> String {
        let mut reached = vec![0; self.sites.len()];
        for (site, number) in shows.keys().filter_map(|key| diary_of(key)) {
            reached[site] = number.max(reached[site]);
        }
        let number = reached[at] + 1;
        let key = format!("d{at}-{number:04}");
        self.sites[at].bucket(bucket).put(&key, key.clone(), PutOptions::default()).await.unwrap();
        self.made.insert((bucket, key.clone()), format!("{at}: diary"));
        let what = format!("diary {key} after {reached:?}");
        self.diaries.insert((bucket, at, number), reached);
        what
    }

    async fn change_links(&mut self, random: &mut Random) -> Result<(), String> {
        let link = random.below(self.links.len());
        match random.below(10) {
            0..3 => self.break_off(link, random.below(2)).await,
            3..6 => {
                let broken: Vec<usize> = (0..self.links.len()).filter(|at| self.links[*at].is_down()).collect();
                match random.pick(&broken) {
                    Some(link) => self.connect(*link).await,
                    None => Ok(()),
                }
            }
            6 => {
                // The bucket leaves the link at one end, or comes back.
                let (end, bucket) = (random.below(2), random.below(self.buckets.len()));
                let shared = &mut self.links[link].shared[end];
                if shared.remove(&bucket) {
                    self.trace.push(format!("link {link}: end {end} takes bucket {bucket} off"));
                    let (at, peer) = self.ends(link, end);
                    self.handle(at, Event::Unshare { peer, bucket: self.buckets[bucket].0 }).await
                } else {
                    shared.insert(bucket);
                    self.share(link, end, bucket).await
                }
            }
            7 => {
                let end = random.below(2);
                self.links[link].terms[end] = Link::some_terms(random);
                self.trace.push(format!("link {link}: end {end} has {:?}", self.links[link].terms[end]));
                for bucket in self.links[link].shared[end].clone() {
                    self.share(link, end, bucket).await?;
                }
                Ok(())
            }
            8 => {
                let pair = [random.below(self.sites.len()), random.below(self.sites.len())];
                if pair[0] != pair[1] && !self.links.iter().any(|link| link.is_between(pair)) {
                    self.trace.push(format!("new link {pair:?}"));
                    self.links.push(Link::new(pair, self.buckets.len()));
                    return self.connect(self.links.len() - 1).await;
                }
                Ok(())
            }
            _ => {
                if self.links.len() < self.sites.len() {
                    return Ok(());
                }
                self.trace.push(format!("link {link} is removed"));
                for end in [0, 1] {
                    self.break_off(link, end).await?;
                    let (at, peer) = self.ends(link, end);
                    for bucket in self.links[link].shared[end].clone() {
                        self.handle(at, Event::Unshare { peer, bucket: self.buckets[bucket].0 }).await?;
                    }
                }
                self.links.remove(link);
                Ok(())
            }
        }
    }

    async fn crash(&mut self, at: usize, closes: bool) -> Result<(), String> {
        self.trace.push(format!("{at} {}", if closes { "restarts" } else { "crashes" }));
        self.outcome.crashes += 1;
        for link in &mut self.links {
            if let Some(end) = link.end_of(at) {
                link.drop_end(end);
            }
        }
        self.sites[at].restart(closes).await?;
        for bucket in 0..self.buckets.len() {
            self.check_shown(at, bucket, "a restart").await?;
        }
        Ok(())
    }

    // ---- links

    /// The site at an end of a link, and the other one's id.
    pub fn ends(&self, link: usize, end: usize) -> (usize, SegmentId) {
        let ends = self.links[link].ends;
        (ends[end], self.sites[ends[1 - end]].id)
    }

    pub async fn connect(&mut self, link: usize) -> Result<(), String> {
        if !self.links[link].is_down() || self.links[link].ends.iter().any(|end| self.away.sites.contains(end)) {
            return Ok(());
        }
        self.trace.push(format!("link {link} comes up"));
        self.links[link].is_up = [true, true];
        for end in [0, 1] {
            let (at, peer) = self.ends(link, end);
            self.handle(at, Event::Connected { peer }).await?;
            for bucket in self.links[link].shared[end].clone() {
                self.share(link, end, bucket).await?;
            }
        }
        Ok(())
    }

    async fn share(&mut self, link: usize, end: usize, bucket: usize) -> Result<(), String> {
        let (at, peer) = self.ends(link, end);
        let stance = self.sites[at].stance(bucket).await;
        // In a quarter of all schedules deltas wait at some sites.
        let terms = Terms { stages: self.seed % 4 == 3 && at % 2 == 0, ..self.links[link].terms[end] };
        self.handle(at, Event::Share { peer, bucket: self.buckets[bucket].0, terms, stance }).await
    }

    /// One end finds the connection gone. The other notices later.
    pub async fn break_off(&mut self, link: usize, end: usize) -> Result<(), String> {
        if !self.links[link].is_up[end] {
            return Ok(());
        }
        self.trace.push(format!("link {link} breaks at end {end}"));
        self.links[link].drop_end(end);
        let (at, peer) = self.ends(link, end);
        self.handle(at, Event::Disconnected { peer }).await
    }

    /// All links there are carry everything both ways.
    async fn mend(&mut self) -> Result<(), String> {
        self.trace.push("all is mended".into());
        self.faults = false;
        for link in 0..self.links.len() {
            for end in [0, 1] {
                if !self.links[link].is_up[1 - end] {
                    self.break_off(link, end).await?;
                }
            }
            let all: BTreeSet<usize> = (0..self.buckets.len()).collect();
            let is_changed =
                self.links[link].terms != [BOTH, BOTH] || self.links[link].shared.iter().any(|shared| *shared != all);
            self.links[link].terms = [BOTH, BOTH];
            self.links[link].shared = [all.clone(), all.clone()];
            if self.links[link].is_down() {
                self.connect(link).await?;
            } else if is_changed {
                for (end, bucket) in [0, 1].into_iter().flat_map(|end| all.iter().map(move |bucket| (end, *bucket))) {
                    self.share(link, end, bucket).await?;
                }
            }
        }
        Ok(())
    }

    /// Each end of a link asks where the other stands.
    pub async fn probe(&mut self, link: usize, leads: bool) -> Result<(), String> {
        for end in [0, 1] {
            let (at, peer) = self.ends(link, end);
            for (bucket, _) in self.buckets.clone() {
                self.waits.asked += 1;
                self.handle(at, Event::Probe { peer, bucket, nonce: self.waits.asked, leads }).await?;
            }
        }
        Ok(())
    }

    // ---- what the machines want

    pub async fn tick(&mut self, ms: u64) -> Result<(), String> {
        self.now_ms += ms;
        for at in 0..self.sites.len() {
            self.handle(at, Event::Tick { now_ms: self.now_ms }).await?;
        }
        Ok(())
    }

    pub async fn handle(&mut self, at: usize, event: Event<Packed>) -> Result<(), String> {
        let mut actions = Vec::new();
        self.sites[at].machine.handle(event, &mut actions);
        for action in actions {
            match action {
                Action::Send { peer, message } => {
                    let to = self.at(&peer);
                    let link = self.links.iter_mut().find(|link| link.is_between([at, to]));
                    if let Some((link, end)) = link.and_then(|link| link.end_of(to).map(|end| (link, end))) {
                        link.send(end, message);
                    }
                }
                Action::Close { reason, .. } => return Err(format!("{at} closes a connection: {reason}")),
                Action::Stands { peer, bucket, vector, nonce } => {
                    let which = self.bucket_at(&bucket);
                    let real = &self.sites[self.at(&peer)].vectors[which];
                    if !real.dominates(&vector) {
                        return Err(format!("P8: {at} heard that a peer stands at {vector:?}, and it is at {real:?}"));
                    }
                    self.answered(at, which, nonce, &vector).await?;
                    self.stood.push((at, which, vector));
                }
                other => self.sites[at].asked.push(other),
            }
        }
        self.check_status(at)
    }

    pub fn at(&self, id: &SegmentId) -> usize {
        self.sites.iter().position(|site| site.id == *id).unwrap()
    }

    pub fn bucket_at(&self, id: &BucketId) -> usize {
        self.buckets.iter().position(|(bucket, _)| bucket == id).unwrap()
    }

    /// Lets one of the things happen that can. `false`: there is none.
    pub async fn happen(&mut self, random: &mut Random) -> Result<bool, String> {
        let mut nexts = Vec::new();
        for (at, link) in self.links.iter().enumerate() {
            for end in [0, 1] {
                if !link.lines[end].is_empty() {
                    nexts.push(Next::Deliver(at, end));
                }
                if link.is_up[end] && !link.is_up[1 - end] {
                    nexts.push(Next::Notice(at, end));
                }
            }
        }
        for (at, site) in self.sites.iter().enumerate() {
            nexts.extend((0..site.asked.len()).map(|which| Next::Do(at, which)));
            nexts.extend((0..site.done.len() + site.changed.len()).map(|which| Next::Tell(at, which)));
        }
        match random.pick(&nexts) {
            None => return Ok(false),
            Some(Next::Deliver(link, end)) => {
                let (at, peer) = self.ends(*link, *end);
                if let Some(message) = self.links[*link].lines[*end].pop_front() {
                    self.handle(at, Event::Received { peer, message }).await?;
                }
            }
            Some(Next::Notice(link, end)) => self.break_off(*link, *end).await?,
            Some(Next::Do(at, which)) => {
                let action = self.sites[*at].asked.remove(*which);
                let fails = self.faults && random.percent(4);
                self.carry_out(*at, action, fails).await?;
            }
            Some(Next::Tell(at, which)) => {
                let site = &mut self.sites[*at];
                let event = if *which < site.done.len() {
                    site.done.remove(*which)
                } else {
                    match site.changed.pop_first() {
                        Some(bucket) => Event::Committed { bucket: self.buckets[bucket].0 },
                        None => return Ok(true),
                    }
                };
                self.handle(*at, event).await?;
            }
        }
        Ok(true)
    }

    async fn carry_out(&mut self, at: usize, action: Action<Packed>, fails: bool) -> Result<(), String> {
        let event = match action {
            Action::Cut { peer, bucket, from } => {
                let which = self.bucket_at(&bucket);
                let outcome =
                    if fails { Err(FAULT.into()) } else { self.sites[at].cut(which, &peer, from, self.limit).await };
                Event::Cut { peer, bucket, outcome }
            }
            Action::Stage { peer, bucket, number, payload } => Event::Staged { peer, bucket, number, payload },
            Action::Apply { peer, bucket, payload } => {
                let which = self.bucket_at(&bucket);
                let (outcome, falls_back) =
                    if fails { (Err(FAULT.into()), false) } else { self.sites[at].apply(which, payload, peer).await };
                let from = self.at(&peer);
                self.trace.push(match &outcome {
                    Ok(stance) => format!("{at}/{which}: takes in from {from}: {stance:?}"),
                    Err(error) => format!("{at}/{which}: does not take in from {from}: {error}"),
                });
                self.outcome.deltas += 1;
                self.check_shown(at, which, "a delta").await?;
                self.check_diaries(at, which).await?;
                self.check_waits(at, which).await?;
                if falls_back {
                    self.begin_anew(at).await?;
                }
                Event::Applied { peer, bucket, outcome }
            }
            Action::Read { peer, bucket, nonce } => {
                self.note_asked(at, self.bucket_at(&bucket), nonce).await;
                Event::Read { peer, bucket, nonce, stance: self.sites[at].stance(self.bucket_at(&bucket)).await }
            }
            Action::Learn { bucket, carriers, .. } => {
                let which = self.bucket_at(&bucket);
                if self.sites[at].bucket(which).learn_carriers(&carriers).await.unwrap() {
                    self.tell(at, which).await;
                }
                return Ok(());
            }
            Action::Send { .. } | Action::Close { .. } | Action::Stands { .. } | Action::Compares { .. } => {
                return Ok(());
            }
        };
        self.sites[at].done.push(event);
        Ok(())
    }

    /// Lets everything happen until nothing is left to be done and nobody waits for a time.
    pub async fn settle(&mut self) -> Result<(), String> {
        let mut random = Random::of_step(self.seed, u32::MAX - 1);
        for _ in 0..EVENTS_MAX {
            if self.happen(&mut random).await? {
                continue;
            }
            match self.sites.iter().filter_map(|site| site.machine.wakes_at_ms()).min() {
                Some(at_ms) => self.tick(at_ms.saturating_sub(self.now_ms).max(1)).await?,
                None => return Ok(()),
            }
        }
        Err("it does not come to rest".into())
    }

    // ---- checks

    /// P8: status claims no more than is true; P12: what waits is bounded.
    fn check_status(&self, at: usize) -> Result<(), String> {
        for (bucket, peer, status) in self.sites[at].machine.status() {
            let real = &self.sites[self.at(peer)].vectors[self.bucket_at(bucket)];
            // Of a connection that is gone it is what the peer has said: one that leaves those it compares with falls back.
            if status.is_open && !real.dominates(&status.peer_vector) {
                return Err(format!(
                    "P8: {at} says that {} is at {:?}, and it is at {real:?}",
                    self.at(peer),
                    status.peer_vector
                ));
            }
            if status.in_flight > WINDOW || status.waiting > WINDOW {
                return Err(format!("P12: {at} has {status:?}"));
            }
        }
        Ok(())
    }

    /// What was derived change by change is what is derived at once.
    pub async fn check_shown(&self, at: usize, bucket: usize, after: &str) -> Result<(), String> {
        let differences = self.sites[at].bucket(bucket).verify_shown().await.map_err(|error| error.to_string())?;
        if differences.is_empty() {
            return Ok(());
        }
        Err(format!("{at}/{bucket}: after {after} rows differ from registers:\n{}", differences.join("\n")))
    }

    /// P7: no diary entry shows without the ones that its writer had seen. Deltas in steps may break that while a segment catches up.
    async fn check_diaries(&self, at: usize, bucket: usize) -> Result<(), String> {
        if self.limit != DeltaLimit::NONE {
            return Ok(());
        }
        let shown: BTreeSet<(usize, u64)> =
            self.sites[at].keys(bucket).await.iter().filter_map(|key| diary_of(key)).collect();
        for (site, number) in &shown {
            let seen = self.diaries.get(&(bucket, *site, *number)).into_iter().flatten().enumerate();
            for (other, reached) in seen.filter(|(_, reached)| **reached > 0) {
                if !shown.contains(&(other, *reached)) {
                    return Err(format!(
                        "P7: {at} shows entry {number} of {site}, and not entry {reached} of {other}, which that had seen"
                    ));
                }
            }
        }
        Ok(())
    }
}

pub fn diary_of(key: &str) -> Option<(usize, u64)> {
    let (site, number) = key.strip_prefix('d').filter(|_| is_diary(key))?.split_once('-')?;
    Some((site.parse().ok()?, number.parse().ok()?))
}
