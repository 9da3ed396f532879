//! P8: whoever waits for what a peer has, has it when the wait is over.
//!
//! A peer that is asked shows something at that moment. When the asker stands where the peer said that it stood, and the peer had heard of all that was dropped
//! at the asker, that is here: unless somebody who saw it has taken it away.

use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};
use tombolo_core::register::VersionVector;
use tombolo_core::{ConflictPolicy, DeltaLimit};

#[derive(Default)]
pub struct Waits {
    /// Questions that were asked so far: the last one's number.
    pub asked: u64,
    /// By question: what the one that was asked showed, as far as it stands there.
    showed: BTreeMap<u64, BTreeSet<String>>,
    under_way: Vec<Wait>,
}

struct Wait {
    at: usize,
    bucket: usize,
    vector: VersionVector,
    showed: BTreeSet<String>,
}

impl World {
    /// A site is asked where it stands. Only the first look counts: it may be that it is looked at again before it answers.
    pub async fn note_asked(&mut self, at: usize, bucket: usize, question: u64) {
        // In steps something shows from beyond where its segment stands.
        if self.limit != DeltaLimit::NONE || self.waits.showed.contains_key(&question) {
            return;
        }
        let stands = self.sites[at].look(bucket).await;
        let is_covered =
            |label: &String| self.made_at.get(&(bucket, label.clone())).is_some_and(|dot| stands.covers(dot));
        let shows = self.sites[at].shows(bucket).await.into_values();
        let showed = shows.filter(|label| !label.is_empty() && is_covered(label)).collect();
        self.waits.showed.insert(question, showed);
    }

    /// It has answered.
    pub async fn answered(
        &mut self,
        at: usize,
        bucket: usize,
        question: u64,
        vector: &VersionVector,
    ) -> Result<(), String> {
        if let Some(showed) = self.waits.showed.remove(&question)
            && !vector.is_empty()
            // It is asked again, and compares meanwhile.
            && self.sites[at].bucket(bucket).is_above_floor(vector).await.unwrap()
        {
            self.waits.under_way.push(Wait { at, bucket, vector: vector.clone(), showed });
        }
        self.check_waits(at, bucket).await
    }

    /// Holds what shows against the waits that are over.
    pub async fn check_waits(&mut self, at: usize, bucket: usize) -> Result<(), String> {
        if self.waits.under_way.is_empty() || self.sites[at].bucket(bucket).is_comparing().await.unwrap() {
            return Ok(());
        }
        let stands = &self.sites[at].vectors[bucket];
        let is_over = |wait: &mut Wait| wait.at == at && wait.bucket == bucket && stands.dominates(&wait.vector);
        let over: Vec<Wait> = self.waits.under_way.extract_if(.., is_over).collect();
        // Where losers don't show what one site shows another may not.
        if over.is_empty() || self.buckets[bucket].1.conflicts != ConflictPolicy::KeepBoth {
            return Ok(());
        }
        let shows: BTreeSet<String> = self.sites[at].shows(bucket).await.into_values().collect();
        for wait in over {
            self.outcome.waits += 1;
            self.outcome.waited_for += wait.showed.len();
            for label in wait.showed {
                let known = (bucket, label);
                if !shows.contains(&known.1) && !self.gone.contains(&known) && !self.copied.contains(&known) {
                    let (vector, label) = (wait.vector, known.1);
                    return Err(format!(
                        "P8: {at} stands where a peer stood, at {vector:?}, which showed {label}, and shows {shows:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}
