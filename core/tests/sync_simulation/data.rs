//! Data that is here or elsewhere: sites that are to have all of it, and others that have names, what they pin and persist, and give up what others promise to hold.
//!
//! A long content begins with its label, so a change of its first bytes makes another content, of which the rest is taken from the first.

use crate::link::Link;
use crate::operation::is_diary;
use crate::random::Random;
use crate::site::LABEL_BYTES;
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tombolo_core::{Conflict, Dot, ErrorKind, FileOptions, Gather, GetOptions, Keeping, Pin, Residence, Stay, Wanted};

/// Longer than what is part of a name.
const LONG_BYTES: usize = 9_000;
const PATHS: [&str; 7] = ["", "p/", "q/", "p/r", "x", "p/y.txt", "q/p/"];
const AT_ONCE: Gather = Gather { receipts: 1, delay_ms: 0, names: false };
/// More than there are.
const ALL: usize = 10_000;

#[derive(Default)]
pub struct Data {
    /// Whether there is any.
    pub is_on: bool,
    /// Sites that are to have all of it.
    full: BTreeSet<usize>,
    /// Contents by label.
    pub texts: BTreeMap<String, String>,
}

/// A content's name in this simulation.
pub fn label_of(content: &str) -> &str {
    content.split('\n').next().unwrap_or_default()
}

impl World {
    pub async fn begin_data(&mut self) {
        self.data.is_on = true;
        let mut random = Random::of_step(self.seed, u32::MAX - 2);
        for at in 0..self.sites.len() {
            if random.percent(50) {
                self.set_full(at, true).await;
            }
        }
    }

    /// A new content.
    pub fn content(&self, step: u32, random: &mut Random) -> String {
        if !self.data.is_on {
            return format!("c{step}");
        }
        let label = format!("c{step:04}");
        if random.percent(40) {
            return label;
        }
        let mut noise = Random::of_step(u64::from(step), 1);
        let mut content = label + "\n";
        while content.len() < LONG_BYTES {
            content += &format!("{:016x}", noise.next());
        }
        content
    }

    pub async fn data_step(&mut self, step: u32, random: &mut Random) -> Result<(), String> {
        let (mut at, bucket) = (random.below(self.sites.len()), random.below(self.buckets.len()));
        let what = random.below(20);
        // Where all data is to be here, pins and promises of others change nothing.
        let names: Vec<usize> = (0..self.sites.len()).filter(|at| !self.data.full.contains(at)).collect();
        if (4..12).contains(&what) {
            at = random.pick(&names).copied().unwrap_or(at);
        }
        match what {
            0..4 => self.bring(at).await?,
            4..6 => self.pin(at, bucket, random).await?,
            6 | 7 => self.unpin(at, bucket, random).await?,
            8 => {
                let path = self.some_path(at, bucket, random).await;
                match self.sites[at].bucket(bucket).persist(&path).await {
                    Ok(listed) => self.trace.push(format!("{at}/{bucket}: persists '{path}': {listed}")),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(format!("{at}/{bucket}: '{path}' can't be persisted: {error}")),
                }
                self.bring(at).await?;
            }
            9 => drop(self.collect(at).await?),
            10..12 => self.give_up(at, bucket, random).await?,
            12 => self.set_full(at, !self.data.full.contains(&at)).await,
            13..16 => self.write_part(step, at, bucket, random).await?,
            _ => self.leave_or_return(random).await?,
        }
        self.check_data(at).await
    }

    /// A path to be pinned or persisted: as a rule one of something that is not here.
    async fn some_path(&self, at: usize, bucket: usize, random: &mut Random) -> String {
        let whole = self.whole(at, bucket).await;
        let keys = self.sites[at].keys(bucket).await;
        let absent: Vec<&String> = keys.iter().filter(|key| !is_diary(key) && !whole.contains(*key)).collect();
        match random.pick(&absent) {
            Some(key) if random.percent(60) => (*key).clone(),
            _ => (*random.pick(&PATHS).unwrap_or(&"")).to_owned(),
        }
    }

    async fn pin(&mut self, at: usize, bucket: usize, random: &mut Random) -> Result<(), String> {
        let path = self.some_path(at, bucket, random).await;
        self.sites[at].bucket(bucket).pin(&path).await.unwrap();
        self.trace.push(format!("{at}/{bucket}: pins '{path}'"));
        self.bring(at).await
    }

