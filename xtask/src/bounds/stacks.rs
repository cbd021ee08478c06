//! How deep each stack can become.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::Graph;
use super::image::Image;
use super::rules::Rules;

/// The deepest way from each function on.
pub struct Stacks<'a> {
    graph: &'a Graph,
    /// The group of each function that is in a cycle.
    group: BTreeMap<u64, usize>,
    groups: Vec<(BTreeSet<u64>, u64)>,
    /// In bytes, and whom that way goes on with.
    deepest: BTreeMap<u64, (u64, Option<u64>)>,
    /// What a panic takes, in bytes.
    panic: u64,
    to_handed: BTreeMap<u64, Option<u64>>,
}

impl<'a> Stacks<'a> {
    /// Works out all. Also what is recursive and is in no rule, in words.
    pub fn of(image: &Image, graph: &'a Graph, rules: &Rules) -> (Self, Vec<String>) {
        let mut wrong = Vec::new();
        let mut groups = Vec::new();
        let mut group = BTreeMap::new();
        for members in graph.cycles() {
            let rule = rules.recursion.iter().find(|rule| {
                members
                    .iter()
                    .all(|at| rule.functions.iter().any(|part| image.functions[at].is(part)))
            });
            if rule.is_none() {
                let names: Vec<&str> =
                    members.iter().map(|at| image.functions[at].name()).collect();
                wrong.push(format!("recursion: {}", names.join(", ")));
            }
            group.extend(members.iter().map(|at| (*at, groups.len())));
            groups.push((members, rule.map_or(1, |rule| rule.times)));
        }
        let mut stacks = Self {
            graph,
            group,
            groups,
            deepest: BTreeMap::new(),
            panic: 0,
            to_handed: BTreeMap::new(),
        };
        stacks.panic = stacks.from(graph.handler) * rules.panic.times + rules.panic.last;
        stacks.deepest.clear();
        for at in graph.nodes.keys() {
            stacks.from(*at);
        }
        (stacks, wrong)
    }

    /// How many bytes the function at `at` and all below it take at most.
    pub fn from(&mut self, at: u64) -> u64 {
        if let Some((depth, _)) = self.deepest.get(&at) {
            return *depth;
        }
        let (members, extra) = self.cycle(at);
        let out = members.iter().map(|one| self.one(*one, &members)).max().unwrap_or_default();
        for one in members {
            self.deepest.insert(one, (extra + out.0, out.1));
        }
        extra + out.0
    }

    /// How many bytes there are at most between the entry of the function at `at` and a call of something that
    /// was handed down to it.
    fn handed(&mut self, at: u64) -> Option<u64> {
        if let Some(depth) = self.to_handed.get(&at) {
            return *depth;
        }
        let (members, extra) = self.cycle(at);
        let depth = members.iter().filter_map(|one| self.handed_by_one(*one, &members)).max();
        let depth = depth.map(|depth| depth + extra);
        for one in members {
            self.to_handed.insert(one, depth);
        }
        depth
    }

    fn handed_by_one(&mut self, at: u64, without: &BTreeSet<u64>) -> Option<u64> {
        let graph = self.graph;
        let node = &graph.nodes[&at];
        if !node.is_carrier {
            return None;
        }
        let mut most = node.calls_handed;
        for (_, depth, to) in node.calls.iter().filter(|(_, _, to)| !without.contains(to)) {
            most = most.max(self.handed(*to).map(|below| depth + below));
        }
        // What it hands down itself may call in its turn what was handed to it.
        let own = node.hands_down.iter().filter(|to| !without.contains(to));
        let own = own.filter_map(|to| self.handed(*to)).max().unwrap_or(0);
        most.map(|most| most + own)
    }

    /// All that are in a cycle with the function at `at`, or it alone, and what their being on the stack several
    /// times adds, in bytes.
    fn cycle(&self, at: u64) -> (BTreeSet<u64>, u64) {
        match self.group.get(&at) {
            Some(&group) => {
                let (members, times) = &self.groups[group];
                let frames: u64 = members.iter().map(|one| self.graph.nodes[one].body.frame).sum();
                (members.clone(), frames * times)
            }
            None => (BTreeSet::from([at]), 0),
        }
    }

    /// The deepest way through one function that does not go on in `without`, and with whom it goes on.
    fn one(&mut self, at: u64, without: &BTreeSet<u64>) -> (u64, Option<u64>) {
        let graph = self.graph;
        let node = &graph.nodes[&at];
        let mut most = (node.body.frame, None);
        let mut way = None;
        for (_, depth, to) in node.calls.iter().filter(|(_, _, to)| !without.contains(to)) {
            let below = if *to == graph.handler { self.panic } else { self.from(*to) };
            most = most.max((depth + below, Some(*to)));
            way = way.max(self.handed(*to).map(|below| depth + below));
        }
        for to in node.hands_down.iter().filter(|to| !without.contains(to)) {
            most = most.max((way.unwrap_or(node.body.frame) + self.from(*to), Some(*to)));
        }
        most
    }

    /// The deepest way from `at`, as names.
    pub fn way(&self, image: &Image, at: u64) -> Vec<String> {
        let mut way = Vec::new();
        let mut seen = BTreeSet::new();
        let mut next = Some(at);
        while let Some(at) = next.filter(|at| seen.insert(*at)) {
            let (depth, to) = self.deepest[&at];
            let own = self.graph.nodes[&at].body.frame;
            way.push(format!("{depth:6} {own:6} {}", image.functions[&at].name()));
            next = to;
        }
        way
    }
}
