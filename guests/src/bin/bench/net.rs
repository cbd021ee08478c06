//! Frames between network cards ([`Card`]).
//!
//! Either one guest has both cards, or each of two has one. On CPUs of their own, the first says then how long a frame
//! takes from one's notification to the other's vector, as the mean of there and back: guests' counters differ, and in the
//! sum of both that is gone. On one CPU, the first sends many at a time, and waits until the other has them all in hand.
//!
//! A device that does not divide segments by itself gets their bytes in frames that a wire would carry.

use guests::mmio::{read64, write64};
use guests::virtio::ring::Ring;
use guests::virtio::split::Split;
use guests::{instruction, println, sysreg};

use crate::card::{Card, ETHERNET, SIZE};
use crate::sample::{SAMPLES, Samples};
use crate::{counted, vectors};

/// How many small frames are sent at one go.
const BULK: u16 = 64;
/// How many segments a row is of.
const SEGMENTS: u16 = 8;
/// How many of them a queue holds where each is many frames.
const IN_FRAMES: u16 = 4;

/// Where in a frame of two guests' is what one tells the other: when it was interrupted, and when it had sent before. Or,
/// of many frames, what to do when this one has come.
const WORDS: u64 = ETHERNET + 6;
const NOTHING: u64 = 0;
const ANSWER: u64 = 1;
/// The same at an operation's end, which is marked by who answers.
const ANSWER_COUNTED: u64 = 2;
const END: u64 = 3;
/// And the number of what is asked, which is in the answer.
const NUMBER: u64 = WORDS + 16;
/// How long is waited for the other guest at first, in ticks.
const PATIENCE: u64 = 20_000_000;

/// One guest that has both cards: all rows, by split queues.
pub fn measure() {
    let (Some(mut from), Some(mut to)) = (Card::<Split>::find(0), Card::find(1)) else {
        return println!("bench: there are no two network cards");
    };
    to.listen();
    counted::row("net-packet", 1, || packets(1, &mut from, &mut to));
    counted::row("net-packet-bulk", BULK.into(), || packets(BULK, &mut from, &mut to));
    counted::row("net-segment-64k", 1, || segments(1, &mut from, &mut to));
    let go = at_a_time(&from);
    counted::row("net-segment-64k-bulk", SEGMENTS.into(), || {
        for _ in 0..SEGMENTS / go {
            segments(go, &mut from, &mut to);
        }
    });
    to.ignore();
}

/// The same, those in which the format matters, by queues of one.
pub fn measure_by<R: Ring>(format: &str) {
    let (Some(mut from), Some(mut to)) = (Card::<R>::find(0), Card::find(1)) else {
        return println!("bench: there are no two network cards with queues {format}");
    };
    to.listen();
    counted::row(format_args!("net-packet-{format}"), 1, || packets(1, &mut from, &mut to));
    let bulk = format_args!("net-packet-bulk-{format}");
    counted::row(bulk, BULK.into(), || packets(BULK, &mut from, &mut to));
    to.ignore();
}

/// So many small frames at one go.
fn packets<R: Ring>(count: u16, from: &mut Card<R>, to: &mut Card<R>) {
    for _ in 0..count {
        from.small(to.mac(), 64);
    }
    from.show();
    to.take(count);
}

/// So many segments at one go.
fn segments<R: Ring>(count: u16, from: &mut Card<R>, to: &mut Card<R>) {
    let mut frames = 0;
    for _ in 0..count {
        frames += from.segment(to.mac(), |_| {});
    }
    from.show();
    to.take(frames);
}

/// How many segments are sent at one go.
fn at_a_time<R: Ring>(card: &Card<R>) -> u16 {
    if card.sends_segments() { SEGMENTS } else { IN_FRAMES }
}

