//! Sites that leave, are declared gone, go on alone, and return.
//!
//! What a returning one alone had is to be everywhere afterwards, and what was deleted is not to come back. One thing may be lost (note 0006): while a site counts as gone nobody
//! waits for it before dropping the bytes of what was replaced or deleted. So of a content that only such a site still shows, and whose bytes it does not hold itself, the
//! name comes back, and the bytes may be nowhere. `without_bytes` are just those; a content that the site holds, or that any other site shows, is not excused.

use crate::random::Random;
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};

/// Events, and waits of a second, in which those who stay exchange what they have.
const EVENTS: usize = 300;
const WAITS: usize = 3;

#[derive(Default)]
pub struct Away {
    /// Sites that no link reaches now.
    pub sites: BTreeSet<usize>,
    /// Those that came back, had been declared gone, and were not told so yet.
    pub returned: BTreeSet<usize>,
    /// Sites that were declared gone, by bucket, and do not count everywhere yet.
    forgotten: BTreeSet<(usize, usize)>,
    /// Contents that only a site shows that counts as gone, and whose bytes it does not hold.
    pub without_bytes: BTreeSet<(usize, String)>,
}

impl World {
    pub async fn leave_or_return(&mut self, random: &mut Random) -> Result<(), String> {
        let away: Vec<usize> = self.away.sites.iter().copied().collect();
        match random.pick(&away) {
            Some(&at) if random.percent(60) => self.come_back(at).await,
            _ => self.leave(random).await,
        }
    }

    async fn leave(&mut self, random: &mut Random) -> Result<(), String> {
        let at = random.below(self.sites.len());
        if self.away.sites.contains(&at) || self.away.sites.len() + 1 >= self.sites.len() {
            return Ok(());
        }
        self.trace.push(format!("{at} leaves"));
        for link in 0..self.links.len() {
            if self.links[link].end_of(at).is_some() {
                self.break_off(link, 0).await?;
                self.break_off(link, 1).await?;
            }
        }
        self.away.sites.insert(at);
        if random.percent(75) {
            let others: Vec<usize> = (0..self.sites.len()).filter(|other| !self.away.sites.contains(other)).collect();
            let by = *random.pick(&others).unwrap_or(&0);
            for bucket in 0..self.buckets.len() {
                self.forget(by, bucket, at).await?;
            }
        }
        Ok(())
    }

    /// An operator at `at` says that `other` is gone.
    pub async fn forget(&mut self, at: usize, bucket: usize, other: usize) -> Result<(), String> {
        let id = self.sites[other].id;
        // One that never carried the bucket, as far as is known here, can't be gone.
        if self.sites[at].bucket(bucket).forget_carrier(&id).await.unwrap_or(false) {
            self.trace.push(format!("{at}/{bucket}: forgets {other}"));
            self.away.forgotten.insert((other, bucket));
            self.note_without_bytes().await;
        }
        Ok(())
    }

    /// Those who stayed drop what they all have; then it is back.
    async fn come_back(&mut self, at: usize) -> Result<(), String> {
        self.go_on().await?;
        for _ in 0..2 {
            for other in (0..self.sites.len()).filter(|other| !self.away.sites.contains(other)).collect::<Vec<_>>() {
                for bucket in 0..self.buckets.len() {
                    self.tell(other, bucket).await;
                    self.drop_at(other, bucket).await?;
                }
            }
            self.go_on().await?;
        }
        self.note_without_bytes().await;
        self.trace.push(format!("{at} returns"));
        self.outcome.returned += 1;
        self.away.sites.remove(&at);
        if self.away.forgotten.iter().any(|(site, _)| *site == at) {
            self.away.returned.insert(at);
        }
        for link in 0..self.links.len() {
            if self.links[link].end_of(at).is_some() {
                self.connect(link).await?;
            }
        }
        Ok(())
    }

    /// Lets things happen for a while. Links that lack one direction, or one bucket at one end, never come to rest.
    async fn go_on(&mut self) -> Result<(), String> {
        let mut random = Random::of_step(self.seed, u32::MAX - 3);
        let mut waits = 0;
        for _ in 0..EVENTS {
            if self.happen(&mut random).await? {
                continue;
            }
            waits += 1;
            if waits > WAITS {
                break;
            }
            self.tick(1000).await?;
        }
        Ok(())
    }

    pub async fn return_all(&mut self) -> Result<(), String> {
        while let Some(at) = self.away.sites.first().copied() {
            self.come_back(at).await?;
        }
        Ok(())
    }

    /// Whether a site is declared gone anywhere, itself included.
    async fn counts_as_gone(&self, site: usize, bucket: usize) -> bool {
        for at in 0..self.sites.len() {
            let carriers = self.sites[at].bucket(bucket).carriers().await.unwrap();
            if carriers.get(&self.sites[site].id).is_some_and(|carrier| carrier.is_forgotten()) {
                return true;
            }
        }
        false
    }

    /// Notes what only those show that count as gone, and do not hold.
    pub async fn note_without_bytes(&mut self) {
        if !self.data.is_on {
            return;
        }
        for (site, bucket) in self.away.forgotten.clone() {
            let mut elsewhere = BTreeSet::new();
            for at in (0..self.sites.len()).filter(|at| !self.away.forgotten.contains(&(*at, bucket))) {
                elsewhere.extend(self.sites[at].shows(bucket).await.into_values());
            }
            for (key, label) in self.sites[site].shows(bucket).await {
                if !elsewhere.contains(&label)
                    && !self.sites[site].is_whole(bucket, &key).await
                    && self.away.without_bytes.insert((bucket, label.clone()))
                {
                    self.trace.push(format!("{site}/{bucket}: alone shows {label}, and does not hold it"));
                    self.outcome.without_bytes += 1;
                }
            }
            if !self.counts_as_gone(site, bucket).await {
                self.away.forgotten.remove(&(site, bucket));
            }
        }
    }

    /// Whether somebody did something about a content, or, not knowing of it, about one that it was put over: who renames a file keeps it with all that was made of it.
    fn is_touched(&self, known: (usize, String)) -> bool {
        let mut next = Some(known);
        while let Some(known) = next {
            if self.touched.contains(&known) {
                return true;
            }
            next = self.over.get(&known).map(|old| (known.0, old.clone()));
        }
        false
    }

    /// What somebody deleted who saw it, and nobody did anything else about, is not back. What one part of the sites deleted another one may never have heard of.
    pub fn check_not_back(
        &self,
        bucket: usize,
        shows: &BTreeMap<String, String>,
        components: usize,
    ) -> Result<(), String> {
        let back = shows.iter().find(|(_, label)| {
            let known = (bucket, (*label).clone());
            self.gone.contains(&known) && !self.copied.contains(&known) && !self.is_touched(known)
        });
        match back {
            Some((key, label)) if components == 1 => {
                Err(format!("P6: {label} was taken away, and is back at '{key}': {shows:?}"))
            }
            _ => Ok(()),
        }
    }
}
