//! What a guest has put out, for programs that read it piece by piece: each byte has a position, counted
//! from the first that the guest ever sent, and whoever reads says where it goes on.

use alloc::string::String;
use alloc::vec::Vec;

use super::mux::Mux;
use super::ring::Ring;
use crate::sched::VmId;

/// How many bytes of the guest's are read at once.
pub const MOST: usize = 4096;

/// A piece of a guest's output.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tail {
    /// The position of its first byte: later than what was asked for if that is overwritten.
    pub from: u64,
    /// Where the next piece begins.
    pub next: u64,
    /// How many bytes the guest has sent.
    pub end: u64,
    /// The piece, as the guest sent it. What is no UTF-8 is U+FFFD.
    pub text: String,
}

impl Mux {
    /// What the guest `id` has put out `from` a position on, or the newest of it. `None` when it has no
    /// scrollback.
    pub fn tail(&self, id: VmId, from: Option<u64>) -> Option<Tail> {
        self.port(id).map(|port| read(port.scrollback(), from))
    }
}

/// A position that has not been reached is one of an earlier life of the guest's: as if none were given.
fn read(ring: &Ring, from: Option<u64>) -> Tail {
    let end = ring.end();
    let from = match from.filter(|from| *from <= end) {
        Some(from) => from.max(ring.start()),
        None => newest(ring),
    };
    let mut bytes: Vec<u8> = ring.iter_from(from).take(MOST).collect();
    bytes.truncate(bytes.len() - unfinished(&bytes));
    let next = from + bytes.len() as u64;
    Tail { from, next, end, text: String::from_utf8_lossy(&bytes).into_owned() }
}

/// Where the newest piece begins: with a line, if one begins in it.
fn newest(ring: &Ring) -> u64 {
    let from = ring.end().saturating_sub(MOST as u64).max(ring.start());
    if from == 0 {
        return 0;
    }
    let line = ring.iter_from(from).position(|byte| byte == b'\n').map(|at| from + at as u64 + 1);
    line.filter(|line| *line < ring.end()).unwrap_or(from)
}

/// How many bytes at the end begin a character whose rest may yet come.
fn unfinished(bytes: &[u8]) -> usize {
    let invalid = bytes.utf8_chunks().last().map(|chunk| chunk.invalid()).unwrap_or_default();
    let is_cut = core::str::from_utf8(invalid).is_err_and(|why| why.error_len().is_none());
    if is_cut { invalid.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use core::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::console::{Settings, View};
    use crate::testing::{pick, some};

    const NOW: Duration = Duration::from_secs(1);
    const A: VmId = VmId(0);
    const B: VmId = VmId(1);

    fn mux(scrollback: usize) -> Mux {
        let mut mux = Mux::new(Settings { scrollback, ..Settings::default() });
        mux.attach(A, "a");
        mux.attach(B, "b");
        mux
    }

    /// The guest sends all of it; the line takes what it has to.
    fn send(mux: &mut Mux, id: VmId, bytes: &[u8]) {
        for byte in bytes {
            while !mux.send(id, *byte, NOW) {
                while mux.next(NOW).is_some() {
                    mux.sent();
                }
            }
        }
    }

    #[test]
    fn the_newest_lines_are_there_whatever_is_shown_and_whoever_floods() {
        let (kept, lines) = pick((64 << 10, 20_000), (MOST, 700));
        for view in some([View::All, View::Focus]) {
            let mut mux = mux(kept);
            mux.view_as(view, NOW);
            send(&mut mux, B, b"quiet\r\nlogin: ");
            send(&mut mux, A, &b"flood\r\n".repeat(lines));
            let tail = mux.tail(B, None).unwrap();
            assert_eq!(tail.text, "quiet\r\nlogin: ");
            let flood = mux.tail(A, None).unwrap();
            assert!(flood.text.starts_with("flood\r\n") && flood.text.len() > MOST - 8);
            let all = 7 * lines as u64;
            assert_eq!((flood.next, flood.end), (all, all));
        }
        assert_eq!(mux(1024).tail(VmId(7), None), None);
    }

    #[test]
    fn whoever_says_where_goes_on_there_and_sees_what_was_overwritten() {
        let mut mux = mux(1024);
        send(&mut mux, A, b"one\n");
        let first = mux.tail(A, Some(0)).unwrap();
        assert_eq!((first.text.as_str(), first.next), ("one\n", 4));
        let none = Tail { from: 4, next: 4, end: 4, text: String::new() };
        assert_eq!(mux.tail(A, Some(4)), Some(none));
        send(&mut mux, A, &[b'x'; 2000]);
        let late = mux.tail(A, Some(4)).unwrap();
        assert_eq!((late.from, late.next, late.text.len()), (980, 2004, 1024));
        // A guest of the same name that is not so far yet.
        assert_eq!(mux.tail(A, Some(1 << 40)).unwrap().next, 2004);
        assert_eq!(mux.tail(A, Some(u64::MAX)).unwrap().next, 2004);
    }

    #[test]
    fn a_guest_that_is_no_more_can_still_be_read_while_its_output_is_kept() {
        let mut mux = mux(1024);
        send(&mut mux, A, b"last words\n");
        mux.discard_input(A);
        assert_eq!(mux.tail(A, None).unwrap().text, "last words\n");
    }

    #[test]
    fn a_character_in_two_pieces_comes_whole_and_a_broken_one_is_replaced() {
        let mut mux = mux(1024);
        send(&mut mux, A, b"\xe2\x82");
        let cut = mux.tail(A, Some(0)).unwrap();
        assert_eq!((cut.text.as_str(), cut.next, cut.end), ("", 0, 2));
        send(&mut mux, A, b"\xac\xff.");
        assert_eq!(mux.tail(A, Some(0)).unwrap().text, "€\u{fffd}.");
    }

    proptest! {
        #![proptest_config(crate::testing::cases(64, 1))]

        #[test]
        fn piece_by_piece_gives_all_that_was_sent(
            pieces in prop::collection::vec(prop::collection::vec(any::<char>(), 0..pick(600, 40)), 0..10),
        ) {
            let (mut mux, mut all, mut got, mut at) = (mux(64 << 10), String::new(), String::new(), 0);
            for piece in pieces {
                let piece: String = piece.into_iter().collect();
                all = format!("{all}{piece}");
                send(&mut mux, A, piece.as_bytes());
                let tail = mux.tail(A, Some(at)).unwrap();
                prop_assert_eq!(tail.from, at);
                got += &tail.text;
                at = tail.next;
            }
            while let Some(tail) = mux.tail(A, Some(at)).filter(|tail| tail.next > at) {
                got += &tail.text;
                at = tail.next;
            }
            prop_assert_eq!(got, all);
        }
    }
}
