//! A balloon that is saved at any moment, and restored, against one that is not.

use proptest::prelude::*;

use super::*;
use crate::testing::{carried, damaged, pick};
use crate::virtio::balloon::saved::SavedBalloon;
use crate::virtio::transport::saved::{Save, Saved, Unfit};

#[derive(Clone, Debug)]
enum Step {
    /// Names so many pages from one on, in buffers of so many bytes; some of them go into the balloon, or out of it.
    Name(usize, u64, u32, usize),
    Report(Vec<(u64, u32)>),
    Tell(u64),
    Ask,
    Aim(u64),
    Confess(u32),
    Notify(usize),
    Advance,
    Touch(usize),
    Settle,
    /// The one is saved and restored here.
    Here,
}

const ALL: [usize; 4] = [INFLATE, DEFLATE, STATISTICS, REPORTING];

impl Guest {
    fn offer_quietly(&mut self, queue: usize, offer: &Offer) {
        // It does not have room for more than so many at a time.
        let _ = self.drivers[queue].offer(self.ram.get().unwrap(), offer);
    }

    fn say(&mut self, queue: usize, bytes: &[u8], cut: usize) {
        let at = TEXTS + 0x4000 * queue as u64;
        self.ram.get().unwrap().write_from(Ipa::new(at), bytes).unwrap();
        let mut next = at;
        let sizes = bytes.chunks(cut).map(|chunk| u32::try_from(chunk.len()).unwrap());
        let buffer = |size| {
            let ipa = Ipa::new(next);
            next += u64::from(size);
            Buffer { ipa, size }
        };
        let readable = sizes.map(buffer).collect();
        self.offer_quietly(queue, &Offer { readable, ..Offer::default() });
    }

    fn act(&mut self, step: &Step, saves: bool) {
        match step {
            Step::Name(queue, from, count, cut) => {
                let first = BASE / PAGE_SIZE + PAGES + from;
                let numbers = (0..u64::from(*count)).map(|page| u32::try_from(first + page));
                let bytes: Vec<_> = numbers.flat_map(|page| page.unwrap().to_le_bytes()).collect();
                self.say(*queue, &bytes, (*cut).max(bytes.len().div_ceil(3)).max(1));
            }
            Step::Report(ranges) => {
                let buffer = |(at, size): &(u64, u32)| Buffer { ipa: Ipa::new(*at), size: *size };
                let writable = ranges.iter().map(buffer).collect();
                self.offer_quietly(REPORTING, &Offer { writable, ..Offer::default() });
            }
            Step::Tell(value) => {
                let bytes = [&[4, 0][..], &value.to_le_bytes()].concat();
                self.say(STATISTICS, &bytes, 16);
            }
            Step::Ask => {
                self.shared.ask();
                self.device.signal(Signal::Input, NOW);
            }
            Step::Aim(size) => {
                self.shared.set_target(*size);
                self.device.signal(Signal::Input, NOW);
            }
            Step::Confess(actual) => self.set(0x100 + ACTUAL, (*actual).into()),
            Step::Notify(queue) => {
                if self.drivers[*queue].show(self.ram.get().unwrap()) {
                    self.set(0x050, *queue as u64);
                }
            }
            Step::Advance => self.device.advance(NOW),
            Step::Touch(unit) => self.fill(*unit),
            Step::Settle => self.room.settle(),
            Step::Here if saves => {
                self.save_and_restore();
                self.device.advance(NOW);
            }
            Step::Here => self.device.signal(Signal::Input, NOW),
        }
    }

    fn save_and_restore(&mut self) {
        let saved = carried(&self.device.save());
        self.device = self.another();
        self.device.restore(saved).unwrap();
    }

    fn another(&self) -> Transport<Balloon, SharedRam> {
        let device = Balloon::new(RAM, self.shared.clone());
        Transport::new(device, self.ram.clone(), "test".into())
    }

