//! Claims about cards with several pairs of queues.

use super::*;
use crate::net::DropReason;

const SEVERAL: u64 = feature::ALL | feature::MQ | feature::CTRL_VQ;

/// The first has so many vCPUs, and such features; the second is a card with one pair.
pub(super) fn one_with(vcpus: u8, features: u64) -> (Card, Card, Arc<Lan>, PortId) {
    let mut plan = Plan::default();
    plan.network(false).unwrap();
    let ports = [0, 1].map(|at| plan.join(0, PortConfig::new(mac(at))).unwrap());
    let switch = plan.build(Frequency(NonZeroU32::new(1000).unwrap())).unwrap();
    let lan = Arc::new(Lan::new(switch, || Ticks(5)));
    let bells = Arc::new(Doorbells::new(2));
    let bell = |vm| Doorbell::new(bells.clone(), VmId(vm), 0);
    let one = Card::with_vcpus(&lan, ports[0], mac(0), bell(0), features, vcpus);
    let other = Card::new(&lan, ports[1], mac(1), bell(1), feature::ALL);
    (one, other, lan, ports[0])
}

impl Card {
    /// Sends a command by queue `queue`, and gives the answer.
    fn command(&mut self, queue: usize, bytes: &[u8]) -> u8 {
        const ACK: u64 = SENT + 0x1_0000;
        let memory = self.ram.get().unwrap();
        memory.write_from(Ipa::new(SENT), bytes).unwrap();
        memory.write_from(Ipa::new(ACK), &[0xa5]).unwrap();
        let size = u32::try_from(bytes.len()).unwrap();
        // The class in a buffer of its own, as drivers have it.
        let readable = vec![
            Buffer { ipa: Ipa::new(SENT), size: 2.min(size) },
            Buffer { ipa: Ipa::new(SENT + 2), size: size.saturating_sub(2) },
        ];
        let writable = vec![Buffer { ipa: Ipa::new(ACK), size: 1 }];
        let driver = &mut self.more[queue - 2];
        driver
            .offer(self.ram.get().unwrap(), &Offer { readable, writable, indirect: false })
            .unwrap();
        driver.show(self.ram.get().unwrap());
        self.device.write(0x050, Width::Word, queue.try_into().unwrap(), NOW);
        assert_eq!(self.more[queue - 2].used(self.ram.get().unwrap()).unwrap().1, 1);
        let mut ack = [0];
        self.ram.get().unwrap().read_into(Ipa::new(ACK), &mut ack).unwrap();
        ack[0]
    }

    fn use_pairs(&mut self, pairs: u16, control: usize) -> u8 {
        self.command(control, &[&[4, 0][..], &pairs.to_le_bytes()].concat())
    }

    /// Offers receive buffers by pair `pair`, not the first.
    fn expect_by(&mut self, pair: usize, count: usize) {
        for _ in 0..count {
            let buffer = Buffer { ipa: Ipa::new(self.next), size: 2000 };
            self.next += 2000;
            let offer = Offer { writable: vec![buffer], ..Offer::default() };
            self.more[2 * pair - 2].offer(self.ram.get().unwrap(), &offer).unwrap();
        }
        self.more[2 * pair - 2].show(self.ram.get().unwrap());
    }

    /// How many frames have come in by each pair.
    fn came(&mut self, pairs: usize) -> Vec<usize> {
        let count = |driver: &mut Driver, ram: &SharedRam| {
            core::iter::from_fn(|| driver.used(ram.get().unwrap())).count()
        };
        let first = count(&mut self.receive, &self.ram);
        let rest = (1..pairs).map(|pair| count(&mut self.more[2 * pair - 2], &self.ram));
        core::iter::once(first).chain(rest).collect()
    }

    /// Sends a frame, all of it at once.
    fn bring(&mut self, frame: &[u8]) {
        self.send(&[0; 12], frame, &[]);
        self.go_on();
    }

    /// Sends by pair `pair`, not the first.
    fn send_by(&mut self, pair: usize, frame: &[u8]) {
        let bytes = [&[0; 12], frame].concat();
        self.ram.get().unwrap().write_from(Ipa::new(SENT), &bytes).unwrap();
        let size = u32::try_from(bytes.len()).unwrap();
        let offer =
            Offer { readable: vec![Buffer { ipa: Ipa::new(SENT), size }], ..Offer::default() };
        self.more[2 * pair - 1].offer(self.ram.get().unwrap(), &offer).unwrap();
        self.more[2 * pair - 1].show(self.ram.get().unwrap());
        self.device.write(0x050, Width::Word, (2 * pair + 1).try_into().unwrap(), NOW);
        self.go_on();
        assert!(self.more[2 * pair - 1].used(self.ram.get().unwrap()).is_some());
    }
}

/// UDP over IPv4 from one card to the other; the first has this port, the second 53.
fn udp(from: usize, port: u16) -> Vec<u8> {
    let mut frame = [&mac(1 - from).0[..], &mac(from).0, &[8, 0]].concat();
    let ends = [1, 2].map(|end| [10, 0, 0, end]);
    let mut ports = [port.to_be_bytes(), [0, 53]];
    if from == 1 {
        ports.reverse();
    }
    frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend([ends[from], ends[1 - from]].concat());
    frame.extend(ports.concat());
    frame.resize(60, 0);
    frame
}

