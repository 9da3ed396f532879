//! Dropping what everybody has, giving sites up, and sites that come back and have to compare.

use crate::link::Link;
use crate::random::Random;
use crate::world::World;
use tombolo_core::sync::Event;

impl World {
    /// Somebody says who carries a bucket, drops what everybody has, or gives another one up.
    pub async fn forgetting(&mut self, random: &mut Random) -> Result<(), String> {
        let (at, bucket) = (random.below(self.sites.len()), random.below(self.buckets.len()));
        match random.below(10) {
            0..5 => self.tell(at, bucket).await,
            5..9 => self.drop_at(at, bucket).await?,
            _ => {
                let other = random.below(self.sites.len());
                if at != other {
                    self.forget(at, bucket, other).await?;
                }
            }
        }
        Ok(())
    }

    pub async fn tell(&mut self, at: usize, bucket: usize) {
        let carriers = self.sites[at].bucket(bucket).carriers().await.unwrap();
        self.sites[at].done.push(Event::Carriers { bucket: self.buckets[bucket].0, carriers });
    }

    pub async fn drop_at(&mut self, at: usize, bucket: usize) -> Result<(), String> {
        let dropped = self.sites[at].bucket(bucket).drop_acknowledged().await.unwrap();
        self.outcome.dropped += usize::try_from(dropped).unwrap_or_default();
        self.trace.push(format!("{at}/{bucket}: drops {dropped}"));
        self.check_shown(at, bucket, "dropping").await
    }

    /// When nothing more happens and all have told each other, nothing is left of what was deleted.
    pub async fn drop_all(&mut self) -> Result<(), String> {
        for _ in 0..2 {
            for at in 0..self.sites.len() {
                for bucket in 0..self.buckets.len() {
                    self.tell(at, bucket).await;
                }
            }
            self.settle().await?;
            for at in 0..self.sites.len() {
                for bucket in 0..self.buckets.len() {
                    self.drop_at(at, bucket).await?;
                }
            }
            self.settle().await?;
        }
        if Link::components(self.sites.len(), &self.links).len() == 1 {
            for at in 0..self.sites.len() {
                for bucket in 0..self.buckets.len() {
                    let left = self.sites[at].tombstones(bucket).await;
                    if !left.is_empty() {
                        let carriers = self.sites[at].bucket(bucket).carriers().await.unwrap();
                        return Err(format!("{at}/{bucket}: {left:?} is left, and {carriers:?} carry it"));
                    }
                }
            }
        }
        Ok(())
    }

    /// A site that has to compare says so at new connections to all its peers.
    pub async fn begin_anew(&mut self, at: usize) -> Result<(), String> {
        self.outcome.comparisons += 1;
        self.outcome.compared += usize::from(self.away.returned.remove(&at));
        for link in 0..self.links.len() {
            if self.links[link].end_of(at).is_some() && self.links[link].is_up == [true, true] {
                self.break_off(link, 0).await?;
                self.break_off(link, 1).await?;
                self.connect(link).await?;
            }
        }
        Ok(())
    }
}
