//! Comparing what a bucket holds here and at a linked segment (`sync verify`), by summaries: see `tombolo_core::compare`.
//!
//! Both sides hold on to one instant for as long as a comparison takes. The side that is asked keeps at most one such instant for each linked segment, the last that was
//! asked for, and lets go of it when it is told to, when nobody asks for a while, or with the connection.

use crate::hub::{Hub, Peer};
use crate::links::Link;
use crate::scope::Scope;
use crate::wire::{self, Body, Compare, Compared, Frame};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use rand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tombolo_core::{
    Bucket, BucketId, BucketPath, Comparison, Counterpart, Dot, Error, ErrorKind, RangeSummary, Result, RowRange,
    RowSummary, SegmentId, Summary, VersionVector,
};

/// An instant that nobody asks about for this long is let go.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// The longest that one answer may take: it reads all that a range has.
const ANSWER_MAX: Duration = Duration::from_secs(600);
/// Changes under way are looked at again after this.
const LOOK: Duration = Duration::from_millis(50);
/// Of a segment that can't be verified now.
const AWAY: &str =
    "was away for longer than deletions are remembered, and compares all that it holds with what there is";
/// Differences that a report names.
const DIFFERENCES_MAX: usize = 1000;

/// What a comparison with one linked segment needs on this side.
#[derive(Default)]
pub(crate) struct Comparing {
    /// Comparisons that begin here go one at a time.
    turn: tokio::sync::Mutex<()>,
    /// The question under way, and who waits for its answer.
    asked: Mutex<Option<(u64, oneshot::Sender<Compared>)>>,
    /// What the other side compares with.
    held: tokio::sync::Mutex<Option<Held>>,
}

struct Held {
    comparison: u64,
    bucket: BucketId,
    summary: Summary,
    used: Instant,
}

impl Comparing {
    /// An answer has come. One that nobody waits for is dropped.
    pub(crate) fn answered(&self, answer: Compared) {
        let waiting = self.asked.lock().take_if(|(request, _)| *request == answer.request);
        if let Some((_, waiting)) = waiting {
            // Who asked may have gone.
            let _ = waiting.send(answer);
        }
    }

    /// Lets go of what nobody asks about any more.
    pub(crate) fn expire(&self) {
        if let Ok(mut held) = self.held.try_lock() {
            held.take_if(|held| held.used.elapsed() > IDLE_MAX);
        }
    }
}

/// Answers the other side's question; a refusal is an answer, too.
pub(crate) async fn answer(hub: &Hub, peer: &Peer, question: Compare) -> Compared {
    let request = question.request;
    match told(hub, peer, question).await {
        Ok(answer) => Compared { request, ..answer },
        Err(error) => Compared { request, refusal: error.to_string(), ..Compared::default() },
    }
}

async fn told(hub: &Hub, peer: &Peer, question: Compare) -> Result<Compared> {
    let bucket = wire::bucket(&question.bucket)?;
    let ranges = wire::ranges(&question.ranges)?;
    let mut held = peer.comparing.held.lock().await;
    if question.is_over {
        held.take_if(|held| held.comparison == question.comparison);
        return Ok(Compared::default());
    }
    let opened = hub.segment.catalog().bucket_with_id(&bucket).await?;
    let covers = |link: &Link| link.direction.sends() && link.scope.covers(opened.path());
    if !hub.link(&peer.id).is_some_and(|link| covers(&link)) {
        return Err(Error::new(ErrorKind::Denied, "nothing of this bucket is told over this link"));
    }
    let mut is_comparing = false;
    if held.as_ref().is_none_or(|held| held.comparison != question.comparison || held.bucket != bucket) {
        // Only the first question begins an instant: later ones are about that one.
        if !ranges.is_empty() {
            return Err(Error::new(ErrorKind::Busy, "another comparison has taken this one's place"));
        }
        is_comparing = opened.is_comparing().await?;
        let summary = opened.summary().await?;
        *held = Some(Held { comparison: question.comparison, bucket, summary, used: Instant::now() });
    }
    let Some(held) = held.as_mut() else { return Err(Error::new(ErrorKind::Failed, "a comparison is gone")) };
    let answer = compared(&held.summary, &ranges, question.lists).await;
    held.used = Instant::now();
    Ok(Compared { is_comparing, ..answer? })
}