    async fn set_full(&mut self, at: usize, is_full: bool) {
        self.trace.push(format!("{at}: {}", if is_full { "all data is to be here" } else { "names only" }));
        for bucket in 0..self.buckets.len() {
            let of = self.sites[at].bucket(bucket);
            if is_full {
                of.set_gather(None).await.unwrap();
            }
            of.keep_data(is_full).await.unwrap();
        }
        if is_full {
            self.data.full.insert(at)
        } else {
            self.data.full.remove(&at)
        };
    }

    /// How much of what shows is here, by key.
    async fn whole(&self, at: usize, bucket: usize) -> BTreeSet<String> {
        let mut whole = BTreeSet::new();
        for key in self.sites[at].keys(bucket).await {
            if self.sites[at].is_whole(bucket, &key).await {
                whole.insert(key);
            }
        }
        whole
    }

    async fn unpin(&mut self, at: usize, bucket: usize, random: &mut Random) -> Result<(), String> {
        if self.sites[at].bucket(bucket).pins().await.unwrap().is_empty() {
            self.pin(at, bucket, random).await?;
        }
        let pins = self.sites[at].bucket(bucket).pins().await.unwrap();
        let Some(pin) = random.pick(&pins) else { return Ok(()) };
        let path = String::from_utf8_lossy(&pin.path).into_owned();
        self.trace.push(format!("{at}/{bucket}: unpins '{path}'"));
        // What goes in any case.
        self.collect(at).await?;
        self.sites[at].bucket(bucket).unpin(&pin.path).await.unwrap();
        self.outcome.unpinned += self.collect(at).await?;
        Ok(())
    }

    /// A collection: how many objects' data it took.
    async fn collect(&mut self, at: usize) -> Result<usize, String> {
        let mut before = Vec::new();
        for bucket in 0..self.buckets.len() {
            before.push(self.whole(at, bucket).await);
        }
        let report = self.sites[at].bucket(0).segment().gc().await.map_err(|error| format!("{at}: {error}"))?;
        self.outcome.dropped += usize::try_from(report.rows_dropped).unwrap_or_default();
        let mut went = 0;
        for (bucket, before) in before.iter().enumerate() {
            went += before.difference(&self.whole(at, bucket).await).count();
            self.check_shown(at, bucket, "a collection").await?;
        }
        self.trace.push(format!("{at}: collects; {} rows and {went} objects' data go", report.rows_dropped));
        self.check_data(at).await?;
        Ok(went)
    }

    /// A site with names only gives up what another one promises to hold; one that has promised and is not to have all data any more asks for that back.
    async fn give_up(&mut self, at: usize, bucket: usize, random: &mut Random) -> Result<(), String> {
        let near = self.near(at);
        if self.data.full.contains(&at) {
            return Ok(());
        }
        let own = self.sites[at].id;
        for (segment, _) in self.sites[at].bucket(bucket).promises().await.unwrap() {
            let asker = self.at(&segment);
            if near.contains(&asker) && self.sites[asker].bucket(bucket).release(&own).await.unwrap() {
                self.trace.push(format!("{asker}/{bucket}: releases {at}"));
                self.sites[at].bucket(bucket).end_promise(&segment).await.unwrap();
            }
        }
        let holders: Vec<usize> = near.into_iter().filter(|near| self.data.full.contains(near)).collect();
        let Some(&holder) = random.pick(&holders) else { return Ok(()) };
        self.bring(holder).await?;
        let Some(promised) = self.sites[holder].bucket(bucket).promise(&own).await.unwrap() else { return Ok(()) };
        self.trace.push(format!("{holder}/{bucket}: promises {at} {promised:?}"));
        let edge = self.sites[at].bucket(bucket);
        edge.add_receipt(&self.sites[holder].id, &promised).await.unwrap();
        edge.set_gather(None).await.unwrap();
        self.collect(at).await?;
        self.sites[at].bucket(bucket).set_gather(Some(AT_ONCE)).await.unwrap();
        self.outcome.given_up += self.collect(at).await?;
        Ok(())
    }

