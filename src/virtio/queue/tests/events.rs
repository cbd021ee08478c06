//! When the driver is interrupted, and the device notified.

use proptest::prelude::*;

use super::super::*;
use super::{formats, of, one, ram};
use crate::testing::{cases, pick};

proptest! {
    #![proptest_config(cases(256, 1))]

    /// With an event, exactly when that is passed; without, whenever there is something.
    #[test]
    fn the_driver_is_interrupted_when_it_wants(
        (negotiated, size) in formats(),
        steps in prop::collection::vec((1u16..5, prop::option::of(0u16..6)), 1..pick(60, 8)),
    ) {
        let ram = ram();
        let (mut queue, mut driver) = of(negotiated, size, &ram);
        let Negotiated { event_index, packed, .. } = negotiated;
        let mut chain = Chain::default();
        // Counts of chains that were used, from the start.
        let (mut at, mut event) = (0, 0);
        for (count, wanted) in steps {
            let count = count.min(size);
            let after = wanted.map(|after| after.min(size));
            event = after.map_or(event, |after| at + u32::from(after));
            for _ in 0..count {
                driver.offer(&ram, &one()).unwrap();
            }
            driver.show(&ram);
            prop_assert!(!driver.want_interrupt(&ram, after));
            for _ in 0..count {
                prop_assert_eq!(queue.take(&ram, &mut chain), Ok(true));
                queue.give_back(&ram, chain.head, 0).unwrap();
            }
            let interrupted = queue.publish(&ram).unwrap();
            // In a split ring the last event stays where it was.
            let has_event = event_index && (after.is_some() || !packed);
            let passed = (at..at + u32::from(count)).contains(&event);
            prop_assert_eq!(interrupted, if has_event { passed } else { after.is_some() });
            at += u32::from(count);
            prop_assert_eq!(queue.publish(&ram), Ok(false));
            prop_assert_eq!(core::iter::from_fn(|| driver.used(&ram)).count(), usize::from(count));
        }
    }

    #[test]
    fn the_device_is_notified_once_for_what_it_asked_for(
        (negotiated, size) in formats(), counts in prop::collection::vec(1u16..5, 1..pick(60, 8)),
    ) {
        let ram = ram();
        let (mut queue, mut driver) = of(negotiated, size, &ram);
        let mut chain = Chain::default();
        for count in counts {
            let count = count.min(size);
            prop_assert_eq!(queue.want_notification(&ram, true), Ok(false));
            for number in 0..count {
                driver.offer(&ram, &one()).unwrap();
                prop_assert_eq!(driver.show(&ram), number == 0 || !negotiated.event_index);
            }
            prop_assert_eq!(queue.want_notification(&ram, true), Ok(true));
            queue.want_notification(&ram, false).unwrap();
            prop_assert!(!driver.show(&ram));
            for _ in 0..count {
                prop_assert_eq!(queue.take(&ram, &mut chain), Ok(true));
                queue.give_back(&ram, chain.head, 0).unwrap();
            }
            queue.publish(&ram).unwrap();
            while driver.used(&ram).is_some() {}
        }
    }
}
