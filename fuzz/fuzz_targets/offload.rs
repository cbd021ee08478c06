//! A frame with anything in it, of whose sender's wishes nobody knows whether they fit it, and which changes while it is divided:
//! what is sent is bounded, and begins with the Ethernet header that was let pass.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plinth::virtio::net::header::Offload;
use plinth::virtio::net::offload::{MIN_SEGMENT, MOST_HEADERS, Segments};

/// Where IP begins: behind a tag or not.
fn ethernet(frame: &[u8]) -> usize {
    if frame.get(12..14) == Some(&[0x81, 0]) { 18 } else { 14 }
}

type Wish = (u8, u16, bool, Option<u16>);
type Shape = (bool, bool, bool);

fuzz_target!(|input: (Option<Wish>, Shape, u16, Vec<(u8, u8)>, Vec<u8>)| {
    let (wish, (is_shaped, is_tagged, is_v6), room, writes, mut frame) = input;
    if is_shaped && frame.len() > 64 {
        // As a driver begins one, which what follows may or may not be like.
        let mut start = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        start.extend(if is_tagged { &[0x81, 0, 0, 7][..] } else { &[] });
        start.extend(if is_v6 { [0x86, 0xdd, 0x60] } else { [0x08, 0x00, 0x45] });
        frame.splice(..start.len(), start);
    }
    let work = wish.map(|(start, offset, is_tcp, segment)| {
        let csum_offset = if is_tcp { 16 } else { offset };
        Offload { csum_start: start.into(), csum_offset, segment }
    });
    let length = frame.len();
    let Ok(mut segments) = Segments::new(work, length as u64) else { return };
    let passed = ethernet(&frame);
    let ethernet = frame.get(..passed).map(<[u8]>::to_vec);
    let mut writes = writes.into_iter();
    let mut read = |offset: u64, into: &mut [u8]| {
        let offset = usize::try_from(offset).map_err(drop)?;
        into.copy_from_slice(frame.get(offset..offset + into.len()).expect("inside the frame"));
        if let Some((at, value)) = writes.next() {
            frame.get_mut(passed + usize::from(at)).into_iter().for_each(|byte| *byte = value);
        }
        Ok::<_, ()>(())
    };
    let mut scratch = vec![0; usize::from(room % 2048)];
    let most =
        work.and_then(|work| work.segment).map_or(length, |size| MOST_HEADERS + usize::from(size));
    let mut count = 0;
    while let Some(next) = segments.next(&mut read, &mut scratch) {
        count += 1;
        assert!(count <= 1 + length / usize::from(MIN_SEGMENT));
        let Ok(made) = next else { continue };
        assert!(made.len() <= most);
        if let (Some(ethernet), Some(_)) = (&ethernet, work) {
            assert!(made.starts_with(ethernet));
        }
    }
});