    /// Changes the first bytes of a file, whether or not the rest of it is here.
    async fn write_part(&mut self, step: u32, at: usize, bucket: usize, random: &mut Random) -> Result<(), String> {
        let before = self.sites[at].shows(bucket).await;
        let long = |text: &String| self.data.texts.get(text).is_some_and(|text| text.len() >= LONG_BYTES);
        let keys: Vec<&String> = before.iter().filter(|(_, text)| long(text)).map(|(key, _)| key).collect();
        let Some(key) = random.pick(&keys).map(|key| (*key).clone()) else { return Ok(()) };
        let is_whole = self.sites[at].is_whole(bucket, &key).await;
        let label = format!("c{step:04}");
        let content = label.clone() + self.data.texts[&before[&key]].get(LABEL_BYTES as usize..).unwrap_or_default();
        let written = async {
            let file =
                self.sites[at].bucket(bucket).open_file(&key, FileOptions { truncate: false, ..FileOptions::create() });
            let file = file.await?;
            file.write_at(0, label.clone().into()).await?;
            file.fsync().await?;
            file.close().await
        };
        let what = match written.await {
            Ok(()) => {
                format!("write part of {key} = {label}, all of which is {}here", if is_whole { "" } else { "not " })
            }
            Err(error) => format!("write part of {key} = {label} refused: {error}"),
        };
        self.outcome.parts += usize::from(!is_whole && !what.contains("refused"));
        self.operated(at, bucket, &before, content, what, BTreeSet::from([key])).await?;
        self.sites[at].changed.insert(bucket);
        Ok(())
    }

    /// Sites that can be reached, nearest first.
    fn near(&self, at: usize) -> Vec<usize> {
        let (mut found, mut next) = (vec![at], VecDeque::from([at]));
        while let Some(here) = next.pop_front() {
            for link in self.links.iter().filter(|link| link.is_up == [true, true]) {
                if let Some(end) = link.end_of(here)
                    && !found.contains(&link.ends[1 - end])
                {
                    found.push(link.ends[1 - end]);
                    next.push_back(link.ends[1 - end]);
                }
            }
        }
        found.remove(0);
        found
    }

    /// Brings what is wanted here from whom it can be had.
    pub async fn bring(&mut self, at: usize) -> Result<(), String> {
        let near = self.near(at);
        for bucket in 0..self.buckets.len() {
            self.sites[at].bucket(bucket).list_pins().await.unwrap();
            let mut arrived = Vec::new();
            for wanted in self.sites[at].bucket(bucket).wanted(None, ALL).await.unwrap() {
                let Some(was_missing) = self.bring_version(at, &near, &wanted).await? else { continue };
                let count = match (wanted.stay, self.data.full.contains(&at)) {
                    (Stay::AsLongAsPinned, _) => &mut self.outcome.pinned,
                    (Stay::ForGood, false) => &mut self.outcome.persisted,
                    (Stay::ForGood, true) => &mut self.outcome.brought,
                };
                *count += usize::from(was_missing);
                arrived.push(wanted.key);
            }
            self.trace.push(format!("{at}/{bucket}: brings {}", arrived.len()));
            self.sites[at].bucket(bucket).data_arrived(&arrived).await.unwrap();
        }
        self.check_data(at).await
    }

    /// `None`: something of it is not to be had now. Whether something of it was missing.
    async fn bring_version(&self, at: usize, near: &[usize], wanted: &Wanted) -> Result<Option<bool>, String> {
        let segment = self.sites[at].bucket(0).segment();
        let residence = match wanted.stay {
            Stay::ForGood => Residence::Kept,
            Stay::AsLongAsPinned => Residence::Pinned,
        };
        let (import, mut was_missing) = (segment.chunk_import_as(residence), false);
        loop {
            let mut missing = segment.missing_nodes(&wanted.manifest, ALL).await.unwrap();
            if missing.is_empty() {
                missing = segment.missing_chunks(&wanted.manifest, ALL).await.unwrap();
            }
            if missing.is_empty() {
                break;
            }
            was_missing = true;
            for id in missing {
                let mut found = None;
                for other in near {
                    found = self.sites[*other].bucket(0).segment().export_chunk(&id).await.unwrap();
                    if found.is_some() {
                        break;
                    }
                }
                let Some(chunk) = found else { return Ok(None) };
                import.import(vec![chunk]).await.unwrap();
            }
        }
        match import.adopt(&wanted.manifest).await.unwrap() {
            None => Ok(Some(was_missing)),
            Some(id) => Err(format!("P8: {at}: {id} was brought and is not here")),
        }
    }

    // ---- checks

