//! What happens to a bucket beside changes of what is in it: snapshots, which hold still whatever comes, and policies, by which conflicts show.

use crate::random::Random;
use crate::world::World;
use std::collections::BTreeMap;
use tombolo_core::{BucketPolicy, ConflictPolicy, GetOptions, ListItem, ListOptions};

/// A snapshot of a bucket of a site, and what showed when it was taken.
pub struct Taken {
    at: usize,
    bucket: usize,
    name: String,
    showed: BTreeMap<String, String>,
}

impl World {
    /// Somebody takes a snapshot, or gives one up; or the policy changes, everywhere.
    pub async fn between(&mut self, step: u32, random: &mut Random) -> Result<(), String> {
        let (at, bucket) = (random.below(self.sites.len()), random.below(self.buckets.len()));
        match random.below(4) {
            0 | 1 => {
                let name = format!("s{step}");
                self.sites[at].bucket(bucket).create_snapshot(&name).await.unwrap();
                let showed = self.sites[at].shows(bucket).await;
                self.trace.push(format!("{at}/{bucket}: snapshot {name}"));
                self.snapshots.push(Taken { at, bucket, name, showed });
            }
            2 if !self.snapshots.is_empty() => {
                let taken = self.snapshots.remove(random.below(self.snapshots.len()));
                self.trace.push(format!("{}/{}: gives snapshot {} up", taken.at, taken.bucket, taken.name));
                self.sites[taken.at].bucket(taken.bucket).delete_snapshot(&taken.name).await.unwrap();
            }
            _ => self.change_policy(bucket).await?,
        }
        self.look_at_all().await;
        Ok(())
    }

    async fn change_policy(&mut self, bucket: usize) -> Result<(), String> {
        let now = &self.buckets[bucket].1;
        let conflicts = match now.conflicts {
            ConflictPolicy::KeepBoth => ConflictPolicy::LastWriterWins,
            _ => ConflictPolicy::KeepBoth,
        };
        let policy = BucketPolicy { conflicts, ..now.clone() };
        self.trace.push(format!("bucket {bucket}: {conflicts:?}"));
        self.buckets[bucket].1 = policy.clone();
        for at in 0..self.sites.len() {
            let of = self.sites[at].bucket(bucket);
            of.segment().catalog().set_policy(of.path(), policy.clone()).await.unwrap();
            self.check_shown(at, bucket, "a change of the policy").await?;
        }
        Ok(())
    }

    /// Policies and snapshots are changes of the catalog, which has the numbers of a segment's changes too.
    async fn look_at_all(&mut self) {
        for at in 0..self.sites.len() {
            for bucket in 0..self.buckets.len() {
                self.sites[at].look(bucket).await;
            }
        }
    }

    /// P2: each snapshot shows what showed when it was taken.
    pub async fn check_snapshots(&self) -> Result<(), String> {
        for taken in &self.snapshots {
            let bucket = self.sites[taken.at].bucket(taken.bucket);
            let snapshot = Some(taken.name.clone());
            let options = ListOptions { limit: 10_000, snapshot: snapshot.clone(), ..ListOptions::default() };
            let mut shows = BTreeMap::new();
            for item in bucket.list(options).await.unwrap().items {
                let ListItem::Object(object) = item else { continue };
                let options = GetOptions { snapshot: snapshot.clone(), version: None };
                let content = bucket.get(&object.key, options).await.map_err(|error| error.to_string())?;
                let key = String::from_utf8_lossy(&object.key).into_owned();
                shows.insert(key, self.sites[taken.at].label(&content).await);
            }
            if shows != taken.showed {
                let (at, name, showed) = (taken.at, &taken.name, &taken.showed);
                return Err(format!("P2: snapshot {name} of {at} showed {showed:?} and shows {shows:?}"));
            }
        }
        Ok(())
    }
}
