//! The machine by itself, over segments that are a vector and nothing else.

use std::collections::{BTreeMap, VecDeque};
use tombolo_core::register::{Carriers, Dot, Stance, VersionVector};
use tombolo_core::sync::{
    Action, DEFERRED_MAX, Event, LaneStatus, Machine, Message, Piece, RETRY_MS, RETRY_MS_MAX, Terms, WINDOW,
};
use tombolo_core::{BucketId, SegmentId};

const BUCKET: BucketId = BucketId([7; 16]);
const BOTH: Terms = Terms { sends: true, receives: true, stages: false };
const STAGED: Terms = Terms { stages: true, ..BOTH };

/// A delta: the changes after `from`, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Toy {
    from: VersionVector,
    to: VersionVector,
    dots: Vec<Dot>,
}

struct Node {
    id: SegmentId,
    machine: Machine<Toy>,
    known: VersionVector,
    /// Changes that a delta holds at most.
    limit: usize,
    refuses: bool,
    /// It compares all that it holds, and tells others to begin at nothing.
    is_comparing: bool,
    /// Asked for by the machine, not done.
    pending: VecDeque<Action<Toy>>,
    closed: Vec<SegmentId>,
    /// Answers to where a peer stands.
    heard: Vec<VersionVector>,
    /// Questions that are answered later.
    deferred: Vec<u64>,
}

impl Node {
    fn cut(&self, from: VersionVector) -> Piece<Toy> {
        let (mut to, mut dots, mut is_whole) = (from.clone(), Vec::new(), true);
        for last in self.known.dots() {
            for sequence in from.get(&last.segment) + 1..=last.sequence {
                if dots.len() == self.limit {
                    is_whole = false;
                    break;
                }
                let dot = Dot::new(last.segment, sequence);
                dots.push(dot);
                to.advance(dot);
            }
        }
        let payload = Toy { from: from.clone(), to: to.clone(), dots };
        Piece { from, to, is_empty: payload.dots.is_empty(), is_whole, payload }
    }

    fn stance(&self) -> Stance {
        let vector = if self.is_comparing { VersionVector::new() } else { self.known.clone() };
        Stance { vector, is_comparing: self.is_comparing }
    }

    fn apply(&mut self, delta: &Toy) -> Result<Stance, String> {
        if self.refuses {
            return Err("the disk is full".into());
        }
        assert!(self.known.dominates(&delta.from), "a delta for somebody who stands elsewhere");
        self.known.merge(&delta.to);
        Ok(self.stance())
    }
}

/// Nodes and lines between them. Messages wait on a line until they are delivered.
struct Net {
    nodes: Vec<Node>,
    lines: BTreeMap<(usize, usize), VecDeque<Message<Toy>>>,
    /// Changes that went over lines.
    carried: usize,
    now_ms: u64,
}

impl Net {
    fn new(count: usize) -> Net {
        let nodes = (0..count).map(|at| Node {
            id: SegmentId([u8::try_from(at).unwrap() + 1; 16]),
            machine: Machine::new(),
            known: VersionVector::new(),
            limit: usize::MAX,
            refuses: false,
            is_comparing: false,
            pending: VecDeque::new(),
            closed: Vec::new(),
            heard: Vec::new(),
            deferred: Vec::new(),
        });
        Net { nodes: nodes.collect(), lines: BTreeMap::new(), carried: 0, now_ms: 0 }
    }

    fn handle(&mut self, at: usize, event: Event<Toy>) {
        let mut actions = Vec::new();
        self.nodes[at].machine.handle(event, &mut actions);
        for action in actions {
            match action {
                Action::Send { peer, message } => {
                    let to = self.at(peer);
                    if let Some(line) = self.lines.get_mut(&(at, to)) {
                        if let Message::Delta { payload, .. } = &message {
                            self.carried += payload.dots.len();
                        }
                        line.push_back(message);
                    }
                }
                Action::Close { peer, .. } => self.nodes[at].closed.push(peer),
                other => self.nodes[at].pending.push_back(other),
            }
        }
        self.check();
    }

