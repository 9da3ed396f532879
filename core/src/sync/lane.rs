//! One bucket on the way to one linked segment.

use super::{DEFERRED_MAX, Piece, RETRY_MS, RETRY_MS_MAX, WINDOW};
use crate::register::VersionVector;
use std::collections::VecDeque;

/// What may pass between this segment and another, of one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// Changes known here go there.
    pub sends: bool,
    /// Changes known there come here.
    pub receives: bool,
    /// What comes is staged, by [`Action::Stage`](super::Action::Stage), before it is taken in.
    pub stages: bool,
}

/// What is known about a lane, for status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LaneStatus {
    /// Whether both sides carry the bucket and are connected.
    pub is_open: bool,
    /// The highest vector that the other side has said it stands at.
    pub peer_vector: VersionVector,
    /// The part of it that it sends here, or has sent: when this segment stands there too, it has all that the other side has told of.
    pub peer_announced: VersionVector,
    /// The other side compares all that it holds, and has more than it has told of.
    pub peer_compares: bool,
    /// Deltas sent and not acknowledged.
    pub in_flight: usize,
    /// Deltas that came and wait to be taken in, staged ones among them.
    pub waiting: usize,
    /// Why it does not get on, if it does not.
    pub problem: Option<String>,
}

/// See the module `sync`.
#[derive(Debug)]
pub struct Lane<P> {
    /// `None`: the peer announced a bucket that this segment does not carry (yet).
    pub(super) terms: Option<Terms>,
    /// What the peer said of itself on this connection: whether it receives.
    pub(super) peer_receives: Option<bool>,
    /// What the peer has said it stands at.
    pub(super) theirs: VersionVector,
    /// What it has said that it sends; an acknowledgement is no such promise.
    announced: VersionVector,
    /// It compares all that it holds, as it last said.
    pub(super) peer_compares: bool,
    /// The same of this segment, as it last said to the peer.
    pub(super) is_said_to_compare: bool,
    /// Questions where this segment stands that are answered when it has compared.
    deferred: VecDeque<u64>,
    /// Where it will stand when it has taken what is under way.
    sent: VersionVector,
    in_flight: usize,
    /// What was sent last does not say where it leads, because this segment compares, and more is to follow: behind what, the acknowledgement tells.
    is_led: bool,
    is_dirty: bool,
    is_cutting: bool,
    /// The next delta is sent even if it is empty, so that the peer's vector moves.
    is_forced: bool,
    /// The same, for the one that is being cut.
    cut_is_forced: bool,
    retry_at_ms: u64,
    retry_ms: u64,
    waiting: VecDeque<P>,
    /// A delta is being staged, the first that came: under this number.
    staging: Option<u64>,
    /// It has been.
    staged: Option<P>,
    /// One is being taken in: what comes behind it is not staged before it is.
    pub(super) is_applying: bool,
    problem: Option<String>,
}

impl<P> Default for Lane<P> {
    fn default() -> Self {
        Lane {
            terms: None,
            peer_receives: None,
            theirs: VersionVector::new(),
            announced: VersionVector::new(),
            peer_compares: false,
            is_said_to_compare: false,
            deferred: VecDeque::new(),
            sent: VersionVector::new(),
            in_flight: 0,
            is_led: false,
            is_dirty: false,
            is_cutting: false,
            is_forced: false,
            cut_is_forced: false,
            retry_at_ms: 0,
            retry_ms: RETRY_MS,
            waiting: VecDeque::new(),
            staging: None,
            staged: None,
            is_applying: false,
            problem: None,
        }
    }
}

impl<P> Lane<P> {
    /// Whether both sides carry the bucket and are connected.
    pub(super) fn is_open(&self) -> bool {
        self.terms.is_some() && self.peer_receives.is_some()
    }

    pub(super) fn status(&self) -> LaneStatus {
        LaneStatus {
            is_open: self.is_open(),
            peer_vector: self.theirs.clone(),
            peer_announced: self.announced.clone(),
            peer_compares: self.peer_compares,
            in_flight: self.in_flight,
            waiting: self.in_line(),
            problem: self.problem.clone(),
        }
    }