    /// Whether what shows under a key is listed as wanted: a file that has two names is, once, and so is one of its contents that lost.
    async fn is_wanted(&self, at: usize, bucket: usize, key: &str, wanted: &[Wanted]) -> bool {
        let of = self.sites[at].bucket(bucket);
        let info = of.head(key, GetOptions::default()).await.unwrap();
        let conflicts = of.conflicts(None, ALL).await.unwrap();
        let lost = |conflict: &Conflict| Dot { segment: conflict.segment, sequence: conflict.sequence };
        let is_loser = |dot: Dot| conflicts.iter().any(|conflict| lost(conflict) == dot);
        let shown = conflicts.iter().find(|conflict| conflict.key.as_deref() == Some(key.as_bytes())).map(lost);
        wanted.iter().any(|wanted| {
            let is_of_file = wanted.node == Some(info.node) && !is_loser(wanted.dot);
            wanted.path.as_deref() == Some(key.as_bytes()) || is_of_file || Some(wanted.dot) == shown
        })
    }

    /// P8: where nothing is said to be missing, nothing is: all of a site that is to have all, and what is pinned.
    pub async fn check_data(&self, at: usize) -> Result<(), String> {
        for bucket in (0..self.buckets.len()).filter(|_| self.data.is_on) {
            let of = self.sites[at].bucket(bucket);
            let pins = of.pins().await.unwrap();
            let is_full = of.keeping().await.unwrap() == Keeping::Listed;
            if pins.is_empty() && !is_full || !pins.iter().all(Pin::is_listed) {
                continue;
            }
            let wanted = of.wanted(None, ALL).await.unwrap();
            for key in self.sites[at].keys(bucket).await {
                let is_to_be_here = is_full || pins.iter().any(|pin| pin.covers(key.as_bytes()));
                if is_to_be_here
                    && !self.sites[at].is_whole(bucket, &key).await
                    && !self.is_wanted(at, bucket, &key, &wanted).await
                {
                    return Err(format!(
                        "P8: {at}/{bucket}: '{key}' is to be here, is not, and is not among {wanted:?}"
                    ));
                }
            }
            let (stands, data) = (of.vector().await.unwrap(), of.data_vector().await.unwrap());
            if is_full && wanted.is_empty() && !data.dominates(&stands) {
                return Err(format!("P8: {at}/{bucket}: nothing is wanted, and data is complete up to {data:?}"));
            }
        }
        Ok(())
    }

    /// All is delivered: every byte that shows is somewhere, and comes where it is to be.
    pub async fn check_data_settled(&mut self) -> Result<(), String> {
        if !self.data.is_on || Link::components(self.sites.len(), &self.links).len() > 1 {
            return Ok(());
        }
        // What this brings did not happen in the schedule.
        let outcome = self.outcome;
        for bucket in 0..self.buckets.len() {
            self.sites[0].bucket(bucket).pin("").await.unwrap();
        }
        // What is gone at one and pinned at another comes from a third.
        for at in (0..self.sites.len()).chain(0..self.sites.len()) {
            self.collect(at).await?;
            self.bring(at).await?;
        }
        self.outcome = outcome;
        for at in 0..self.sites.len() {
            for bucket in 0..self.buckets.len() {
                let wanted = self.sites[at].bucket(bucket).wanted(None, ALL).await.unwrap();
                for (key, label) in self.sites[at].shows(bucket).await {
                    let is_excused = self.away.without_bytes.contains(&(bucket, label.clone()));
                    let is_wanted = self.is_wanted(at, bucket, &key, &wanted).await;
                    if is_wanted && !is_excused {
                        return Err(format!("P11: {at}/{bucket}: '{key}' ({label}) is nowhere"));
                    }
                    if is_wanted || at > 0 && !self.data.full.contains(&at) {
                        continue;
                    }
                    let object = self.sites[at].bucket(bucket).get(&key, GetOptions::default()).await.unwrap();
                    let text = object.bytes(0..u64::MAX).await.map_err(|error| format!("P3: {key}: {error}"))?;
                    if let Some(expected) = self.data.texts.get(&label)
                        && text != expected.as_bytes()
                    {
                        return Err(format!("P3: {at}/{bucket}: '{key}' is not what was written as {label}"));
                    }
                }
                let unnamed = wanted.iter().filter(|wanted| wanted.path.is_none()).count();
                if unnamed > 0 && self.away.without_bytes.is_empty() {
                    return Err(format!("P11: {at}/{bucket}: {unnamed} older versions are nowhere"));
                }
            }
        }
        Ok(())
    }
}
