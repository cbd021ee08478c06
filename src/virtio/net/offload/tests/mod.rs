//! What comes of a frame, against packets built field by field, each on its own, with sums of 16-bit words.

use super::{Segments, Undone};
use crate::virtio::net::header::Offload;

mod packet;
mod property;
mod refused;
mod segments;

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|byte| u8::try_from(byte * 7 % 251).unwrap()).collect()
}

/// Copies out of `frame`.
fn from(frame: &[u8]) -> impl FnMut(u64, &mut [u8]) -> Result<(), ()> {
    |offset, into| {
        let offset = usize::try_from(offset).unwrap();
        into.copy_from_slice(frame.get(offset..offset + into.len()).ok_or(())?);
        Ok(())
    }
}

/// All frames that come of one, in a buffer of `room` bytes; and what ended it before the end.
fn all(frame: &[u8], work: Option<Offload>, room: usize) -> (Vec<Vec<u8>>, Option<Undone<()>>) {
    let mut segments = match Segments::new(work, frame.len() as u64) {
        Ok(segments) => segments,
        Err(refused) => return (vec![], Some(refused.into())),
    };
    let mut scratch = vec![0xa5; room];
    let mut frames = Vec::new();
    let mut undone = None;
    while let Some(next) = segments.next(from(frame), &mut scratch) {
        assert!(undone.is_none(), "nothing follows an error");
        match next {
            Ok(frame) => frames.push(frame.to_vec()),
            Err(why) => undone = Some(why),
        }
    }
    (frames, undone)
}

fn refusal(frame: &[u8], work: Offload) -> Option<Undone<()>> {
    let (frames, why) = all(frame, Some(work), 9216);
    assert!(frames.is_empty() || why.is_none(), "{}", frames.len());
    why
}