    /// The connection is gone, and what was on it. What the peer said it stands at, it still does.
    pub(super) fn disconnected(&mut self) {
        self.peer_receives = None;
        self.refuse_waiting();
        self.deferred.clear();
        self.is_said_to_compare = false;
        self.in_flight = 0;
        self.is_led = false;
        self.is_dirty = false;
        self.is_forced = false;
        self.retry_at_ms = 0;
        self.retry_ms = RETRY_MS;
    }

    /// The peer says where it stands, at the start or because its terms have changed.
    pub(super) fn announced(&mut self, vector: VersionVector, receives: bool, is_comparing: bool) {
        // It says that it has compared by where it stood then, and may have sent more since.
        let has_compared = self.peer_compares && !is_comparing;
        self.peer_compares = is_comparing;
        // A bucket that was given up there and came back on the same connection stands where it says, too: what was sent to it before is not there.
        if self.peer_receives.is_none() || !has_compared && !vector.dominates(&self.announced) {
            // It may be a peer that was restored from a backup: it stands where it says, not where it once was.
            self.theirs = vector.clone();
            self.announced = vector.clone();
            self.sent = vector;
        } else {
            // What is under way on this connection still is, and will be answered.
            self.peer_is_at(&vector);
        }
        self.peer_receives = Some(receives);
        self.is_dirty = true;
        // Even with nothing to send, so that the peer stands where this segment has said that it stands.
        self.is_forced = true;
        self.retry_at_ms = 0;
        self.retry_ms = RETRY_MS;
    }

    /// The bucket does not go over the link any more, as far as this segment is concerned. What the peer has announced stays, because it won't announce it
    /// again on this connection. Returns how many deltas of the peer's must be refused.
    pub(super) fn unshared(&mut self) -> usize {
        self.terms = None;
        self.refuse_waiting()
    }

    /// What waits can't be taken in, because something before it was not. Returns how many deltas that are.
    pub(super) fn refuse_waiting(&mut self) -> usize {
        let count = self.in_line();
        self.waiting.clear();
        (self.staging, self.staged) = (None, None);
        count
    }

    fn in_line(&self) -> usize {
        self.waiting.len() + usize::from(self.staging.is_some()) + usize::from(self.staged.is_some())
    }

    /// A delta has come. Returns whether it is one of those that may be under way.
    pub(super) fn came(&mut self, payload: P) -> bool {
        self.waiting.push_back(payload);
        self.waiting.len() <= WINDOW
    }

    /// If a delta is to be staged now, as `number`: which.
    pub(super) fn start_staging(&mut self, number: u64) -> Option<P> {
        let stages = self.terms.is_some_and(|terms| terms.stages);
        if !stages || self.is_applying || self.staging.is_some() || self.staged.is_some() {
            return None;
        }
        let first = self.waiting.pop_front()?;
        self.staging = Some(number);
        Some(first)
    }

    /// A delta has been staged; one that was refused meanwhile, or that came by an earlier connection, is let go.
    pub(super) fn staged(&mut self, number: u64, payload: P) {
        if self.staging == Some(number) {
            (self.staging, self.staged) = (None, Some(payload));
        }
    }

    /// Whether there is a delta that can be taken in.
    pub(super) fn has_next(&self) -> bool {
        let stages = self.terms.is_some_and(|terms| terms.stages);
        self.staged.is_some() || !stages && self.staging.is_none() && !self.waiting.is_empty()
    }

    /// Takes it out.
    pub(super) fn take_next(&mut self) -> Option<P> {
        if !self.has_next() {
            return None;
        }
        self.staged.take().or_else(|| self.waiting.pop_front())
    }

    /// Whether there is nothing in it to remember.
    pub(super) fn is_idle(&self) -> bool {
        self.terms.is_none() && self.peer_receives.is_none() && !self.is_cutting
    }

    pub(super) fn soil(&mut self) {
        self.is_dirty = true;
    }

    pub(super) fn force(&mut self) {
        self.is_dirty = true;
        self.is_forced = true;
    }