    fn at(&self, id: SegmentId) -> usize {
        self.nodes.iter().position(|node| node.id == id).unwrap()
    }

    /// Status never claims more of a peer than is true, and nothing grows beyond its limit.
    fn check(&self) {
        for node in &self.nodes {
            for (_, peer, status) in node.machine.status() {
                let real = &self.nodes[self.at(*peer)].known;
                assert!(!status.is_open || real.dominates(&status.peer_vector), "{status:?}, but {real:?}");
                assert!(status.in_flight <= WINDOW && status.waiting <= WINDOW, "{status:?}");
            }
        }
    }

    fn share(&mut self, at: usize, with: usize, terms: Terms) {
        let (peer, stance) = (self.nodes[with].id, self.nodes[at].stance());
        self.handle(at, Event::Share { peer, bucket: BUCKET, terms, stance });
    }

    fn connect(&mut self, a: usize, b: usize, terms: (Terms, Terms)) {
        for (at, with, terms) in [(a, b, terms.0), (b, a, terms.1)] {
            self.lines.insert((at, with), VecDeque::new());
            let peer = self.nodes[with].id;
            self.handle(at, Event::Connected { peer });
            self.share(at, with, terms);
        }
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        for (at, with) in [(a, b), (b, a)] {
            self.lines.remove(&(at, with));
            let peer = self.nodes[with].id;
            self.handle(at, Event::Disconnected { peer });
        }
    }

    fn write(&mut self, at: usize, count: u64) {
        let id = self.nodes[at].id;
        let last = self.nodes[at].known.get(&id);
        self.nodes[at].known.advance(Dot::new(id, last + count));
        self.handle(at, Event::Committed { bucket: BUCKET });
    }

    /// Delivers the next message of a line.
    fn deliver(&mut self, from: usize, to: usize) -> bool {
        let Some(message) = self.lines.get_mut(&(from, to)).and_then(VecDeque::pop_front) else { return false };
        let peer = self.nodes[from].id;
        self.handle(to, Event::Received { peer, message });
        true
    }

    /// Does the oldest thing that a machine has asked for.
    fn work(&mut self, at: usize) -> bool {
        let Some(action) = self.nodes[at].pending.pop_front() else { return false };
        let event = match action {
            Action::Cut { peer, bucket, from } => Event::Cut { peer, bucket, outcome: Ok(self.nodes[at].cut(from)) },
            Action::Stage { peer, bucket, number, payload } => Event::Staged { peer, bucket, number, payload },
            Action::Apply { peer, bucket, payload } => {
                Event::Applied { peer, bucket, outcome: self.nodes[at].apply(&payload) }
            }
            Action::Read { peer, bucket, nonce } => {
                Event::Read { peer, bucket, nonce, stance: self.nodes[at].stance() }
            }
            Action::Stands { vector, .. } => {
                self.nodes[at].heard.push(vector);
                return true;
            }
            Action::Compares { nonce, .. } => {
                self.nodes[at].deferred.push(nonce);
                return true;
            }
            Action::Send { .. } | Action::Close { .. } | Action::Learn { .. } => return true,
        };
        self.handle(at, event);
        true
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            let lines: Vec<(usize, usize)> = self.lines.keys().copied().collect();
            let delivered = lines.into_iter().fold(false, |any, (from, to)| self.deliver(from, to) | any);
            let worked = (0..self.nodes.len()).fold(false, |any, at| self.work(at) | any);
            if !delivered && !worked {
                return;
            }
        }
        panic!("it does not end");
    }

    fn tick(&mut self, ms: u64) {
        self.now_ms += ms;
        for at in 0..self.nodes.len() {
            self.handle(at, Event::Tick { now_ms: self.now_ms });
        }
    }

    fn status(&self, at: usize, of: usize) -> LaneStatus {
        let peer = self.nodes[of].id;
        self.nodes[at].machine.status().find(|(_, of, _)| **of == peer).unwrap().2
    }

    /// All that is connected stands at the same vector, and says so of its peers.
    fn assert_equal(&self) {
        for (from, to) in self.lines.keys() {
            assert_eq!(self.nodes[*from].known, self.nodes[*to].known);
            assert_eq!(self.nodes[*from].closed, []);
        }
    }
}

