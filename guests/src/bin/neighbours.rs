//! Does each of many guests on a switch reach those that it shall, byte by byte, and hear nobody else, though their cards are
//! begun anew again and again?
//!
//! A guest's number is its address's last byte. Its command line says by sets of numbers, in hexadecimal, with whom it talks:
//! `peers=fffe`, and to which of them with a tag: `tag10=f0 tag20=f00`. Each sends frames to each, the next one when the one
//! before was acknowledged.

#![no_std]
#![no_main]

use guests::mmio::{read8, read16, write8};
use guests::report::Report;
use guests::sysreg::{mask_interrupts, unmask_interrupts};
use guests::timer::{ENABLE, Timer, microseconds, now};
use guests::virtio::split::{Descriptor, Split, WRITE};
use guests::virtio::{Device, kind, memory};
use guests::{gic, instruction, interrupt, machine, println};

guests::payload!(main);

/// Guests have numbers below it.
const MOST: usize = 32;
/// How many frames go to each peer, where the command line does not say `rounds=`.
const ROUNDS: u16 = 24;
/// After how many frames that came a guest begins its card anew.
const BEGIN_AFTER: u32 = 150;
const QUEUE: u16 = 64;
const ROOM: u64 = 2048;
/// What stands before each packet.
const HEADER: u64 = 12;
const KIND: u16 = 0x88b5;
const TAGGED: u16 = 0x8100;
const DATA: u8 = 1;
const ACK: u8 = 2;

/// When what was not acknowledged is sent again, and how long a guest that has done all listens, in microseconds.
const AGAIN: u64 = 50_000;
const LINGER: u64 = 3_000_000;
const TOO_LONG: u64 = 90_000_000;

struct Guest {
    card: Device,
    number: u8,
    receive: Split,
    transmit: Split,
    rooms: u64,
    frames: u64,
    peers: u32,
    rounds: u16,
    tags: [u16; MOST],
    /// What was acknowledged by each, and what came from each.
    acknowledged: [u16; MOST],
    came: [u16; MOST],
    wrong: u32,
    strangers: u32,
    begun: u32,
}

fn argument(name: &str) -> Option<u32> {
    let tree = machine::tree();
    let arguments = tree.chosen().bootargs().unwrap_or_default();
    let word = arguments.split(' ').find_map(|word| word.strip_prefix(name))?;
    u32::from_str_radix(word, 16).ok()
}

fn main(report: &mut Report) {
    let Some(card) = Device::find(kind::NET, 0) else {
        return report.skip("others are reached", "there is no network card");
    };
    gic::init();
    interrupt::take();
    interrupt::on(card.intid(), |acknowledged| {
        Device { slot: (gic::intid(acknowledged) - 48) as u16 }.acknowledge();
    });
    interrupt::on(Timer::Virtual.intid(), |_| Timer::Virtual.set_ctl(0));
    gic::set_edge(card.intid(), true);
    gic::enable(card.intid());
    gic::enable(Timer::Virtual.intid());
    unmask_interrupts();
    let [receive, transmit] = [0; 2].map(|_: i32| Split::new(QUEUE, false));
    let [rooms, frames] = [0; 2].map(|_: i32| memory::take(ROOM * u64::from(QUEUE), 64));
    let mut tags = [0; MOST];
    for (vid, name) in [(10, "tag10="), (20, "tag20=")] {
        let set = argument(name).unwrap_or(0);
        tags.iter_mut().enumerate().filter(|(at, _)| set >> at & 1 != 0).for_each(|it| *it.1 = vid);
    }
    let (zeros, peers) = ([0; MOST], argument("peers=").unwrap_or(0));
    let mut guest = Guest {
        card,
        number: card.config8(5),
        receive,
        transmit,
        rooms,
        frames,
        peers,
        rounds: argument("rounds=").map_or(ROUNDS, |rounds| rounds as u16),
        tags,
        acknowledged: zeros,
        came: zeros,
        wrong: 0,
        strangers: 0,
        begun: 0,
    };
    if peers == 0 {
        return report.skip("others are reached", "nobody is named");
    }
    guest.peers &= !(1 << guest.number);
    println!("neighbours: {} begins", guest.number);
    let done = guest.talk();
    println!("neighbours: the card was begun {} times", guest.begun);
    let got = (guest.acknowledged, guest.came);
    report.holds("all frames arrive, and those of all others", done, got);
    report.equal("byte by byte", guest.wrong, 0);
    report.equal("and none of anybody else's", guest.strangers, 0);
    report.holds("with cards that are begun anew meanwhile", guest.begun > 1, guest.begun);
}

/// The bytes of a frame from one guest to another.
fn byte(from: u8, to: u8, round: u16, at: u64) -> u8 {
    (u64::from(from) * 31 + u64::from(to) * 17 + u64::from(round) * 7 + at * 3) as u8
}

/// Frames are of all lengths.
fn length(from: u8, to: u8, round: u16) -> u64 {
    46 + (u64::from(from) * 97 + u64::from(to) * 61 + u64::from(round) * 59) % 1400
}

impl Guest {
    fn is_peer(&self, number: usize) -> bool {
        number < MOST && self.peers >> number & 1 != 0
    }

    fn all(&self, counts: &[u16; MOST]) -> bool {
        (0..MOST).all(|at| !self.is_peer(at) || counts[at] >= self.rounds)
    }

