//! Who calls whom.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::Result;

use super::code::{self, Body, Callee};
use super::image::{Function, Image};
use super::lines::Lines;
use super::rules::Rules;

/// A function and all that it may call.
#[derive(Debug, Default)]
pub struct Node {
    /// What its code says.
    pub body: Body,
    /// Calls: the instruction, the depth of the stack there in bytes, and whom.
    pub calls: Vec<(u64, u64, u64)>,
    /// Whose address it takes, for somebody below it to call.
    pub hands_down: BTreeSet<u64>,
    /// How much of the stack it has, in bytes, where it calls something that it was handed.
    pub calls_handed: Option<u64>,
    /// It may be handed something, and hand that on.
    pub is_carrier: bool,
}

/// All functions, by their addresses.
pub struct Graph {
    pub nodes: BTreeMap<u64, Node>,
    /// What all panics end in.
    pub handler: u64,
    /// What cannot be followed, in words, by function.
    pub unclear: BTreeMap<u64, BTreeSet<String>>,
}

impl Graph {
    /// Follows all calls of the image.
    pub fn of(image: &Image, rules: &Rules, lines: &Lines) -> Result<Self> {
        let handler = image.find(&rules.panic.handler)?;
        let mut unclear: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
        let mut nodes = BTreeMap::new();
        let handed: Vec<&Vec<String>> = rules
            .call
            .iter()
            .filter(|rule| rule.to.is_empty() && rule.function.is_empty())
            .map(|rule| &rule.from)
            .collect();
        for (at, mut body) in code::all(image) {
            let function = &image.functions[&at];
            let is_opaque =
                rules.opaque.iter().any(|rule| rule.functions.iter().any(|part| function.is(part)));
            let mut cannot = |what| {
                unclear
                    .entry(function.at)
                    .or_default()
                    .insert(format!("{}: {what}", function.name()));
            };
            body.unclear.drain(..).filter(|_| !is_opaque).for_each(&mut cannot);
            let is_carrier = rules
                .carrier
                .iter()
                .any(|rule| rule.functions.iter().any(|part| function.is(part)));
            let mut node = Node { is_carrier, ..Node::default() };
            for call in &body.calls {
                match call.callee {
                    Callee::Known(to) => match image.function_of(to) {
                        Some(to) => node.calls.push((call.at, call.depth, to.at)),
                        None => cannot(format!("{:#x} calls {to:#x}, which is nothing", call.at)),
                    },
                    Callee::Indirect(slot) => {
                        let mut names = lines.functions(call.at);
                        names.extend(function.names.iter().cloned());
                        match whom(image, rules, &names, slot) {
                            Ok(found) if found.is_empty() => {
                                node.calls_handed = node.calls_handed.max(Some(call.depth));
                            }
                            Ok(found) => node
                                .calls
                                .extend(found.into_iter().map(|to| (call.at, call.depth, to))),
                            Err(why) => cannot(format!(
                                "{:#x}, in {}: a call of what a register holds, loaded at {slot:?}: {why}",
                                call.at,
                                names.join(", in ")
                            )),
                        }
                    }
                }
            }
            for taken in &body.taken {
                // What is kept is called by those whom a rule names.
                let is_kept = |one: &Function| {
                    rules
                        .call
                        .iter()
                        .any(|rule| one.names.iter().any(|name| rule.function.contains(name)))
                };
                if *taken != function.at
                    && image.functions.get(taken).is_some_and(|one| !is_kept(one))
                {
                    node.hands_down.insert(*taken);
                }
                // Tables whose methods are called by those who only call what they are handed.
                let Some(table) = image.vtables.get(taken) else { continue };
                let is_handed = |to: &u64| {
                    let one = &image.functions[to];
                    handed.iter().any(|parts| parts.iter().any(|part| one.is(part)))
                };
                if table.entries.iter().any(|(at, to)| *at >= 24 && is_handed(to)) {
                    node.hands_down.extend(
                        table.entries.iter().filter(|(at, _)| *at >= 24).map(|(_, to)| *to),
                    );
                }
            }
            node.body = body;
            nodes.insert(function.at, node);
        }
        Ok(Self { nodes, handler, unclear })
    }