    /// If a delta is due: after which vector to cut it.
    pub(super) fn start_cut(&mut self, now_ms: u64) -> Option<VersionVector> {
        if !self.may_send()
            || !self.is_dirty
            || self.is_cutting
            || self.in_flight >= if self.is_led { 1 } else { WINDOW }
            || now_ms < self.retry_at_ms
        {
            return None;
        }
        self.is_dirty = false;
        self.is_cutting = true;
        self.cut_is_forced = std::mem::take(&mut self.is_forced);
        Some(self.sent.clone())
    }

    fn may_send(&self) -> bool {
        self.terms.is_some_and(|terms| terms.sends) && self.peer_receives == Some(true)
    }

    /// A delta was cut. Returns whether it is to be sent.
    pub(super) fn cut(&mut self, piece: &Piece<P>) -> bool {
        self.is_cutting = false;
        // A peer that has moved on meanwhile stands at `from` too.
        if !self.may_send() || !self.sent.dominates(&piece.from) {
            // The lane has started anew while this was being cut.
            self.is_dirty = true;
            self.is_forced |= self.cut_is_forced;
            return false;
        }
        self.is_dirty |= !piece.is_whole;
        if piece.is_empty && !self.cut_is_forced {
            // Nothing for the peer. Its vector stays as it is: the next delta starts from what it has.
            return false;
        }
        self.is_led = !piece.is_whole && self.sent.dominates(&piece.to);
        self.sent.merge(&piece.to);
        self.in_flight += 1;
        true
    }

    pub(super) fn cut_failed(&mut self, now_ms: u64, reason: String) {
        self.is_cutting = false;
        self.is_forced |= self.cut_is_forced;
        self.fail(now_ms, reason);
    }

    /// The peer stands at `vector`, having taken in a delta of ours.
    pub(super) fn acked(&mut self, vector: &VersionVector, now_ms: u64) {
        self.learn(vector);
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.in_flight > 0 {
            return;
        }
        if self.theirs.dominates(&self.sent) {
            self.problem = None;
            self.retry_ms = RETRY_MS;
            // It may have got further by other ways.
            self.sent = self.theirs.clone();
        } else {
            let reason = "the other side does not stand where it should after what it was sent";
            self.fail(now_ms, reason.into());
        }
    }

    pub(super) fn refused(&mut self, reason: String, now_ms: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.fail(now_ms, reason);
    }

    /// The peer is at least at `vector`: it said so, or has sent what it says.
    pub(super) fn peer_is_at(&mut self, vector: &VersionVector) {
        self.theirs.merge(vector);
        self.announced.merge(vector);
        self.sent.merge(vector);
    }

    /// The peer answers a probe: it stands at `vector`, and sends what leads there.
    pub(super) fn peer_stands(&mut self, vector: &VersionVector) {
        self.peer_compares = false;
        if self.learn(vector) {
            self.announced.merge(vector);
        }
    }

    /// Of a bucket that is not carried here only what is announced of it is remembered.
    fn learn(&mut self, vector: &VersionVector) -> bool {
        let is_carried = self.terms.is_some();
        if is_carried {
            self.theirs.merge(vector);
        }
        is_carried
    }

    /// A question is answered when this segment has compared.
    pub(super) fn defer(&mut self, nonce: u64) {
        if self.deferred.len() == DEFERRED_MAX {
            self.deferred.pop_front();
        }
        self.deferred.push_back(nonce);
    }

    /// Those that are answered now.
    pub(super) fn take_deferred(&mut self) -> VecDeque<u64> {
        std::mem::take(&mut self.deferred)
    }

    /// Something of the peer's could not be taken in here.
    pub(super) fn trouble(&mut self, problem: Option<String>) {
        self.problem = problem;
    }

    fn fail(&mut self, now_ms: u64, reason: String) {
        self.sent = self.theirs.clone();
        self.is_dirty = true;
        self.problem = Some(reason);
        // All that was under way fails with the first of it, and that counts once.
        if self.retry_at_ms <= now_ms {
            self.retry_at_ms = now_ms.saturating_add(self.retry_ms);
            self.retry_ms = (self.retry_ms * 2).min(RETRY_MS_MAX);
        }
    }

    /// When it wants to be looked at again, if it waits for a time.
    pub(super) fn wakes_at_ms(&self) -> Option<u64> {
        (self.is_dirty && self.retry_at_ms > 0 && self.peer_receives == Some(true)).then_some(self.retry_at_ms)
    }
}