#[test]
fn what_an_acknowledgement_that_was_lost_would_have_said_is_said_at_the_next_connection() {
    let mut net = Net::new(2);
    net.connect(0, 1, (BOTH, BOTH));
    net.settle();
    net.write(0, 3);
    net.work(0);
    net.deliver(0, 1);
    net.work(1);
    assert_eq!(net.lines[&(1, 0)].len(), 1, "the acknowledgement is under way");
    net.disconnect(0, 1);
    net.connect(0, 1, (BOTH, BOTH));
    net.settle();
    net.assert_equal();
    assert_eq!(net.carried, 3, "nothing went twice");
    assert_eq!(net.status(0, 1).peer_vector, net.nodes[1].known);
}

#[test]
fn a_refusal_waits_longer_each_time() {
    let mut net = Net::new(2);
    net.connect(0, 1, (BOTH, BOTH));
    net.settle();
    net.nodes[1].refuses = true;
    net.write(0, 1);
    net.settle();
    let mut wait = RETRY_MS;
    for _ in 0..12 {
        assert_eq!(net.nodes[0].machine.wakes_at_ms(), Some(net.now_ms + wait));
        let carried = net.carried;
        net.tick(wait - 1);
        net.settle();
        assert_eq!(net.carried, carried, "too early");
        assert!(net.status(0, 1).problem.unwrap().contains("full"));
        net.tick(1);
        net.settle();
        assert_eq!(net.carried, carried + 1);
        wait = (wait * 2).min(RETRY_MS_MAX);
    }
    net.nodes[1].refuses = false;
    net.tick(wait);
    net.settle();
    net.assert_equal();
    assert_eq!(net.status(0, 1).problem, None);
    assert_eq!(net.nodes[0].machine.wakes_at_ms(), None);
}

#[test]
fn a_peer_restored_from_a_backup_stands_where_it_says() {
    let mut net = Net::new(2);
    net.connect(0, 1, (BOTH, BOTH));
    net.write(0, 2);
    net.settle();
    let backup = net.nodes[1].known.clone();
    net.write(0, 3);
    net.settle();
    net.disconnect(0, 1);
    net.nodes[1].known = backup.clone();
    net.nodes[1].machine = Machine::new();
    net.connect(0, 1, (BOTH, BOTH));
    net.deliver(1, 0);
    assert_eq!(net.status(0, 1).peer_vector, backup);
    net.settle();
    net.assert_equal();
    assert_eq!(net.carried, 8);
}

#[test]
fn a_flood_beyond_the_window_closes_the_connection() {
    let mut net = Net::new(2);
    net.connect(0, 1, (BOTH, BOTH));
    net.settle();
    let peer = net.nodes[0].id;
    let mut sent = 0;
    while net.nodes[1].closed.is_empty() {
        let payload = Toy { from: VersionVector::new(), to: VersionVector::new(), dots: Vec::new() };
        let (from, to) = (payload.from.clone(), payload.to.clone());
        let mut actions = Vec::new();
        let message = Message::Delta { bucket: BUCKET, from, to, payload };
        net.nodes[1].machine.handle(Event::Received { peer, message }, &mut actions);
        net.nodes[1].closed.extend(actions.iter().filter_map(|action| match action {
            Action::Close { peer, .. } => Some(*peer),
            _ => None,
        }));
        sent += 1;
    }
    // One is being taken in, WINDOW wait.
    assert_eq!(sent, WINDOW + 2);
}