#[test]
fn a_card_has_a_pair_for_each_vcpu_and_a_control_queue_behind_them() {
    for (vcpus, pairs) in [(1, 1), (2, 2), (4, 4), (16, 4)] {
        let (mut card, ..) = one_with(vcpus, feature::ALL);
        let several = pairs > 1;
        card.device.write(0x014, Width::Word, 0, NOW);
        let features = card.device.read(0x010, Width::Word, NOW);
        assert_eq!(features & feature::MQ != 0, several);
        assert_eq!(features & feature::CTRL_VQ != 0, several);
        assert_eq!(card.device.read(0x108, Width::Half, NOW), pairs);
        assert_eq!(card.device.queues().count() as u64, 2 * pairs + u64::from(several));
        assert_eq!(card.device.read(0x100, Width::Byte, NOW), 0x52);
        assert_eq!(card.device.read(0x105, Width::Byte, NOW), 0);
        assert_eq!(card.device.read(0x106, Width::Half, NOW), 1);
        assert_eq!(card.device.read(0x10a, Width::Half, NOW), 0);
    }
}

#[test]
fn so_many_pairs_are_used_as_the_driver_asks_for_and_nothing_else_is_taken_for_that() {
    let (mut card, ..) = one_with(4, SEVERAL);
    let steering = card.device.backend().steering().clone();
    for (pairs, ack, used) in [(2, 0, 2), (0, 1, 2), (4, 0, 4), (5, 1, 4), (256, 1, 4), (1, 0, 1)] {
        assert_eq!(card.use_pairs(pairs, 8), ack, "{pairs}");
        assert_eq!(steering.pairs(), used);
    }
    for wrong in [&[4, 0, 2][..], &[4, 1, 2, 0], &[0, 0, 1, 0], &[1, 1, 2, 3, 4, 5, 6, 7], &[4]] {
        assert_eq!(card.command(8, wrong), 1, "{wrong:?}");
        assert_eq!(steering.pairs(), 1);
    }
    assert_eq!(card.use_pairs(3, 8), 0);
    card.device.reset();
    assert_eq!(steering.pairs(), 1);
    // Without several pairs the control queue comes after the first.
    let (mut card, ..) = one_with(4, feature::ALL | feature::CTRL_VQ);
    assert_eq!(card.use_pairs(1, 2), 1);
}

#[test]
fn a_command_without_a_place_for_its_answer_needs_a_reset() {
    let (mut card, ..) = one_with(2, SEVERAL);
    card.ram.get().unwrap().write_from(Ipa::new(SENT), &[4, 0, 2, 0]).unwrap();
    let readable = vec![Buffer { ipa: Ipa::new(SENT), size: 4 }];
    card.more[2].offer(card.ram.get().unwrap(), &Offer { readable, ..Offer::default() }).unwrap();
    card.more[2].show(card.ram.get().unwrap());
    card.device.write(0x050, Width::Word, 4, NOW);
    assert_eq!(card.device.read(0x070, Width::Word, NOW) & 64, 64);
}

#[test]
fn a_conversation_comes_in_by_the_pair_that_its_guest_sends_it_by() {
    let (mut card, mut other, lan, port) = one_with(4, SEVERAL);
    other.expect(&[100; 64]);
    card.expect(&[2000; 30]);
    (1..4).for_each(|pair| card.expect_by(pair, 30));
    // Before the driver says that it uses them all comes in by the first.
    (0..8).for_each(|n| other.bring(&udp(1, 100 + n)));
    assert_eq!(card.came(4), [8, 0, 0, 0]);
    assert_eq!(card.use_pairs(4, 8), 0);
    (0..40).for_each(|n| other.bring(&udp(1, 100 + n)));
    let spread = card.came(4);
    assert_eq!(spread.iter().sum::<usize>(), 40);
    assert!(spread.iter().all(|count| *count > 0), "{spread:?}");
    for pair in [3, 1, 2] {
        (0..16).for_each(|_| card.send_by(pair, &udp(0, 100)));
        (0..3).for_each(|_| other.bring(&udp(1, 100)));
        let mut expected = [0; 4];
        expected[pair] = 3;
        assert_eq!(card.came(4), expected);
    }
    assert_eq!(core::iter::from_fn(|| other.received()).count(), 48);
    // One that has no buffers loses its frames, and the others get theirs.
    card.device.write(0x030, Width::Word, 4, NOW);
    card.device.write(0x0c0, Width::Word, 1, NOW);
    other.bring(&udp(1, 100));
    assert_eq!(lan.switch().counts(port).dropped(DropReason::NoRoom), 1);
    (0..16).for_each(|_| card.send_by(1, &udp(0, 100)));
    other.bring(&udp(1, 100));
    assert_eq!(card.came(4), [0, 1, 0, 0]);
}

#[test]
fn what_is_under_way_by_one_pair_does_not_hold_up_another() {
    let (mut card, mut other, ..) = one_with(2, SEVERAL);
    other.expect(&[2000; 40]);
    let long = [&mac(1).0[..], &mac(0).0, &[0x88, 0xb5], &[3; 40_000]].concat();
    let short = &long[..500];
    // The first is more than one go.
    card.send(&[0; 12], &long, &[]);
    card.send_by(1, short);
    card.go_on();
    assert!(card.sent().is_some());
    let mut got: Vec<_> = core::iter::from_fn(|| other.received()).map(|(_, it)| it).collect();
    got.sort_by_key(Vec::len);
    assert!(got == [short.to_vec(), long]);
}
