//! The guests of [`virtio`] without Plinth: on QEMU's board, with QEMU's devices in the same slots.
//!
//! Two guests are two boards, whose network cards are the ends of one wire. Each has a time of its own, and how many
//! frames one interrupt tells of depends on the PC: what they take differs a little from run to run.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::bare;
use super::count::Mark;
use super::counted::{Counter, Run};
use super::measure::LIMIT;
use super::virtio::{self, ANSWERED, Row, Sample};
use crate::board::Hardware;
use crate::guest::Payload;
use crate::qemu;

/// The driver chooses among the formats, as with Plinth's.
const FORMATS: &str = "packed=on,in_order=on";

/// A guest with a disk and two network cards at a hub.
pub fn alone(counter: &Counter, gic: u8, guest: &Payload, tree: &[u8], disk: &Path) -> Result<Run> {
    let mut more = modern();
    more.push("-drive".to_owned());
    more.push(format!("file={},if=none,id=disk,format=raw", qemu::value(disk)));
    more.push("-device".to_owned());
    more.push(format!("virtio-blk-device,drive=disk,bus=virtio-mmio-bus.0,{FORMATS}"));
    for number in [1, 2] {
        more.extend(card(number, number, &format!("hubport,id=port{number},hubid=0")));
    }
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let image = bare::image(guest, tree)?;
    counter.bare(&hardware(gic, guest), &image, &more, LIMIT).context("virtio devices of QEMU's")
}

/// Two guests with a card each, the one that measures first, each with the device tree that it had on Plinth: what an
/// operation takes both.
pub fn between(
    counter: &Counter,
    gic: u8,
    guests: [&Payload; 2],
    trees: [&[u8]; 2],
) -> Result<Vec<Row>> {
    let [first, second] = guests;
    let image = |guest: &Payload, tree: &[u8]| bare::image(guest, tree);
    let images = [image(first, trees[0])?, image(second, trees[1])?];
    let more = |port: usize, wire| {
        let wire = format!("stream,id=port{port},addr.type=fd,addr.str={wire}");
        [modern(), card(0, port, &wire)].concat()
    };
    let images = [images[0].as_slice(), &images[1]];
    let [measures, other] = counter
        .bare_pair(&hardware(gic, first), images, more, LIMIT)
        .context("two boards of QEMU's")?;
    let mut rows = virtio::rows(&measures)?;
    with_answers(&mut rows, &other.counts.marks)?;
    Ok(rows)
}

/// Adds what the other guest executed for each sample: from where it had answered what came before to where it had answered
/// this. What each row begins with is for nothing, and is answered, too.
fn with_answers(rows: &mut [Row], theirs: &[Mark]) -> Result<()> {
    let mut answers = theirs.iter().filter(|mark| mark.number == ANSWERED);
    let mut next = || answers.next().context("the other guest has not answered all");
    for row in rows {
        let mut before = next()?;
        for Sample { by, .. } in &mut row.samples {
            let answered = next()?;
            *by = *by + (answered.at.own - before.at.own);
            before = answered;
        }
    }
    if answers.next().is_some() {
        bail!("the other guest has answered more than there was");
    }
    Ok(())
}

fn modern() -> Vec<String> {
    ["-global", "virtio-mmio.force-legacy=false"].map(str::to_owned).to_vec()
}

/// A card with this number in a slot, whose other end is `peer`.
fn card(slot: usize, number: usize, peer: &str) -> Vec<String> {
    let device = format!(
        "virtio-net-device,netdev=port{number},bus=virtio-mmio-bus.{slot},\
         mac=02:00:00:00:00:0{number},{FORMATS}"
    );
    ["-netdev".to_owned(), peer.to_owned(), "-device".to_owned(), device].to_vec()
}

fn hardware(gic: u8, guest: &Payload) -> Hardware {
    Hardware { memory: guest.memory, ..virtio::hardware(gic) }
}

#[cfg(test)]
mod tests {
    use super::with_answers;
    use crate::bench::count::{ByClass, Mark, Moment};
    use crate::bench::virtio::{ANSWERED, Row, Sample};

    fn answered(el1: u64) -> Mark {
        let own = ByClass { el1, ..ByClass::default() };
        Mark { number: ANSWERED, at: Moment { vcpu: 0, all: own, own }, exits: 0 }
    }

    fn row(samples: &[u64]) -> Row {
        let sample = |&el1: &u64| Sample { by: ByClass { el1, ..ByClass::default() }, exits: 0 };
        Row { name: "x".to_owned(), each: 1, samples: samples.iter().map(sample).collect() }
    }

    #[test]
    fn what_the_other_guest_executes_is_added_sample_by_sample() {
        let mut rows = [row(&[1000, 2000]), row(&[3000])];
        let theirs = [7, 17, 37, 50, 90].map(answered);
        with_answers(&mut rows, &theirs).expect("as many answers as there should be");
        let sums = rows.map(|row| row.samples.iter().map(|it| it.by.el1).collect::<Vec<_>>());
        assert_eq!(sums, [vec![1010, 2020], vec![3040]]);
    }

    #[test]
    fn too_few_answers_and_too_many_are_errors() {
        for answers in [2, 4] {
            let theirs: Vec<_> = (0..answers).map(answered).collect();
            assert!(with_answers(&mut [row(&[1, 2])], &theirs).is_err(), "{answers}");
        }
    }
}