#[test]
fn forwarding_in_a_ring_ends() {
    let mut net = Net::new(6);
    for at in 0..6 {
        net.nodes[at].limit = 2;
        net.connect(at, (at + 1) % 6, (BOTH, BOTH));
    }
    for at in 0..6 {
        net.write(at, 10);
    }
    net.settle();
    net.assert_equal();
    // Each change reaches five others, by two ways at most at any of them.
    assert!(net.carried <= 60 * 5 * 2, "{} changes were carried", net.carried);
    let before = net.carried;
    net.write(0, 1);
    net.settle();
    // Over each line once, and over the last one both ways.
    assert!(net.carried - before <= 7, "one change went {} ways", net.carried - before);
}

/// A delta's `to` begins with what its receiver has said of itself. Taken for the sender's own vector it claims that the sender has what only the
/// receiver has, which then is never sent.
#[test]
fn a_delta_says_of_its_sender_only_what_goes_beyond_the_receiver() {
    let mut net = Net::new(2);
    net.write(0, 5);
    net.write(1, 3);
    net.connect(0, 1, (BOTH, BOTH));
    // Both know where the other stands. 1 cuts and sends before 0 has cut.
    net.deliver(0, 1);
    net.deliver(1, 0);
    net.work(1);
    net.deliver(1, 0);
    net.settle();
    net.assert_equal();
}

#[test]
fn a_bucket_that_is_taken_from_a_link_and_put_back_goes_on() {
    let mut net = Net::new(2);
    net.connect(0, 1, (BOTH, BOTH));
    net.write(0, 1);
    net.settle();
    let (peer, bucket) = (net.nodes[1].id, BUCKET);
    net.handle(0, Event::Unshare { peer, bucket });
    net.write(0, 1);
    net.write(1, 1);
    net.settle();
    net.share(0, 1, BOTH);
    for _ in 0..4 {
        net.settle();
        net.tick(RETRY_MS_MAX);
    }
    net.assert_equal();
}

/// Unsharing while things are under way, whatever the moment, ends neither in a closed connection nor in silence.
#[test]
fn terms_change_at_any_moment() {
    let receives = Terms { sends: false, receives: true, stages: false };
    for (moment, terms) in (0..40).flat_map(|moment| [(moment, BOTH), (moment, receives), (moment, STAGED)]) {
        let mut net = Net::new(2);
        net.nodes[0].limit = 1;
        net.nodes[1].limit = 1;
        net.connect(0, 1, (BOTH, BOTH));
        net.write(0, 9);
        net.write(1, 9);
        for turn in 0..moment {
            match turn % 5 {
                0 => net.work(0),
                1 => net.deliver(0, 1),
                2 => net.deliver(1, 0),
                3 => net.work(0),
                _ => turn % 3 == 0 && net.work(1),
            };
        }
        net.share(0, 1, terms);
        if moment % 2 == 0 || !terms.sends {
            net.share(0, 1, BOTH);
        }
        for _ in 0..4 {
            net.settle();
            net.tick(RETRY_MS_MAX);
        }
        net.assert_equal();
    }
}

#[test]
fn directions_hold() {
    let (sends, receives) =
        (Terms { sends: true, receives: false, stages: false }, Terms { sends: false, receives: true, stages: false });
    let mut net = Net::new(3);
    net.connect(0, 1, (sends, BOTH));
    net.connect(1, 2, (BOTH, receives));
    for at in 0..3 {
        net.write(at, 2);
    }
    net.settle();
    let heads =
        |net: &Net, at: usize| -> Vec<u64> { (0..3).map(|of| net.nodes[at].known.get(&net.nodes[of].id)).collect() };
    assert_eq!([heads(&net, 0), heads(&net, 1), heads(&net, 2)], [[2, 0, 0], [2, 2, 0], [2, 2, 2]]);
}

