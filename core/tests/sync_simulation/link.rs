//! A link between two sites: two lines of messages that keep their order, and break together.

use crate::random::Random;
use crate::site::Packed;
use std::collections::{BTreeSet, VecDeque};
use tombolo_core::sync::{Message, Terms};

pub const BOTH: Terms = Terms { sends: true, receives: true, stages: false };

#[derive(Debug)]
pub struct Link {
    /// The sites at its ends.
    pub ends: [usize; 2],
    /// Whether each end believes in the connection. Messages pass if both do.
    pub is_up: [bool; 2],
    /// What may pass, as each end has it.
    pub terms: [Terms; 2],
    /// Buckets that each end lets pass.
    pub shared: [BTreeSet<usize>; 2],
    /// Messages on their way to each end.
    pub lines: [VecDeque<Message<Packed>>; 2],
}

impl Link {
    pub fn new(ends: [usize; 2], buckets: usize) -> Link {
        let shared: BTreeSet<usize> = (0..buckets).collect();
        Link { ends, is_up: [false; 2], terms: [BOTH; 2], shared: [shared.clone(), shared], lines: Default::default() }
    }

    /// A chain, star, ring, mesh, or a tree with a few more links.
    pub fn graph(sites: usize, buckets: usize, random: &mut Random) -> Vec<Link> {
        let mut pairs: BTreeSet<[usize; 2]> = BTreeSet::new();
        let shape = random.below(5);
        for site in 1..sites {
            match shape {
                0 => pairs.insert([site - 1, site]),
                1 => pairs.insert([0, site]),
                2 => pairs.insert([site - 1, site]) | pairs.insert([0, sites - 1]),
                3 => (0..site).fold(false, |any, other| pairs.insert([other, site]) | any),
                _ => pairs.insert([random.below(site), site]) | pairs.insert([random.below(site), site]),
            };
        }
        pairs.into_iter().map(|ends| Link::new(ends, buckets)).collect()
    }

    pub fn some_terms(random: &mut Random) -> Terms {
        let (sends, receives) = *random.pick(&[(true, true), (true, false), (false, true)]).unwrap_or(&(true, true));
        Terms { sends, receives, stages: false }
    }

    /// Sites that reach each other.
    pub fn components(sites: usize, links: &[Link]) -> Vec<Vec<usize>> {
        let mut of: Vec<usize> = (0..sites).collect();
        for _ in 0..sites {
            for link in links {
                let least = of[link.ends[0]].min(of[link.ends[1]]);
                link.ends.iter().for_each(|end| of[*end] = least);
            }
        }
        let roots: BTreeSet<usize> = of.iter().copied().collect();
        roots.into_iter().map(|root| (0..sites).filter(|site| of[*site] == root).collect()).collect()
    }

    pub fn is_between(&self, pair: [usize; 2]) -> bool {
        self.ends == pair || self.ends == [pair[1], pair[0]]
    }

    pub fn end_of(&self, site: usize) -> Option<usize> {
        self.ends.iter().position(|end| *end == site)
    }

    pub fn is_down(&self) -> bool {
        self.is_up == [false, false]
    }

    /// Puts a message on its way to an end. Where the other end has gone it is lost.
    pub fn send(&mut self, end: usize, message: Message<Packed>) {
        if self.is_up == [true, true] {
            self.lines[end].push_back(message);
        }
    }

    /// The connection is gone at this end, and what was under way with it.
    pub fn drop_end(&mut self, end: usize) {
        self.is_up[end] = false;
        self.lines.iter_mut().for_each(VecDeque::clear);
    }
}