    /// Whom the function at `at` may call, each once.
    pub fn next(&self, at: u64) -> BTreeSet<u64> {
        let node = &self.nodes[&at];
        node.calls.iter().map(|(_, _, to)| *to).chain(node.hands_down.iter().copied()).collect()
    }

    /// All that can be called from `root`, and from where each was first found. Nothing beyond those that `stops`.
    pub fn reach(&self, root: u64, stops: impl Fn(u64) -> bool) -> BTreeMap<u64, u64> {
        let mut from = BTreeMap::from([(root, root)]);
        let mut todo = VecDeque::from([root]);
        while let Some(at) = todo.pop_front() {
            for to in self.next(at) {
                if !from.contains_key(&to) && !stops(to) {
                    from.insert(to, at);
                    todo.push_back(to);
                }
            }
        }
        from
    }

    /// Those who can reach `goal`.
    pub fn who_reaches(&self, goal: u64) -> BTreeSet<u64> {
        let mut callers: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for &at in self.nodes.keys() {
            for to in self.next(at) {
                callers.entry(to).or_default().push(at);
            }
        }
        let mut found = BTreeSet::from([goal]);
        let mut todo = vec![goal];
        while let Some(at) = todo.pop() {
            for &caller in callers.get(&at).into_iter().flatten() {
                if found.insert(caller) {
                    todo.push(caller);
                }
            }
        }
        found
    }

    /// The groups of functions that call each other in a circle, or themselves, without a panic (Tarjan 1972).
    pub fn cycles(&self) -> Vec<BTreeSet<u64>> {
        let mut search = Search::default();
        for &at in self.nodes.keys() {
            if !search.number.contains_key(&at) {
                search.visit(self, at);
            }
        }
        search.found.retain(|group| {
            group.len() > 1
                || group
                    .first()
                    .is_some_and(|at| *at != self.handler && self.next(*at).contains(at))
        });
        search.found
    }
}

/// The functions that an indirect call by those with `names` may reach: of tables that have a method with one of the
/// rule's names, what is at `slot`, if that is known.
fn whom(
    image: &Image,
    rules: &Rules,
    names: &[String],
    slot: Option<u64>,
) -> std::result::Result<BTreeSet<u64>, &'static str> {
    let called = |part: &String| names.iter().any(|name| name.contains(part.as_str()));
    let rule = rules.call.iter().find(|rule| rule.from.iter().any(called)).ok_or("no rule")?;
    let fits = |to: &u64| rule.to.iter().any(|part| image.functions[to].is(part));
    let tables = image
        .vtables
        .values()
        .filter(|table| table.entries.iter().any(|(at, to)| *at > 0 && fits(to)));
    let entries = tables.flat_map(|table| &table.entries);
    let mut found: BTreeSet<u64> =
        entries.filter(|(at, _)| slot.is_none_or(|slot| slot == *at)).map(|(_, to)| *to).collect();
    found.extend(image.pointers.values().filter(|to| fits(to)));
    for name in &rule.function {
        let all = image.functions.values().filter(|one| one.names.contains(name)).map(|one| one.at);
        let before = found.len();
        found.extend(all);
        if before == found.len() {
            return Err("a function of its rule is not there");
        }
    }
    // What needs nothing to be destroyed has nothing in its table's first place.
    let is_void = found.is_empty() && !rule.to.is_empty() && slot != Some(0);
    if is_void { Err("no table fits its rule") } else { Ok(found) }
}

#[derive(Default)]
struct Search {
    number: BTreeMap<u64, usize>,
    low: BTreeMap<u64, usize>,
    stack: Vec<u64>,
    found: Vec<BTreeSet<u64>>,
}

impl Search {
    fn visit(&mut self, graph: &Graph, at: u64) {
        let number = self.number.len();
        self.number.insert(at, number);
        self.low.insert(at, number);
        self.stack.push(at);
        for to in graph.next(at).into_iter().filter(|to| *to != graph.handler) {
            if !self.number.contains_key(&to) {
                self.visit(graph, to);
                let low = self.low[&at].min(self.low[&to]);
                self.low.insert(at, low);
            } else if self.stack.contains(&to) {
                let low = self.low[&at].min(self.number[&to]);
                self.low.insert(at, low);
            }
        }
        if self.low[&at] == number {
            let first = self.stack.iter().position(|one| *one == at).unwrap_or(0);
            self.found.push(self.stack.drain(first..).collect());
        }
    }
}