/// Whoever asks where a peer stands is taken there. A delta that was cut for the question before the answer was read did not go as far as the answer, and
/// nothing followed, because what had come in between changed no register.
#[test]
fn whoever_asks_where_a_peer_stands_gets_there() {
    let mut net = Net::new(2);
    net.connect(0, 1, (BOTH, BOTH));
    net.settle();
    let (peer, bucket) = (net.nodes[1].id, BUCKET);
    net.handle(0, Event::Probe { peer, bucket, nonce: 1, leads: false });
    net.deliver(0, 1);
    while let Some(at) = net.nodes[1].pending.iter().position(|action| matches!(action, Action::Cut { .. })) {
        net.nodes[1].pending.rotate_left(at);
        net.work(1);
    }
    // Its vector moves, without a change that the machine would be told of.
    net.nodes[1].known.advance(Dot::new(peer, 1));
    net.settle();
    let heard = net.nodes[0].heard.pop().unwrap();
    assert_eq!(heard.get(&peer), 1);
    assert!(net.nodes[0].known.dominates(&heard), "{:?}", net.nodes[0].known);
}

/// P8: a peer that compares all that it holds answered with the vector after which others are to begin, which is below what it holds: whoever waited for what the peer has
/// did not wait for that. It says that it compares, and answers when that is over; status says so meanwhile.
#[test]
fn a_peer_that_compares_answers_when_it_has_compared() {
    let mut net = Net::new(2);
    net.write(0, 1);
    net.write(1, 3);
    let own = net.nodes[1].known.clone();
    net.nodes[1].is_comparing = true;
    net.connect(0, 1, (BOTH, BOTH));
    // It holds what it has before it is told of anything.
    net.deliver(1, 0);
    assert!(net.status(0, 1).peer_compares && !own.is_empty());
    let (peer, bucket) = (net.nodes[1].id, BUCKET);
    for nonce in 0..u64::try_from(DEFERRED_MAX).unwrap() + 2 {
        net.handle(0, Event::Probe { peer, bucket, nonce, leads: false });
    }
    while net.lines[&(0, 1)].iter().any(|message| matches!(message, Message::Probe { .. })) {
        net.deliver(0, 1);
    }
    let is_read = |action: &Action<Toy>| matches!(action, Action::Read { .. });
    while let Some(at) = net.nodes[1].pending.iter().position(is_read) {
        net.nodes[1].pending.rotate_left(at);
        net.work(1);
    }
    while net.deliver(1, 0) {}
    while net.work(0) {}
    assert_eq!((net.nodes[0].heard.len(), net.nodes[0].deferred.len()), (0, DEFERRED_MAX + 2));
    assert!(net.status(0, 1).peer_compares);

    net.nodes[1].is_comparing = false;
    net.settle();
    assert!(!net.status(0, 1).peer_compares);
    // Of more than can wait the oldest were let go.
    assert_eq!(net.nodes[0].heard.len(), DEFERRED_MAX);
    assert!(net.nodes[0].heard.iter().all(|vector| vector.dominates(&own)), "{:?}", net.nodes[0].heard);
    net.assert_equal();
}

/// A question that waits ends with the connection, and with the bucket's going over the link.
#[test]
fn what_is_answered_later_is_not_answered_elsewhere() {
    let mut net = Net::new(2);
    net.nodes[1].is_comparing = true;
    net.connect(0, 1, (BOTH, BOTH));
    net.settle();
    let (asker, peer, bucket) = (net.nodes[0].id, net.nodes[1].id, BUCKET);
    let ask = |net: &mut Net, nonce| {
        net.handle(0, Event::Probe { peer, bucket, nonce, leads: true });
        net.settle();
    };
    ask(&mut net, 1);
    net.disconnect(0, 1);
    net.connect(0, 1, (BOTH, BOTH));
    net.settle();
    ask(&mut net, 2);
    assert_eq!((net.nodes[0].deferred.clone(), net.nodes[0].heard.len()), (vec![1, 2], 0));
    net.handle(1, Event::Unshare { peer: asker, bucket });
    net.settle();
    assert_eq!(net.nodes[0].heard, [VersionVector::new()], "nothing of it goes over this link");
    net.share(1, 0, BOTH);
    net.nodes[1].is_comparing = false;
    net.write(0, 1);
    net.settle();
    assert_eq!(net.nodes[0].heard.len(), 1);
    net.assert_equal();
}

