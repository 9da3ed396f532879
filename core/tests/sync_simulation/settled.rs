//! What must be so when all is delivered and nothing is left to be done.

use crate::link::Link;
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};
use tombolo_core::ConflictPolicy;

impl World {
    pub async fn check_settled(&mut self, handover: bool) -> Result<(), String> {
        let components = Link::components(self.sites.len(), &self.links);
        for (bucket, (_, policy)) in self.buckets.clone().into_iter().enumerate() {
            for component in &components {
                let first = self.sites[component[0]].state(bucket).await;
                for &other in component {
                    self.check_shown(other, bucket, "all was delivered").await?;
                    let state = self.sites[other].state(bucket).await;
                    if state != first {
                        return Err(format!(
                            "P5: bucket {bucket}: {} and {other} differ:\n{}",
                            component[0],
                            difference(&first, &state)
                        ));
                    }
                    for &peer in component {
                        let vector = self.sites[peer].look(bucket).await;
                        if self.sites[other].bucket(bucket).has_changes_since(&vector).await.unwrap() {
                            return Err(format!(
                                "P5: bucket {bucket}: {other} still has something for {peer} at {vector:?}"
                            ));
                        }
                    }
                }
                let shows = self.sites[component[0]].shows(bucket).await;
                let conflicts: Vec<&String> = shows.keys().filter(|key| key.contains("(conflict")).collect();
                if handover && !conflicts.is_empty() {
                    return Err(format!("P6: false conflicts: {conflicts:?}"));
                }
                self.outcome.conflicts += conflicts.len();
                self.check_not_back(bucket, &shows, components.len())?;
                // A loser of a bucket without conflict copies does not show; and what one component made is not in the others.
                if policy.conflicts == ConflictPolicy::KeepBoth && components.len() == 1 {
                    let there: BTreeSet<&String> = shows.values().collect();
                    for ((_, content), by) in self.made.iter().filter(|((of, _), _)| *of == bucket) {
                        let known = (bucket, content.clone());
                        if !self.gone.contains(&known) && !self.copied.contains(&known) && !there.contains(content) {
                            return Err(format!("P6: {content} ({by}) is lost: {shows:?}"));
                        }
                    }
                }
            }
        }
        self.check_lanes().await
    }

    /// Nothing is left for any peer, as each lane sees it, and whoever asks where a peer stands gets there.
    async fn check_lanes(&mut self) -> Result<(), String> {
        for leads in [false, true] {
            self.stood.clear();
            for link in 0..self.links.len() {
                self.probe(link, leads).await?;
            }
            self.settle().await?;
        }
        if self.stood.len() != self.links.len() * 2 * self.buckets.len() {
            return Err("P8: a question where a peer stands was not answered".into());
        }
        for (at, site) in self.sites.iter().enumerate() {
            for (bucket, peer, status) in site.machine.status() {
                let (which, peer) = (self.bucket_at(bucket), self.at(peer));
                if site.bucket(which).has_changes_since(&status.peer_vector).await.unwrap() {
                    return Err(format!("P5: {at} has something left for {peer}: {status:?}"));
                }
                if status.in_flight + status.waiting > 0 || status.problem.is_some() || !status.is_open {
                    return Err(format!("P8: all is done, and {at} has {status:?} for {peer}"));
                }
            }
        }
        for (at, bucket, vector) in &self.stood {
            let real = &self.sites[*at].vectors[*bucket];
            if !real.dominates(vector) {
                return Err(format!("P8: {at} asked where a peer stands, heard {vector:?} and got to {real:?}"));
            }
            // Who waits for what a peer has would wait for ever.
            if !self.sites[*at].bucket(*bucket).is_above_floor(vector).await.unwrap() {
                return Err(format!("P8: a peer of {at} has not heard of all that was dropped there: {vector:?}"));
            }
        }
        Ok(())
    }
}

fn difference(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> String {
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let differing = keys.into_iter().filter(|key| a.get(*key) != b.get(*key));
    differing.map(|key| format!("{key}:\n  {:?}\n  {:?}", a.get(key), b.get(key))).collect::<Vec<_>>().join("\n")
}
