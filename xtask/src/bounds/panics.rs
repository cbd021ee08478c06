//! The ways to the panic machinery.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::graph::Graph;
use super::image::Image;
use super::lines::Lines;

/// Crates whose functions that never return are the machinery: what calls those is a place where a panic may begin.
const MACHINERY: [&str; 4] = ["core::", "alloc::", "__rustc::", "<core::"];

/// A place in the source where a panic may begin.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// The function as written, whatever it was compiled into.
    pub function: String,
    /// What the panic would be.
    pub kind: String,
    /// `file:line`.
    pub line: String,
}

/// Places, and for each a way there: functions, the root first.
pub type Found = BTreeMap<Place, Vec<String>>;

/// All places that can be reached from `root`, and for each the way there.
pub fn reached(image: &Image, graph: &Graph, lines: &Lines, root: u64) -> Found {
    let can_panic = graph.who_reaches(graph.handler);
    let is_machinery = |at: u64| {
        let one = &image.functions[&at];
        can_panic.contains(&at)
            && !graph.nodes[&at].body.returns
            && one.names.iter().any(|name| MACHINERY.iter().any(|part| name.starts_with(part)))
    };
    let from = graph.reach(root, is_machinery);
    let mut found = BTreeMap::new();
    for &at in from.keys() {
        for &(call, _, to) in &graph.nodes[&at].calls {
            if is_machinery(to) || to == graph.handler {
                let (function, line) = lines.place(call);
                let place = Place { function, kind: kind(image.functions[&to].name()), line };
                found.entry(place).or_insert_with(|| way(image, &from, at));
            }
        }
    }
    found
}

fn way(image: &Image, from: &BTreeMap<u64, u64>, mut at: u64) -> Vec<String> {
    let mut names = vec![image.functions[&at].name().to_owned()];
    while from[&at] != at {
        at = from[&at];
        names.push(image.functions[&at].name().to_owned());
    }
    names.reverse();
    names
}

fn kind(panic: &str) -> String {
    let name = panic.rsplit("::").next().unwrap_or(panic);
    let name = name.split('<').next().unwrap_or(name);
    name.trim_start_matches("panic_const_").to_owned()
}

/// How many places each function has, by kind: the list of what is known.
#[derive(Debug, Eq, PartialEq)]
pub struct Known(BTreeMap<(String, String), u64>);

/// What the list begins with.
const HEAD: &str = "\
# Where a panic may begin that is reached from a guest's exit: how many places, of which kind, in which function.
# `cargo xtask bounds --update` writes this list when it has become shorter; it never becomes longer.
";

impl Known {
    /// The list of `found`.
    pub fn of(found: &Found) -> Self {
        let mut counts = BTreeMap::new();
        for place in found.keys() {
            *counts.entry((place.function.clone(), place.kind.clone())).or_insert(0) += 1;
        }
        Self(counts)
    }

    /// Reads the list's text.
    pub fn read(text: &str) -> Result<Self> {
        let mut counts = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut parts = line.splitn(3, ' ');
            let (Some(count), Some(kind), Some(function)) =
                (parts.next(), parts.next(), parts.next())
            else {
                bail!("xtask/panics.txt: `{line}` is not a number, a kind and a function");
            };
            let count = count.parse().with_context(|| format!("xtask/panics.txt: `{line}`"))?;
            counts.insert((function.to_owned(), kind.to_owned()), count);
        }
        Ok(Self(counts))
    }

    /// As text.
    pub fn text(&self) -> String {
        let lines =
            self.0.iter().map(|((function, kind), count)| format!("{count} {kind} {function}\n"));
        HEAD.to_owned() + &lines.collect::<String>()
    }

    /// How many places.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Whether `found` is what is known.
    ///
    /// # Errors
    /// What is new, with the way there; or what is no longer there.
    pub fn compare(&self, found: &Found) -> Result<()> {
        let mut new = Vec::new();
        let now = Self::of(found);
        for ((function, kind), count) in &now.0 {
            let before = self.0.get(&(function.clone(), kind.clone())).copied().unwrap_or(0);
            if *count > before {
                let places =
                    found.iter().filter(|(one, _)| one.function == *function && one.kind == *kind);
                let ways = places.map(|(one, way)| format!("  {}: {}", one.line, way.join(" > ")));
                new.push(format!("{function}: {kind}\n{}", ways.collect::<Vec<_>>().join("\n")));
            }
        }
        if !new.is_empty() {
            bail!(
                "a guest may reach a panic here, and xtask/panics.txt does not know of it:\n{}",
                new.join("\n")
            );
        }
        if *self != now {
            bail!(
                "{} places where a panic may begin, and {} in xtask/panics.txt: `cargo xtask bounds --update` makes it shorter",
                now.total(),
                self.total()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Found, Known, Place};

    fn found(lines: &[&str]) -> Found {
        let place = |line: &&str| Place {
            function: "a::<impl b for c>::d".into(),
            kind: "add_overflow".into(),
            line: (*line).to_owned(),
        };
        lines.iter().map(|line| (place(line), vec!["root".to_owned()])).collect()
    }

    #[test]
    fn the_list_is_what_was_found_and_nothing_else() {
        let known = Known::read(&Known::of(&found(&["x:1", "x:2"])).text()).unwrap();
        assert_eq!(known.total(), 2);
        known.compare(&found(&["x:7", "x:9"])).unwrap();
        let more = known.compare(&found(&["x:1", "x:2", "x:3"])).unwrap_err().to_string();
        assert!(more.contains("x:3: root"), "{more}");
        let less = known.compare(&found(&["x:1"])).unwrap_err().to_string();
        assert!(less.contains("--update"), "{less}");
    }
}