/// Who carries a bucket is told over every open lane, whichever way changes go, and taken in only where the bucket goes over the link.
#[test]
fn carriers_are_told_both_ways() {
    let mut net = Net::new(3);
    let sends = Terms { sends: true, receives: false, stages: false };
    let receives = Terms { sends: false, receives: true, stages: false };
    net.connect(0, 1, (sends, receives));
    net.connect(1, 2, (BOTH, BOTH));
    net.settle();
    let mut carriers = Carriers::default();
    carriers.entry(net.nodes[2].id);
    net.handle(1, Event::Carriers { bucket: BUCKET, carriers: carriers.clone() });
    for to in [0, 2] {
        assert_eq!(net.lines[&(1, to)].len(), 1);
        assert!(net.deliver(1, to));
        let learns = net.nodes[to]
            .pending
            .iter()
            .any(|action| matches!(action, Action::Learn { carriers: told, .. } if *told == carriers));
        assert!(learns);
    }
    let peer = net.nodes[2].id;
    net.nodes[1].pending.clear();
    net.handle(1, Event::Unshare { peer, bucket: BUCKET });
    net.handle(1, Event::Received { peer, message: Message::Carriers { bucket: BUCKET, carriers } });
    assert!(net.nodes[1].pending.is_empty());
}

/// What one peer sent waits to be staged; what another sent is taken in meanwhile, and of each peer one delta after the other. What was being staged when
/// the connection ended is let go, and comes again.
#[test]
fn what_is_staged_holds_up_its_own_lane_alone() {
    let mut net = Net::new(3);
    net.nodes[1].limit = 1;
    net.connect(0, 1, (STAGED, BOTH));
    net.connect(0, 2, (STAGED, BOTH));
    net.settle();
    let (slow, quick) = (net.nodes[1].id, net.nodes[2].id);
    net.write(1, 3);
    let staged = |net: &Net, peer: SegmentId| {
        let mut pending = net.nodes[0].pending.iter();
        pending.position(|action| matches!(action, Action::Stage { peer: of, .. } if *of == peer))
    };
    // Everything but what the first node is asked to do.
    let deliver = |net: &mut Net| {
        while net.work(1) | net.work(2) | net.deliver(1, 0) | net.deliver(0, 1) | net.deliver(2, 0) | net.deliver(0, 2)
        {
        }
    };
    deliver(&mut net);
    let at = staged(&net, slow).unwrap();
    let held = net.nodes[0].pending.remove(at).unwrap();
    assert_eq!((net.status(0, 1).waiting, staged(&net, slow)), (3, None), "one at a time");
    net.write(2, 1);
    deliver(&mut net);
    assert!(staged(&net, quick).is_some());
    while net.work(0) {}
    assert_eq!((net.nodes[0].known.get(&quick), net.nodes[0].known.get(&slow)), (1, 0));

    net.disconnect(0, 1);
    assert_eq!(net.status(0, 1).waiting, 0);
    let Action::Stage { peer, bucket, number, payload } = held else { panic!("{held:?}") };
    net.handle(0, Event::Staged { peer, bucket, number, payload });
    assert!(net.nodes[0].pending.is_empty(), "of an earlier connection");
    net.connect(0, 1, (STAGED, BOTH));
    net.settle();
    net.assert_equal();
    assert_eq!(net.nodes[0].known.get(&slow), 3);
}
