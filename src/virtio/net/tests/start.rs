//! What a frame begins with for those who get it as it came, and for those who do not.

use proptest::prelude::*;

use crate::net::{HEADER, TagChange};
use crate::virtio::net::header::SIZE;
use crate::virtio::net::sending::{Sending, Start};

proptest! {
    #![proptest_config(crate::testing::cases(512, 1))]

    /// The bytes that were looked at are kept; made anew from what was found in them, they are the same.
    #[test]
    fn a_frame_that_goes_on_as_it_came_begins_as_one_that_is_made_anew(
        mut bytes: [u8; SIZE + HEADER],
        tag in prop_oneof![Just(None), Just(Some(0x8100_u16)), Just(Some(0x88a8))],
        length in 0..40_u64,
    ) {
        if let Some(tag) = tag {
            bytes[SIZE + 12..SIZE + 14].copy_from_slice(&tag.to_be_bytes());
        }
        let mut start = Sending::NEW.start;
        let room = start.room(length);
        let known = usize::try_from(length).unwrap().min(HEADER);
        prop_assert_eq!(room.len(), SIZE + known);
        room.copy_from_slice(&bytes[..SIZE + known]);
        let left = start.header();
        let header = start.read(known);
        let tagged = bytes[SIZE + 12..SIZE + 14] == [0x81, 0];
        prop_assert_eq!(header.is_none(), known < if tagged { HEADER } else { 14 });
        let Some(header) = header else { return Ok(()) };
        let anew = Start::new(&left, &TagChange::Keep.head(&header));
        prop_assert_eq!(start.bytes(), anew.bytes());
        prop_assert_eq!(start.replaces(), anew.replaces());
        // What is behind the headers is the frame's, and none of it is sent twice or left out.
        prop_assert_eq!(start.bytes().len() as u64, start.replaces());
    }
}