/// The one that begins.
pub fn measure_pair() {
    let Some(mut card) = Card::<Split>::find(0) else {
        return println!("bench: there is no network card");
    };
    card.listen();
    let other = meet(&mut card);
    let (mut way, mut round) = (Samples::new(), Samples::new());
    let mut before = None;
    for index in 0..=SAMPLES + 1 {
        card.small(other, 64);
        let began = card.show();
        card.take(1);
        let answered = vectors::now();
        let taken = vectors::stamps().taken;
        // When the other one was interrupted, and when it had sent its answer before this one.
        let their_taken = read64(card.last() + WORDS);
        let their_sent = read64(card.last() + WORDS + 8);
        if let Some((taken, there)) = before
            && index > 1
        {
            let back = u64::wrapping_sub(taken, their_sent);
            way.add(u64::wrapping_add(there, back) / 2);
            round.add(answered.wrapping_sub(began) / 2);
        }
        before = Some((taken, their_taken.wrapping_sub(began)));
    }
    way.tell("net-packet-to-handler");
    round.tell("net-packet-between-guests");
    card.ignore();
}

/// The one that answers, for ever.
pub fn answer() -> ! {
    let mut card = Card::<Split>::find(0).expect("a network card");
    card.listen();
    let mut sent = 0;
    loop {
        card.take(1);
        let frame = reply(&mut card);
        write64(frame + WORDS, vectors::stamps().taken);
        write64(frame + WORDS + 8, sent);
        sent = card.show();
    }
}

/// The one that sends many at a time, and has them answered by one.
pub fn measure_stream() {
    let Some(mut card) = Card::<Split>::find(0) else {
        return println!("bench: there is no network card");
    };
    card.listen();
    let other = meet(&mut card);
    counted::row("net-stream", SIZE.into(), || {
        for left in (0..SIZE).rev() {
            let frame = card.small(other, 64);
            write64(frame + WORDS, if left == 0 { ANSWER_COUNTED } else { NOTHING });
        }
        card.show();
        card.take(1);
    });
    let go = at_a_time(&card);
    counted::row("net-stream-segment-64k", SEGMENTS.into(), || {
        for left in (0..SEGMENTS / go).rev() {
            for _ in 0..go {
                card.segment(other, |frame| write64(frame + WORDS, NOTHING));
            }
            ask(&mut card, other, if left == 0 { ANSWER_COUNTED } else { ANSWER });
        }
    });
    ask(&mut card, other, END);
    card.ignore();
}

/// Sends what asks for an answer, and waits for that.
fn ask(card: &mut Card<Split>, other: u64, word: u64) {
    let frame = card.small(other, 64);
    write64(frame + WORDS, word);
    card.show();
    card.take(1);
}

/// The one that takes them.
pub fn sink() {
    let mut card = Card::<Split>::find(0).expect("a network card");
    card.listen();
    loop {
        card.take_some();
        let word = read64(card.last() + WORDS);
        if word == NOTHING {
            continue;
        }
        reply(&mut card);
        card.show();
        match word {
            ANSWER_COUNTED => instruction!("hint #0x73"),
            END => return card.finish(),
            _ => {}
        }
    }
}

/// Offers an answer to the last frame that has come. Where it is.
fn reply(card: &mut Card<Split>) -> u64 {
    let (to, number) = (card.sender(), read64(card.last() + NUMBER));
    let frame = card.small(to, 64);
    write64(frame + NUMBER, number);
    frame
}

/// Sends frames to everybody until somebody answers the last one: who that is. No answer to an earlier one comes after that.
fn meet(card: &mut Card<Split>) -> u64 {
    for number in 1.. {
        let frame = card.small(0xffff_ffff_ffff, 64);
        write64(frame + WORDS, ANSWER);
        write64(frame + NUMBER, number);
        card.show();
        let until = vectors::now() + PATIENCE;
        let mut met = false;
        while vectors::now() < until {
            instruction!("yield");
            met |= card.taken() > 0 && read64(card.last() + NUMBER) == number;
        }
        if met {
            break;
        }
    }
    // What interrupted is over.
    sysreg::unmask_interrupts();
    instruction!("isb");
    sysreg::mask_interrupts();
    card.sender()
}
