//! Claims about what is saved of a transport, made with a device that has no state of its own.

use alloc::string::ToString;

use super::super::tests::{Increment, Tested, device};
use super::super::{Device, register};
use super::*;
use crate::firmware::entropy::Entropy;
use crate::testing::{carried, ram};
use crate::time::Ticks;
use crate::virtio::entropy::EntropyDevice;

const BASE: u64 = 0x4000_0000;

impl Save for Increment {
    type State = ();

    fn save(&self) {}

    fn restore(&mut self, (): (), _queues: &[SavedQueue]) -> Result<(), Unfit> {
        Ok(())
    }
}

/// A device with more to do than it does at one go.
fn busy() -> Tested {
    let mut device = device();
    device.start();
    device.offer(4);
    device.set(register::QUEUE_NOTIFY, 0);
    assert_eq!(device.used(), 3);
    device
}

/// Another one over the same RAM.
fn other(device: Tested) -> Tested {
    let Tested { queues, .. } = device;
    let queues = alloc::sync::Arc::into_inner(queues).expect("nobody else has them");
    Transport::new(Increment, queues.into_ram(), "test".into())
}

#[test]
fn what_is_left_to_do_is_done_by_the_device_that_goes_on() {
    let device = busy();
    let saved = carried(&device.save());
    let mut other = other(device);
    other.restore(saved.clone()).unwrap();
    assert_eq!(other.save(), saved);
    assert_eq!((other.get(register::STATUS), other.irq_level()), (15, true));
    assert_eq!(other.deadline(), Some(Ticks(0)));
    other.advance(Ticks(0));
    assert_eq!((other.used(), other.deadline()), (4, None));
    // And what comes then.
    other.set(register::INTERRUPT_ACK, 1);
    other.offer(2);
    other.set(register::QUEUE_NOTIFY, 0);
    assert_eq!((other.used(), other.irq_level()), (6, true));
}

#[test]
fn what_others_have_found_broken_is_told_where_the_device_goes_on() {
    let device = busy();
    device.queues().set_broken(Bad::TooLong);
    let saved = carried(&device.save());
    let mut other = other(device);
    other.restore(saved).unwrap();
    assert_eq!((other.get(register::STATUS), other.queues().features()), (15 | 64, 0));
    assert_eq!(other.get(register::INTERRUPT_STATUS), 3);
}

#[test]
fn what_no_driver_can_bring_about_is_refused_with_the_reason() {
    type Change = fn(&mut Saved<()>);
    let changes: [(Change, &str); 13] = [
        (|saved| saved.registers.status |= 16, "its status is 0x1f, which cannot be"),
        (|saved| saved.registers.status = 4, "its status is 0x4, which cannot be"),
        (
            |saved| saved.registers.driver_features |= 1,
            "its driver has features 0x100000001, which the device does not offer so",
        ),
        (
            |saved| saved.registers.driver_features = 0,
            "its driver has features 0x0, which the device does not offer so",
        ),
        (|saved| saved.queues.truncate(1), "it has 1 queues, and the device 2"),
        (|saved| saved.interrupt = 4, "its interrupt status is 0x4, which cannot be"),
        (
            |saved| saved.registers.places[0].descriptors += 16,
            "queue 0 cannot be as it says, or not where it says",
        ),
        (
            |saved| saved.registers.places[0].size = 16,
            "queue 0 cannot be as it says, or not where it says",
        ),
        (|saved| saved.registers.status = 3, "queue 0 cannot be as it says, or not where it says"),
        (
            |saved| saved.queues[0].in_hand = Some(Chain::default()),
            "queue 0 has a chain in hand that cannot be its own",
        ),
        (
            |saved| saved.queues[1].in_hand = Some(Chain::default()),
            "queue 1 has a chain in hand that cannot be its own",
        ),
        (
            |saved| saved.registers.busy = 4,
            "there is work to do in queues 0x4, which the device does not do",
        ),
        (
            |saved| saved.registers.status |= 64,
            "there is work to do in queues 0x1, which the device does not do",
        ),
    ];
    let device = busy();
    let saved = device.save();
    let mut other = other(device);
    for (change, reason) in changes {
        let mut saved = saved.clone();
        change(&mut saved);
        assert_eq!(other.restore(saved).unwrap_err().to_string(), reason);
        assert_eq!((other.get(register::STATUS), other.irq_level()), (0, false));
    }
    other.restore(saved).unwrap();
}

#[test]
fn a_generator_of_random_bytes_is_not_saved() {
    let generator = Entropy::from_seed(&[7; 32]).unwrap();
    let mut device = Transport::new(EntropyDevice::new(generator), ram(BASE, 4), "test".into());
    let saved = device.save();
    assert!(postcard::to_allocvec(&saved.backend).unwrap().is_empty());
    device.restore(saved).unwrap();
}
