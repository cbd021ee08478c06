//! What virtio devices cost: the same guest with Plinth's disk and network cards, and bare on QEMU's board with QEMU's.
//!
//! Where one guest has both network cards, all that happens at EL2 is counted, and nothing else: there is one CPU, and one
//! vCPU. With two guests on one CPU their switches are counted too, and on CPUs of their own the machine's time is.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use plinth::machine::CpuId;
use plinth::manifest::{CardConfig, DiskConfig, DiskContents, MachineConfig, NetworkConfig};
use plinth::net::{MacAddr, PortConfig};
use plinth::sched::policy::{CpuSet, Policy};

use super::count::{ByClass, Counts, Mark};
use super::counted::{self, Counter, Run};
use super::measure::{self, CPU, Figures, LIMIT, Spread};
use super::on_board;
use crate::board::Hardware;
use crate::bundle::Bundle;
use crate::guest::Payload;
use crate::{disks, paths};

/// How many blocks of 4 KiB the disk has.
const BLOCKS: u64 = 1024;

/// The guest's markers: a sample begins, it ends, a row does.
const BEGINS: u8 = 0x70;
const ENDS: u8 = 0x71;
const ROW_ENDS: u8 = 0x72;
/// And that of a guest that has answered another one.
pub const ANSWERED: u8 = 0x73;

/// All that a guest measures with a disk and two network cards.
const GROUPS: &str = "packed,in-order,disk,net,asleep";
/// What it measures without.
const ASLEEP: &str = "asleep";

/// The rows of one machine.
pub fn figures(counter: &Counter, gic: u8) -> Result<Figures> {
    let disk = Image::new()?;
    let with =
        Payload { nets: vec![card(1), card(2)], disks: vec![disk.config()?], ..guest(GROUPS)? };
    let ours = plinth(counter, gic, std::slice::from_ref(&with))?;
    let theirs = on_board::alone(counter, gic, &with, tree(&ours)?, &disk.path)?;
    let without = plinth(counter, gic, &[guest(ASLEEP)?])?;

    let mut figures = Figures::new();
    let [first, second] = two("net-stream", "net-sink", |_| CpuId(0))?;
    let guests = [&first, &second];
    let stream = plinth(counter, gic, &[first.clone(), second.clone()])?;
    // A device tree is known of a machine's first guest.
    let turned = plinth(counter, gic, &[second.clone(), first.clone()])?;
    let mut bare = rows(&theirs)?;
    bare.extend(on_board::between(counter, gic, guests, [tree(&stream)?, tree(&turned)?])?);
    for row in rows(&ours)?.into_iter().chain(rows(&stream)?) {
        if row.name == ASLEEP {
            continue;
        }
        figures.insert(row.name.clone(), row.spread(1, |sample| sample.by.el2));
        figures.insert(format!("{}-total", row.name), row.spread(1, |sample| sample.by.total()));
        figures.insert(format!("{}-exits", row.name), row.spread(1000, |sample| sample.exits));
        if let Some(bare) = bare.iter().find(|bare| bare.name == row.name) {
            figures
                .insert(format!("{}-bare", row.name), bare.spread(1, |sample| sample.by.total()));
        }
    }
    let mut put = |name: &str, value| figures.insert(name.to_owned(), Spread::of(value));
    put("virtio-idle", asleep(&ours)?.saturating_sub(asleep(&without)?));
    put("longest-stretch-virtio", longest(&ours.counts));
    figures.extend(pair(gic)?);
    Ok(figures)
}

fn tree(run: &Run) -> Result<&[u8]> {
    run.tree.as_deref().context("the guest's device tree was not found")
}

fn longest(counts: &Counts) -> u64 {
    counts.longest_stretch().map_or(0, |it| it.length)
}

/// What is executed at EL2 while the guest sleeps for a second.
fn asleep(run: &Run) -> Result<u64> {
    let rows = rows(run)?;
    let row = rows.iter().find(|row| row.name == ASLEEP).context("the guest has not slept")?;
    Ok(row.spread(1, |sample| sample.by.el2).median)
}

fn guest(groups: &str) -> Result<Payload> {
    measure::guest("bench", 64 << 20, &format!("rows={groups}"))
}

/// A card with this number in the one network.
fn card(number: u8) -> CardConfig {
    CardConfig { network: 0, port: PortConfig::new(MacAddr([2, 0, 0, 0, 0, number])) }
}

fn bundle(guests: &[Payload]) -> Result<Bundle> {
    let lan = NetworkConfig { name: "lan".to_owned(), uplink: false };
    Bundle::pack_with(&MachineConfig::default(), &[lan], guests)
}

pub fn hardware(gic: u8) -> Hardware {
    Hardware { cpu: CPU.to_owned(), ..counted::hardware(gic, 1, 1 << 30) }
}

fn plinth(counter: &Counter, gic: u8, guests: &[Payload]) -> Result<Run> {
    counter.plinth(&hardware(gic), &bundle(guests)?, LIMIT).context("virtio devices on Plinth")
}

/// A frame's way between two guests.
fn pair(gic: u8) -> Result<Figures> {
    let guests = two("net-pair", "net-answer", |number| CpuId(number - 1))?;
    measure::together_on(gic, 2, &bundle(&guests)?)
}

