//! Any packet, and whatever its sender writes meanwhile.

use proptest::prelude::*;

use super::super::{MIN_SEGMENT, Segments, Sum};
use super::packet::{CHECKSUM, Packet, packets, slow};
use super::{all, from};
use crate::testing::cases;
use crate::virtio::net::header::Offload;

proptest! {
    #![proptest_config(cases(96, 1))]

    #[test]
    fn segments_are_those_that_their_sender_would_have_made(
        packet in packets(),
        size in prop_oneof![MIN_SEGMENT..2000, 1460..=1460u16],
    ) {
        let (frame, work) = packet.left(Some(size));
        let (frames, why) = all(&frame, Some(work), 2000 + 256);
        prop_assert_eq!(why, None);
        let parts = packet.divided(size.into());
        let expected: Vec<_> = parts.iter().map(Packet::frame).collect();
        prop_assert_eq!(frames, expected);
    }

    #[test]
    fn together_the_segments_have_the_payload_and_every_checksum_is_right(
        packet in packets(),
        size in MIN_SEGMENT..2000,
    ) {
        let (frame, work) = packet.left(Some(size));
        let (frames, _) = all(&frame, Some(work), 2000 + 256);
        let (ip, tcp) = (packet.ethernet().len(), usize::from(work.csum_start));
        let headers = frame.len() - packet.payload.len();
        let mut payload: Vec<u8> = Vec::new();
        for (frame, part) in frames.iter().zip(packet.divided(size.into())) {
            prop_assert!(frame.len() <= headers + usize::from(size));
            let summed = [part.pseudo_header(), frame[tcp..].to_vec()].concat();
            prop_assert_eq!(slow(&summed), 0);
            prop_assert!(packet.is_v6 || slow(&frame[ip..tcp]) == 0);
            payload.extend(&frame[headers..]);
        }
        prop_assert_eq!(payload, packet.payload);
    }

    #[test]
    fn a_checksum_that_was_left_is_the_one_its_sender_would_have_made(packet in packets()) {
        let (frame, work) = packet.left(None);
        let (frames, why) = all(&frame, Some(work), 9216);
        prop_assert_eq!((frames.len(), why), (1, None));
        let tcp = usize::from(work.csum_start);
        let summed = [packet.pseudo_header(), frames[0][tcp..].to_vec()].concat();
        prop_assert_eq!(slow(&summed), 0);
        let mut again = frames[0].clone();
        let field = tcp + usize::from(CHECKSUM);
        again[field..field + 2].copy_from_slice(&frame[field..field + 2]);
        prop_assert_eq!(again, frame);
    }

    #[test]
    fn sums_of_long_words_are_those_of_short_ones(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        prop_assert_eq!(u16::from_be_bytes(Sum::default().bytes(&bytes).checksum()), slow(&bytes));
        let (first, rest) = bytes.split_at(bytes.len() / 4 * 2);
        let sum = Sum::default().bytes(first).bytes(rest);
        prop_assert_eq!(u16::from_be_bytes(sum.checksum()), slow(&bytes));
    }
}

proptest! {
    #![proptest_config(cases(1024, 1))]

    /// Each copy of the sender's RAM is another one.
    #[test]
    fn whatever_a_sender_writes_meanwhile_frames_are_bounded_and_keep_their_ethernet_header(
        packet in packets(),
        offload in prop::option::of((any::<u16>(), any::<u16>(), prop::option::of(any::<u16>()))),
        size in prop::option::of(any::<u16>()),
        writes in prop::collection::vec((0usize..128, any::<u8>()), 0..24),
        room in 0usize..3000,
    ) {
        let (mut frame, mut work) = packet.left(size);
        if let Some((csum_start, csum_offset, segment)) = offload {
            // Somewhere in the headers, mostly.
            let csum_start = if csum_offset & 3 == 0 { csum_start } else { csum_start & 0x7f };
            let csum_offset = if csum_start & 1 == 0 { CHECKSUM } else { csum_offset & 0x3f };
            work = Offload { csum_start, csum_offset, segment };
        }
        let length = frame.len();
        let ethernet = packet.ethernet();
        let mut writes = writes.into_iter();
        let mut read = |offset: u64, into: &mut [u8]| {
            from(&frame)(offset, into)?;
            if let Some((at, value)) = writes.next() {
                let at = ethernet.len() + at;
                frame.get_mut(at).into_iter().for_each(|byte| *byte = value);
            }
            Ok::<_, ()>(())
        };
        let mut scratch = vec![0; room];
        if let Ok(mut segments) = Segments::new(Some(work), length as u64) {
            let mut count = 0;
            while let Some(next) = segments.next(&mut read, &mut scratch) {
                count += 1;
                prop_assert!(count <= 1 + length / usize::from(MIN_SEGMENT));
                let Ok(made) = next else { continue };
                prop_assert!(made.len() <= room && made.starts_with(&ethernet));
                let most = work.segment.map_or(length, |size| 256 + usize::from(size));
                prop_assert!(made.len() <= most);
            }
        }
    }

    #[test]
    fn no_bytes_and_no_wishes_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        work in prop::option::of((0u16..420, 0u16..420, prop::option::of(any::<u16>()))),
        room in 0usize..500,
    ) {
        let work = work.map(|(csum_start, csum_offset, segment)| {
            Offload { csum_start, csum_offset, segment }
        });
        let (frames, why) = all(&bytes, work, room);
        prop_assert!(frames.iter().all(|frame| frame.len() <= room));
        prop_assert!(why.is_some() || !frames.is_empty());
    }
}