    /// Sends and listens until all is done. Whether it is.
    fn talk(&mut self) -> bool {
        self.begin();
        let (start, mut handled) = (now(), 0);
        let (mut again, mut last) = (now(), now());
        loop {
            let time = now();
            let done = self.all(&self.acknowledged) && self.all(&self.came);
            if done && time - last > microseconds(LINGER) {
                return true;
            }
            if time - start > microseconds(TOO_LONG) {
                return done;
            }
            if time >= again {
                (0..MOST as u8).for_each(|to| self.send_next(to));
                // Somebody who is not meant to hear this listens as well.
                self.send(0xff, DATA, 0);
                again = time + microseconds(AGAIN);
            }
            if !self.wait(again) {
                continue;
            }
            while let Some(used) = self.receive.take_used() {
                let at = self.rooms + ROOM * u64::from(used.id);
                if self.take_in(at, u64::from(used.written)) {
                    last = now();
                }
                self.receive.offer(used.id);
                handled += 1;
            }
            self.receive.show();
            if handled >= BEGIN_AFTER {
                handled = 0;
                self.begin();
            }
        }
    }

    /// Sleeps until something has come, or until then. Whether something has come.
    fn wait(&self, until: u64) -> bool {
        mask_interrupts();
        if self.receive.used_index() == self.receive.seen {
            Timer::Virtual.set_cval(until);
            Timer::Virtual.set_ctl(ENABLE);
            instruction!("wfi");
        }
        unmask_interrupts();
        self.receive.used_index() != self.receive.seen
    }

    /// The card as if it were new.
    fn begin(&mut self) {
        self.begun += 1;
        self.card.negotiate(0).expect("the card agrees");
        for queue in [&mut self.receive, &mut self.transmit] {
            queue.restart();
        }
        for (index, it) in [(0, &self.receive), (1, &self.transmit)] {
            assert!(self.card.place(index, QUEUE, it.table, it.avail, it.used), "a queue is ready");
        }
        for number in 0..QUEUE {
            let address = self.rooms + ROOM * u64::from(number);
            let buffer = Descriptor { address, size: ROOM as u32, flags: WRITE, next: 0 };
            self.receive.describe(number, buffer);
            self.receive.offer(number);
        }
        self.receive.show();
        self.card.start();
    }

    /// What `to` has not acknowledged.
    fn send_next(&mut self, to: u8) {
        let round = self.acknowledged[usize::from(to)];
        if self.is_peer(to.into()) && round < self.rounds {
            self.send(to, DATA, round);
        }
    }

    /// Sends to a guest, or with 0xff to everybody.
    fn send(&mut self, to: u8, what: u8, round: u16) {
        while self.transmit.take_used().is_some() {}
        if self.transmit.offered.wrapping_sub(self.transmit.seen) >= QUEUE {
            return; // It is sent again.
        }
        let head = self.transmit.offered % QUEUE;
        let start = self.frames + ROOM * u64::from(head);
        (0..HEADER).for_each(|at| write8(start + at, 0));
        let mut at = start + HEADER;
        let mut put = |byte| {
            write8(at, byte);
            at += 1;
        };
        let everybody = to == 0xff;
        let station = |number| [0x52, 0x54, 0, 0, 0, number];
        let destination = if everybody { [0xff; 6] } else { station(to) };
        destination.into_iter().chain(station(self.number)).for_each(&mut put);
        let tag = self.tags.get(usize::from(to)).copied().unwrap_or(0);
        if tag != 0 {
            [TAGGED, tag].iter().flat_map(|word| word.to_be_bytes()).for_each(&mut put);
        }
        KIND.to_be_bytes().into_iter().for_each(&mut put);
        [what, to, round.to_be_bytes()[0], round.to_be_bytes()[1]].into_iter().for_each(&mut put);
        let size = if what == DATA && !everybody { length(self.number, to, round) } else { 46 };
        (0..size).for_each(|n| put(byte(self.number, to, round, n)));
        let whole = (at - start) as u32;
        self.transmit.describe(head, Descriptor { address: start, size: whole, flags: 0, next: 0 });
        self.transmit.offer(head);
        if self.transmit.show() {
            self.card.notify(1);
        }
    }

    /// Looks at a frame. Whether somebody wanted an answer.
    fn take_in(&mut self, start: u64, written: u64) -> bool {
        let word = |at: u64| read16(at).swap_bytes();
        let frame = start + HEADER;
        let from = read8(frame + 11);
        let tag = if word(frame + 12) == TAGGED { word(frame + 14) & 0xfff } else { 0 };
        let body = frame + if tag == 0 { 12 } else { 16 };
        if word(body) != KIND {
            return false;
        }
        if !self.is_peer(from.into()) {
            self.strangers += 1;
            return false;
        }
        let (what, to, round) = (read8(body + 2), read8(body + 3), word(body + 4));
        if to == 0xff {
            return false;
        }
        let size = if what == DATA { length(from, to, round) } else { 46 };
        let same = (0..size).all(|at| read8(body + 6 + at) == byte(from, to, round, at));
        let right = to == self.number && tag == self.tags[usize::from(from)] && same;
        if !right || written != body + 6 + size - start {
            self.wrong += 1;
            return false;
        }
        let peer = usize::from(from);
        match what {
            DATA => {
                if round == self.came[peer] {
                    self.came[peer] += 1;
                }
                if round < self.came[peer] {
                    self.send(from, ACK, round);
                }
                true
            }
            _ => {
                if round == self.acknowledged[peer] {
                    self.acknowledged[peer] += 1;
                    self.send_next(from);
                }
                false
            }
        }
    }
}