/// Two guests with a card each, one that measures and another one.
fn two(measures: &str, other: &str, cpu: impl Fn(u8) -> CpuId) -> Result<[Payload; 2]> {
    let on = |number: u8, name: &str, groups: &str| -> Result<Payload> {
        let policy = Policy { affinity: CpuSet::EMPTY.with(cpu(number)), ..Policy::default() };
        Ok(Payload { name: name.to_owned(), nets: vec![card(number)], policy, ..guest(groups)? })
    };
    Ok([on(1, "bench", measures)?, on(2, "other", other)?])
}

/// One row as it was counted.
pub struct Row {
    pub name: String,
    /// How many operations each sample is of.
    pub each: u64,
    pub samples: Vec<Sample>,
}

pub struct Sample {
    pub by: ByClass,
    pub exits: u64,
}

impl Row {
    /// What `figure` gives for so many operations.
    fn spread(&self, operations: u64, figure: impl Fn(&Sample) -> u64) -> Spread {
        let per = |sample: &Sample| (figure(sample) * operations).div_ceil(self.each);
        let mut all: Vec<u64> = self.samples.iter().map(per).collect();
        all.sort_unstable();
        let at = |index: usize| all.get(index).copied().unwrap_or(0);
        Spread { min: at(0), median: at(all.len() / 2), max: at(all.len().saturating_sub(1)) }
    }
}

/// The rows between the markers, named by what the guest printed.
pub fn rows(run: &Run) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut marks = run.counts.marks.iter().filter(|mark| mark.number != ANSWERED);
    for line in run.console.lines() {
        let Some((_, words)) = line.split_once("counted: ") else { continue };
        let (name, each) = words.trim().split_once(' ').context("a row of no operations")?;
        let each = each.parse().with_context(|| format!("`{each}` operations"))?;
        rows.push(Row { name: name.to_owned(), each, samples: samples(&mut marks)? });
    }
    if rows.is_empty() {
        bail!("the guest has counted nothing:\n{}", run.console);
    }
    Ok(rows)
}

/// The samples up to the end of a row.
fn samples<'m>(marks: &mut impl Iterator<Item = &'m Mark>) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    loop {
        match marks.next().map(|mark| (mark.number, mark)) {
            Some((ROW_ENDS, _)) => return Ok(samples),
            Some((BEGINS, first)) => {
                let last = marks.next().filter(|mark| mark.number == ENDS);
                let last = last.context("a sample does not end")?;
                let by = last.at.all - first.at.all;
                samples.push(Sample { by, exits: last.exits - first.exits });
            }
            _ => bail!("the guest's markers are not as they should be"),
        }
    }
}

/// A disk whose blocks have their numbers in their first words.
struct Image {
    path: PathBuf,
}

impl Image {
    fn new() -> Result<Self> {
        let path = paths::scratch("bench-disk")?;
        let mut bytes = Vec::new();
        for block in 0..BLOCKS {
            bytes.extend(block.to_le_bytes());
            bytes.resize(bytes.len() + 4096 - 8, block.to_le_bytes()[0] | 1);
        }
        let image = Self { path };
        File::create(&image.path)
            .and_then(|mut file| file.write_all(&bytes))
            .with_context(|| format!("cannot write {}", image.path.display()))?;
        Ok(image)
    }

    fn config(&self) -> Result<DiskConfig<Vec<u8>, String>> {
        let packed = disks::pack(&mut File::open(&self.path).context("the disk is gone")?)?;
        let contents = DiskContents::Image(packed);
        Ok(DiskConfig { contents, space: None, read_only: false, serial: "bench".to_owned() })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::{Row, Sample, samples};
    use crate::bench::count::{ByClass, Mark, Moment};
    use crate::bench::measure::Spread;

    fn mark(number: u8, el2: u64, exits: u64) -> Mark {
        let all = ByClass { el2, ..ByClass::default() };
        Mark { number, at: Moment { vcpu: 0, all, own: all }, exits }
    }

    #[test]
    fn a_sample_is_what_lies_between_its_two_markers() {
        let marks = [
            mark(0x70, 100, 1),
            mark(0x71, 150, 3),
            mark(0x70, 200, 3),
            mark(0x71, 220, 4),
            mark(0x72, 230, 4),
            mark(0x70, 300, 4),
        ];
        let mut marks = marks.iter();
        let samples = samples(&mut marks).expect("a good row");
        let seen: Vec<_> = samples.iter().map(|sample| (sample.by.el2, sample.exits)).collect();
        assert_eq!((seen, marks.len()), (vec![(50, 2), (20, 1)], 1));
    }

    #[test]
    fn markers_out_of_order_are_an_error() {
        for wrong in [&[mark(0x71, 0, 0)][..], &[mark(0x70, 0, 0), mark(0x72, 0, 0)], &[]] {
            assert!(samples(&mut wrong.iter()).is_err());
        }
    }

    #[test]
    fn a_figure_is_for_one_operation_or_for_many() {
        let sample = |exits| Sample { by: ByClass::default(), exits };
        let row = Row { name: "x".to_owned(), each: 64, samples: vec![sample(3), sample(64)] };
        assert_eq!(row.spread(1, |it| it.exits), Spread { min: 1, median: 1, max: 1 });
        assert_eq!(row.spread(1000, |it| it.exits), Spread { min: 47, median: 1000, max: 1000 });
    }
}