async fn compared(summary: &Summary, ranges: &[RangeSummary], lists: bool) -> Result<Compared> {
    let mut answer = Compared::default();
    if ranges.is_empty() {
        answer.vector = wire::vector_bytes(summary.vector());
        answer.effective = wire::vector_bytes(summary.effective());
    } else if lists {
        for range in ranges.iter().take(1) {
            let (rows, next) = summary.rows(&range.range, wire::ROWS_TOLD_MAX).await?;
            answer.rows = wire::row_bytes(&rows);
            answer.next = next.unwrap_or_default();
        }
    } else {
        let mut differing = Vec::new();
        for (at, range) in (0u8..).zip(ranges) {
            if summary.whole(&range.range).await?.hash != range.hash {
                differing.push(at);
            }
        }
        answer.differing = differing.into();
    }
    Ok(answer)
}

/// One bucket here and at one linked segment.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The bucket.
    pub bucket: BucketPath,
    /// The linked segment.
    pub peer: SegmentId,
    /// Its name.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Bytes that the comparison sent.
    pub sent_bytes: u64,
    /// Bytes that it received.
    pub received_bytes: u64,
    /// Questions that it asked, one after the other.
    pub questions: u64,
}

/// What came of comparing a bucket.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Both have all changes, and were compared.
    Compared(Comparison),
    /// Not all changes are at both: of each segment, up to which change.
    UnderWay {
        /// Changes that are there and not here.
        here: Vec<Dot>,
        /// Changes that are here and not there.
        there: Vec<Dot>,
    },
    /// It could not be compared, and why.
    Unknown(String),
}

/// Compares all buckets in `scope` with all linked segments that carry them, one after the other. Changes may be under way until `deadline`.
pub(crate) async fn verify(hub: &Arc<Hub>, scope: &Scope, deadline: Instant) -> Result<Vec<Verified>> {
    let mut all = Vec::new();
    let buckets = hub.segment.catalog().all_buckets().await?;
    for info in buckets.iter().filter(|info| scope.covers(&info.path)) {
        for link in hub.links.list().into_iter().filter(|link| link.scope.covers(&info.path)) {
            let bucket = match hub.segment.catalog().bucket_with_id(&info.id).await {
                // It has gone meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                found => found?,
            };
            all.push(verify_with(hub, &link, &bucket, info.id, deadline).await?);
        }
    }
    Ok(all)
}

async fn verify_with(hub: &Hub, link: &Link, bucket: &Bucket, id: BucketId, deadline: Instant) -> Result<Verified> {
    let (sent, received, questions) = Default::default();
    let traffic = Traffic { sent, received, questions };
    let outcome = match hub.peer(&link.peer) {
        None => {
            let problem = hub.problem(&link.peer).map(|problem| format!(": {problem}")).unwrap_or_default();
            Outcome::Unknown(format!("not connected{problem}"))
        }
        Some(peer) if peer.version < wire::VERSION_COMPARES => {
            Outcome::Unknown("the other segment's version of tombolo does not compare".into())
        }
        Some(peer) => {
            let _turn = peer.comparing.turn.lock().await;
            match settle(&peer, bucket, id, &traffic, deadline).await {
                Ok(outcome) => outcome,
                // What the other side says, or does not.
                Err(error) if matches!(error.kind(), ErrorKind::Offline | ErrorKind::Denied | ErrorKind::Damaged) => {
                    Outcome::Unknown(error.to_string())
                }
                Err(error) => return Err(error),
            }
        }
    };
    Ok(Verified {
        bucket: bucket.path().clone(),
        peer: link.peer,
        name: link.name.clone(),
        outcome,
        sent_bytes: traffic.sent.into_inner(),
        received_bytes: traffic.received.into_inner(),
        questions: traffic.questions.into_inner(),
    })
}