    /// Whatever is left to do is done; what has come back by then.
    fn all_back(&mut self) -> Vec<(usize, u16, u32)> {
        let mut back = Vec::new();
        for _ in 0..2 {
            ALL.iter().for_each(|queue| self.act(&Step::Notify(*queue), false));
            self.go_on();
            for queue in ALL {
                while let Some((id, written)) = self.drivers[queue].used(self.ram.get().unwrap()) {
                    back.push((queue, id, written));
                }
            }
        }
        back
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Not what the rings are in.
    let pages = (UNITS as u64 - 1) * PAGES;
    let name = (0usize..2, 0..pages, 1u32..pick(600, 20), 1usize..3000);
    let whole = (0usize..2, 0..UNITS as u64 - 1)
        .prop_map(|(queue, unit)| Step::Name(queue, unit * PAGES, 512, 4096));
    let range = prop_oneof![
        3 => (1..UNITS as u64, 1..3u32).prop_map(|(unit, count)| (at(unit), count << 21)),
        1 => (at(1)..at(UNITS as u64), 1..3u32 << 21),
    ];
    let step = prop_oneof![
        3 => name.prop_map(|(queue, from, count, cut)| Step::Name(queue, from, count, cut)),
        3 => whole,
        3 => prop::collection::vec(range, 1..4).prop_map(Step::Report),
        2 => any::<u64>().prop_map(Step::Tell),
        1 => Just(Step::Ask),
        1 => (0..RAM).prop_map(Step::Aim),
        1 => any::<u32>().prop_map(Step::Confess),
        6 => prop::sample::select(&ALL[..]).prop_map(Step::Notify),
        4 => Just(Step::Advance),
        1 => (1..UNITS).prop_map(Step::Touch),
        1 => Just(Step::Settle),
        4 => Just(Step::Here),
    ];
    prop::collection::vec(step, 1..pick(60, 6))
}

proptest! {
    #![proptest_config(crate::testing::cases(48, 1))]

    #[test]
    fn a_balloon_that_is_saved_and_restored_goes_on_as_if_it_had_not_been(
        packed: bool, steps in steps(),
    ) {
        let [mut reference, mut saved] = [0; 2].map(|_| Guest::new(packed));
        for step in &steps {
            reference.act(step, false);
            saved.act(step, true);
            prop_assert_eq!(reference.device.save(), saved.device.save());
        }
        prop_assert_eq!(reference.all_back(), saved.all_back());
        prop_assert_eq!(reference.device.save(), saved.device.save());
        prop_assert_eq!(reference.holes(), saved.holes());
        let told = |guest: &Guest| (guest.shared.statistic(4), guest.shared.actual());
        prop_assert_eq!(told(&reference), told(&saved));
        reference.end();
        saved.end();
    }

    /// Whatever somebody has made of what was saved: it is refused, or harms nobody but the guest.
    #[test]
    fn no_state_that_is_restored_makes_it_panic(
        packed: bool, steps in steps(), more in steps(),
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..5),
    ) {
        let mut guest = Guest::new(packed);
        steps.iter().for_each(|step| guest.act(step, false));
        if let Some(saved) = damaged(&guest.device.save(), &changes) {
            let restored = guest.device.restore(saved);
            if let Err(why) = restored {
                prop_assert!(!why.to_string().is_empty());
                prop_assert_eq!(guest.get(0x070), 0);
            }
            more.iter().for_each(|step| guest.act(step, false));
        }
        guest.end();
    }
}

/// A balloon in the middle of a chain, that keeps statistics.
fn in_the_middle() -> Guest {
    let mut guest = Guest::new(false);
    for step in [
        Step::Tell(5),
        Step::Notify(STATISTICS),
        Step::Name(INFLATE, 0, 512, 4096),
        Step::Notify(INFLATE),
    ] {
        guest.act(&step, false);
    }
    guest
}

fn saved(guest: &Guest) -> Saved<SavedBalloon> {
    guest.device.save()
}

#[test]
fn a_chain_that_is_half_done_is_saved_and_ended_where_it_is_restored() {
    let mut guest = in_the_middle();
    assert!(saved(&guest).queues()[INFLATE].in_hand().is_some(), "its chain is in hand");
    guest.save_and_restore();
    assert_eq!(guest.holes(), []);
    guest.go_on();
    assert!(guest.drivers[INFLATE].used(guest.ram.get().unwrap()).is_some());
    assert_eq!(guest.holes(), [1]);
    guest.shared.ask();
    guest.device.signal(Signal::Input, NOW);
    assert!(guest.drivers[STATISTICS].used(guest.ram.get().unwrap()).is_some(), "they were kept");
    guest.end();
}

#[test]
fn what_cannot_be_its_state_is_refused_with_the_reason_and_leaves_a_device_that_is_reset() {
    let guest = in_the_middle();
    let other = Balloon::new(RAM + 2 * UNIT, guest.shared.clone());
    let mut other = Transport::new(other, guest.ram.clone(), "test".into());
    let why = other.restore(saved(&guest)).unwrap_err();
    assert_eq!(why, Unfit::Device("it is the balloon of a guest with other RAM"));
    assert_eq!(other.read(0x070, Width::Word, NOW), 0);
    drop(other);
    let state = guest.device.backend().save();
    let refused = |change: fn(&mut SavedBalloon), features: u64| {
        let mut device = Balloon::new(RAM, guest.shared.clone());
        device.begin(features);
        let mut state = state.clone();
        change(&mut state);
        device.restore(state, saved(&guest).queues())
    };
    assert_eq!(refused(|_| (), 3), Ok(()));
    assert_eq!(refused(|state| state.progress[DEFLATE].offset = 4, 3), Err(Unfit::Chain(DEFLATE)));
    let why = Err(Unfit::Device("it keeps statistics that nobody has given it"));
    assert_eq!(refused(|_| (), 1), why, "the driver has no such queue");
    let none = |state: &mut SavedBalloon| state.statistics = Some(Head::default());
    assert_eq!(refused(none, 3), why);
    guest.end();
}
