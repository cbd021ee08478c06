//! `cargo xtask bounds`: what can be known of the linked image without running it. How deep its stacks
//! become, what calls itself, and where a panic may begin that a guest could reach.
//!
//! | file | what it is about |
//! |---|---|
//! | [`image`], [`lines`] | the ELF file: functions, tables of methods; the source |
//! | [`code`] | one function: its calls, and how much of the stack it has at each |
//! | [`rules`] | `xtask/bounds.toml`: what the image does not say |
//! | [`graph`] | who calls whom |
//! | [`stacks`] | the deepest way |
//! | [`panics`] | the ways to a panic, and `xtask/panics.txt`, the list of those that are known |

mod code;
mod graph;
mod image;
mod lines;
mod panics;
mod rules;
mod stacks;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use self::graph::Graph;
use self::image::Image;
use self::lines::Lines;
use self::panics::Known;
use self::rules::Rules;
use self::stacks::Stacks;
use crate::cli::BoundsOptions;
use crate::{build, paths};

/// An image, and what is known of it.
pub struct Bounds {
    image: Image,
    lines: Lines,
    rules: Rules,
    graph: Graph,
}

impl Bounds {
    /// Looks at an ELF file of ours.
    ///
    /// # Errors
    /// What cannot be followed.
    pub fn of(elf: &Path) -> Result<Self> {
        let image = Image::read(elf)?;
        let lines = Lines::read(elf)?;
        let rules = Rules::read(&read("bounds.toml")?)?;
        let graph = Graph::of(&image, &rules, &lines)?;
        let bounds = Self { image, lines, rules, graph };
        let mut unclear = Vec::new();
        for root in &bounds.rules.root {
            for at in bounds.graph.reach(bounds.image.find(&root.function)?, |_| false).keys() {
                unclear.extend(bounds.graph.unclear.get(at).into_iter().flatten().cloned());
            }
        }
        unclear.sort();
        unclear.dedup();
        if !unclear.is_empty() {
            bail!("what xtask/bounds.toml does not say:\n{}", unclear.join("\n"));
        }
        Ok(bounds)
    }

    /// One line for each stack: how much of it is taken at most. With `ways`, who that is.
    ///
    /// # Errors
    /// One that is too small, or a function that calls itself and is in no rule.
    pub fn stacks(&self, ways: bool) -> Result<Vec<String>> {
        let (mut stacks, recursive) = Stacks::of(&self.image, &self.graph, &self.rules);
        if !recursive.is_empty() {
            bail!(
                "these call themselves or each other, and xtask/bounds.toml has no bound:\n{}",
                recursive.join("\n")
            );
        }
        let mut lines = Vec::new();
        for root in self.rules.root.iter() {
            let (at, Some(there)) = (self.image.find(&root.function)?, root.stack) else {
                continue;
            };
            let deepest = stacks.from(at);
            let way = || stacks.way(&self.image, at).join("\n");
            if deepest > there {
                bail!(
                    "{} may take {deepest} bytes of a stack of {there} ({}); bytes from there on, its own, function:\n{}",
                    root.function,
                    root.why,
                    way()
                );
            }
            lines.push(format!("{}: {deepest} of {there} bytes", root.function));
            if ways {
                lines.push(way());
            }
        }
        Ok(lines)
    }

    /// Compares the places where a panic may begin with the list. Says how many there are.
    ///
    /// # Errors
    /// One that is not in the list, with the way there; or one that is in the list only.
    pub fn panics(&self, show: bool) -> Result<usize> {
        let (found, known) = (self.found()?, Known::read(&read("panics.txt")?)?);
        if show {
            for (place, way) in &found {
                println!(
                    "{}: {}, {}\n    {}",
                    place.function,
                    place.kind,
                    place.line,
                    way.join(" > ")
                );
            }
        }
        known.compare(&found)?;
        Ok(found.len())
    }

    /// Writes the list anew, if that has become shorter.
    ///
    /// # Errors
    /// It would become longer.
    pub fn update(&self) -> Result<()> {
        let path = paths::root().join("xtask/panics.txt");
        let now = Known::of(&self.found()?);
        let before = Known::read(&read("panics.txt")?)?;
        if now.total() > before.total() {
            bail!(
                "{} places where a panic may begin, and {} in the list, which only ever becomes shorter",
                now.total(),
                before.total()
            );
        }
        std::fs::write(&path, now.text())
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}: {} places, {} before", path.display(), now.total(), before.total());
        Ok(())
    }

    fn found(&self) -> Result<panics::Found> {
        let root =
            self.rules.root.iter().find(|root| root.panics).context("no root is for panics")?;
        let start = self.image.find(&root.function)?;
        Ok(panics::reached(&self.image, &self.graph, &self.lines, start))
    }
}

fn read(name: &str) -> Result<String> {
    let path = paths::root().join("xtask").join(name);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Builds the hypervisor and says all.
pub fn report(options: &BoundsOptions) -> Result<ExitCode> {
    let bounds = Bounds::of(&build::hypervisor()?.elf)?;
    for line in bounds.stacks(options.ways)? {
        println!("{line}");
    }
    if options.update {
        bounds.update()?;
    } else {
        println!("{} places where a panic may begin", bounds.panics(options.panics)?);
    }
    Ok(ExitCode::SUCCESS)
}