/// Waits until both have all that the other one has, and compares that.
async fn settle(peer: &Peer, bucket: &Bucket, id: BucketId, traffic: &Traffic, deadline: Instant) -> Result<Outcome> {
    loop {
        // Before what it is about: if it ends in between, the next look tells.
        let is_comparing = bucket.is_comparing().await?;
        let here = bucket.summary().await?;
        let asker = Asker { peer, bucket: id, comparison: rand::rng().random(), traffic };
        let opened = asker.ask(&[], false).await?;
        let (stands, effective) = (wire::vector(&opened.vector)?, wire::vector(&opened.effective)?);
        let lacking = |stands: &VersionVector, of: &VersionVector| -> Vec<Dot> {
            of.dots().filter(|dot| !stands.covers(dot)).collect()
        };
        let (lacks, they_lack) = (lacking(here.vector(), &effective), lacking(&stands, here.effective()));
        let is_level = lacks.is_empty() && they_lack.is_empty() && !is_comparing && !opened.is_comparing;
        let outcome = match is_level {
            true => tombolo_core::compare(&here, &asker, DIFFERENCES_MAX).await.map(Outcome::Compared),
            false if is_comparing => Ok(Outcome::Unknown(format!("this segment {AWAY}"))),
            false if opened.is_comparing => Ok(Outcome::Unknown(format!("the other segment {AWAY}"))),
            false => Ok(Outcome::UnderWay { here: lacks, there: they_lack }),
        };
        asker.end();
        if is_level || outcome.is_err() || Instant::now() >= deadline {
            return outcome;
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[derive(Default)]
struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
    questions: AtomicU64,
}

/// The other side of one comparison.
struct Asker<'a> {
    peer: &'a Peer,
    bucket: BucketId,
    comparison: u64,
    traffic: &'a Traffic,
}

impl Asker<'_> {
    fn question(&self, ranges: &[RangeSummary], lists: bool) -> Compare {
        Compare {
            request: rand::rng().random(),
            bucket: Bytes::copy_from_slice(&self.bucket.0),
            comparison: self.comparison,
            ranges: wire::range_bytes(ranges),
            lists,
            is_over: false,
        }
    }

    async fn ask(&self, ranges: &[RangeSummary], lists: bool) -> Result<Compared> {
        let question = self.question(ranges, lists);
        let (answer, answered) = oneshot::channel();
        *self.peer.comparing.asked.lock() = Some((question.request, answer));
        self.say(question);
        self.traffic.questions.fetch_add(1, Ordering::Relaxed);
        let offline = |what: &str| Error::new(ErrorKind::Offline, what.to_owned());
        let answer = tokio::select! {
            answer = timeout(ANSWER_MAX, answered) => match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => return Err(offline("another comparison has taken this one's place")),
                Err(_) => return Err(offline("the other side does not answer")),
            },
            reason = self.peer.control.closed() => return Err(offline(&format!("the connection ended: {reason}"))),
        };
        self.traffic.received.fetch_add(answer.encoded_len() as u64, Ordering::Relaxed);
        if !answer.refusal.is_empty() {
            let reason: String = answer.refusal.chars().take(500).collect();
            return Err(Error::new(ErrorKind::Denied, format!("the other side refuses: {reason}")));
        }
        Ok(answer)
    }

    /// The other side need not hold on to it any more. Nobody waits for that.
    fn end(&self) {
        self.say(Compare { is_over: true, ..self.question(&[], false) });
    }

    fn say(&self, question: Compare) {
        let body = Body::Compare(question);
        let frame = Frame { body: Some(body.clone()) };
        self.traffic.sent.fetch_add(frame.encoded_len() as u64, Ordering::Relaxed);
        self.peer.say(body);
    }
}

#[async_trait]
impl Counterpart for Asker<'_> {
    async fn differing(&self, ranges: &[RangeSummary]) -> Result<Vec<usize>> {
        let answer = self.ask(ranges, false).await?;
        Ok(answer.differing.iter().map(|at| usize::from(*at)).collect())
    }

    async fn rows(&self, range: &RowRange) -> Result<(Vec<RowSummary>, Option<Bytes>)> {
        let range = RangeSummary { range: range.clone(), hash: [0; 32], rows: 0 };
        let answer = self.ask(&[range], true).await?;
        let next = (!answer.next.is_empty()).then_some(answer.next);
        Ok((wire::rows(&answer.rows)?, next))
    }
}
