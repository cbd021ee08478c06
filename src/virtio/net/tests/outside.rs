//! Claims about a network that goes on outside, through a card of the machine's that keeps what it gets.

use super::*;
use crate::host::uplink::MAX_FRAME;
use crate::host::{NotSent, Uplink};
use crate::net::DropReason;
use crate::sync::SpinMutex;

/// A card with so much room, and what it has sent.
struct Wire {
    room: usize,
    sent: SpinMutex<Vec<Vec<u8>>>,
}

impl Uplink for Wire {
    fn mac(&self) -> MacAddr {
        mac(99)
    }

    fn send(&self, make: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), NotSent> {
        let mut sent = self.sent.lock();
        if sent.len() >= self.room {
            return Err(NotSent::Full);
        }
        // What the card's buffer had before.
        let mut frame = vec![0xa5; MAX_FRAME];
        match make(&mut frame) {
            0 => Err(NotSent::Length),
            length => {
                frame.truncate(length);
                sent.push(frame);
                Ok(())
            }
        }
    }

    fn attend(&self, _receive: &mut dyn FnMut(&[u8])) {}
}

/// A guest's card on a network that goes on outside, through a card with so much room.
fn outside(room: usize) -> (Card, Arc<Lan>, Arc<Wire>, PortId) {
    let mut plan = Plan::default();
    plan.network(true).unwrap();
    let port = plan.join(0, PortConfig::new(mac(0))).unwrap();
    let switch = plan.build(Frequency(NonZeroU32::new(1000).unwrap())).unwrap();
    let lan = Arc::new(Lan::new(switch, || Ticks(5)));
    let wire = Arc::new(Wire { room, sent: SpinMutex::default() });
    let uplink = lan.switch().uplink(0).unwrap();
    lan.connect(uplink, wire.clone());
    let bell = Doorbell::new(Arc::new(Doorbells::new(1)), VmId(0), 0);
    (Card::new(&lan, port, mac(0), bell, feature::ALL), lan, wire, uplink)
}

#[test]
fn what_goes_outside_is_finished_frames_of_ordinary_length() {
    let (mut card, lan, wire, uplink) = outside(100);
    let (header, mut frame) = tcp(5000, 1460);
    frame[..6].copy_from_slice(&mac(1).0);
    card.send(&header, &frame, &[12, 54]);
    card.go_on();
    assert!(card.sent().is_some());
    let sent = wire.sent.lock();
    let payload: Vec<u8> = sent.iter().flat_map(|frame| &frame[54..]).copied().collect();
    assert!(payload == frame[54..]);
    assert_eq!(
        sent.iter().map(|frame| frame.len() - 54).collect::<Vec<_>>(),
        [1460, 1460, 1460, 620]
    );
    for frame in &*sent {
        assert_eq!(checksum(&frame[14..34]), 0);
        assert_eq!(checksum(&[&pseudo(frame)[..], &frame[34..]].concat()), 0);
    }
    let counts = lan.switch().counts(uplink);
    assert_eq!(counts.frames_out, 4);
}

#[test]
fn a_plain_frame_goes_outside_as_it_is() {
    let (mut card, _lan, wire, _) = outside(100);
    let frame = [&mac(1).0[..], &mac(0).0, &[0x88, 0xb5], &[3; 1000]].concat();
    card.send(&[0; 12], &frame, &[14]);
    card.go_on();
    assert!(*wire.sent.lock() == [frame]);
}

#[test]
fn what_finds_no_room_or_is_too_long_for_outside_is_lost_and_counted_and_the_next_goes_on() {
    let (mut card, lan, wire, uplink) = outside(2);
    let lost = || lan.switch().counts(uplink).dropped(DropReason::NoRoom);
    // Longer than a frame outside can be, with nothing that says how to divide it.
    let long = [&mac(1).0[..], &mac(0).0, &[0x88, 0xb5], &[3; 1600]].concat();
    card.send(&[0; 12], &long, &[]);
    card.go_on();
    assert!(card.sent().is_some() && wire.sent.lock().is_empty());
    assert_eq!(lost(), 1);
    let (header, frame) = tcp(5000, 1460);
    card.send(&header, &frame, &[]);
    card.go_on();
    assert!(card.sent().is_some());
    assert_eq!((wire.sent.lock().len(), lost()), (2, 2));
    wire.sent.lock().clear();
    card.send(&header, &frame, &[]);
    card.go_on();
    assert_eq!(wire.sent.lock().len(), 2);
}
