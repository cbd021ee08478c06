//! The beginning of an Ethernet frame (IEEE 802.3, "MAC frame and packet specifications"; the tag: IEEE 802.1Q, "Tag
//! format").
//!
//! A header is parsed from a copy of the frame's first bytes, so nobody changes it between two looks. Checksums are
//! not in these frames.

use super::mac::MacAddr;

/// How many of a frame's first bytes are looked at.
pub const HEADER: usize = 18;

/// The type of a frame with a tag (IEEE 802.1Q, "Customer VLAN Tag").
const TAGGED: u16 = 0x8100;
/// The type of a frame with a provider's tag ("Service VLAN Tag").
const SERVICE: u16 = 0x88a8;

/// A tag's control information.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Tag(pub u16);

impl Tag {
    /// The VLAN, 12 bits; 0 says that the tag is there for the priority alone.
    pub const fn vid(self) -> u16 {
        self.0 & 0xfff
    }

    /// The priority code point, 0 to 7.
    pub const fn pcp(self) -> u8 {
        self.0.to_be_bytes()[0] >> 5
    }

    /// The same with another VLAN; of `vid`, 12 bits count.
    pub(super) const fn with_vid(self, vid: u16) -> Self {
        Self(self.0 & !0xfff | vid & 0xfff)
    }
}

/// What a frame begins with.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Header {
    /// Whom it is for.
    pub destination: MacAddr,
    /// Who says to have sent it.
    pub source: MacAddr,
    /// Its tag.
    pub tag: Option<Tag>,
    /// The type, or the length, that follows the addresses and the tag.
    pub ethertype: u16,
}

impl Header {
    /// Nobody sends it to anybody.
    pub const NONE: Self =
        Self { destination: MacAddr([0; 6]), source: MacAddr([0; 6]), tag: None, ethertype: 0 };

    /// The header of a frame that begins with `bytes`; [`HEADER`] of them are enough. `None` where the frame ends before
    /// its header does.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let ([a, b, c, d, e, f, g, h, i, j, k, l, m, n], rest) = bytes.split_first_chunk()?;
        let destination = MacAddr([*a, *b, *c, *d, *e, *f]);
        let source = MacAddr([*g, *h, *i, *j, *k, *l]);
        let ethertype = u16::from_be_bytes([*m, *n]);
        if ethertype != TAGGED {
            return Some(Self { destination, source, tag: None, ethertype });
        }
        let (control, rest) = word(rest)?;
        let (ethertype, _) = word(rest)?;
        Some(Self { destination, source, tag: Some(Tag(control)), ethertype })
    }

    /// How many of the frame's bytes it is.
    pub const fn length(&self) -> u8 {
        if self.tag.is_some() { 18 } else { 14 }
    }

    /// Whether it has a tag inside its tag, or a provider's. Without the outer one, whoever gets it would take it
    /// for another VLAN's.
    pub(super) const fn is_nested(&self) -> bool {
        self.ethertype == TAGGED || self.ethertype == SERVICE
    }
}

fn word(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (word, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*word), rest))
}

/// What becomes of a frame's tag on its way out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TagChange {
    /// It goes as it came.
    Keep,
    /// It gets this tag.
    Insert(Tag),
    /// Its tag becomes this one.
    Replace(Tag),
    /// Its tag is taken out.
    Strip,
}

/// What a frame begins with when it goes out: all that was looked at, whatever has become of the frame since.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    bytes: [u8; HEADER],
    length: u8,
    replaces: u8,
}

impl Head {
    /// The new first bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length.into()).unwrap_or_default()
    }

    /// The same with zeros behind them, and how many they are.
    pub const fn padded(&self) -> ([u8; HEADER], usize) {
        (self.bytes, self.length as usize)
    }

    /// By how many bytes the frame grows.
    #[inline]
    pub const fn growth(&self) -> i16 {
        (self.length as i16).wrapping_sub(self.replaces as i16)
    }

    /// How many of the frame's own first bytes they are sent instead of.
    pub const fn replaces(&self) -> usize {
        self.replaces as usize
    }
}

impl TagChange {
    /// How a frame with this header begins when it goes out.
    pub fn head(self, header: &Header) -> Head {
        let tag = match self {
            Self::Keep => header.tag,
            Self::Insert(tag) | Self::Replace(tag) => Some(tag),
            Self::Strip => None,
        };
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (header.destination.0, header.source.0);
        let [m, n] = header.ethertype.to_be_bytes();
        let (bytes, length) = match tag {
            None => ([a, b, c, d, e, f, g, h, i, j, k, l, m, n, 0, 0, 0, 0], 14),
            Some(Tag(tag)) => {
                let ([t, u], [v, w]) = (TAGGED.to_be_bytes(), tag.to_be_bytes());
                ([a, b, c, d, e, f, g, h, i, j, k, l, t, u, v, w, m, n], 18)
            }
        };
        Head { bytes, length, replaces: header.length() }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const FRAME: [u8; 20] = [
        0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x81, 0x00, 0xb0, 0x0a, 0x08, 0x00, 0x45, 0,
    ];

    fn changed(change: TagChange, frame: &[u8]) -> Vec<u8> {
        let head = change.head(&Header::parse(frame).unwrap());
        [head.bytes(), &frame[head.replaces()..]].concat()
    }

    #[test]
    fn a_tag_is_found_behind_the_addresses() {
        let header = Header::parse(&FRAME).unwrap();
        assert_eq!(header.destination, MacAddr([0x52, 0x54, 0, 0, 0, 2]));
        assert_eq!(header.source, MacAddr([0x52, 0x54, 0, 0, 0, 1]));
        let tag = header.tag.unwrap();
        assert_eq!((tag.vid(), tag.pcp(), header.ethertype), (10, 5, 0x0800));
        let plain = [&FRAME[..12], &FRAME[16..]].concat();
        let header = Header::parse(&plain).unwrap();
        assert_eq!((header.tag, header.ethertype), (None, 0x0800));
    }

    #[test]
    fn a_frame_that_ends_in_its_header_has_none() {
        assert!((0..18).all(|length| Header::parse(&FRAME[..length]).is_none()));
        assert!(Header::parse(&FRAME[..18]).is_some());
        let plain = [&FRAME[..12], &FRAME[16..]].concat();
        assert!((0..14).all(|length| Header::parse(&plain[..length]).is_none()));
        assert!(Header::parse(&plain[..14]).is_some());
    }

    #[test]
    fn a_tag_is_inserted_replaced_and_stripped() {
        let plain = [&FRAME[..12], &FRAME[16..]].concat();
        assert_eq!(changed(TagChange::Insert(Tag(0xb00a)), &plain), FRAME);
        assert_eq!(changed(TagChange::Strip, &FRAME), plain);
        assert_eq!(changed(TagChange::Keep, &FRAME), FRAME);
        let other = changed(TagChange::Replace(Tag(0xb00a).with_vid(0x14)), &FRAME);
        assert_eq!(other[..14], FRAME[..14]);
        assert_eq!(other[14..], [0xb0, 0x14, 0x08, 0, 0x45, 0]);
    }

    #[test]
    fn a_tag_inside_a_tag_is_seen() {
        for (frame, nested) in [(0x8100u16, true), (0x88a8, true), (0x0800, false)] {
            let mut bytes = FRAME;
            bytes[16..18].copy_from_slice(&frame.to_be_bytes());
            assert_eq!(Header::parse(&bytes).unwrap().is_nested(), nested);
        }
        let provider = [&FRAME[..12], &[0x88, 0xa8]].concat();
        assert!(Header::parse(&provider).unwrap().is_nested());
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        #[test]
        fn no_bytes_make_parsing_panic(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            if let Some(header) = Header::parse(&bytes) {
                prop_assert!(bytes.starts_with(&header.destination.0));
                let changes = [TagChange::Keep, TagChange::Strip, TagChange::Insert(Tag(7))];
                let length = usize::from(header.length());
            prop_assert!(changes.iter().all(|change| change.head(&header).replaces() == length));
            let kept = TagChange::Keep.head(&header);
            prop_assert_eq!(kept.bytes(), &bytes[..length]);
            }
        }
    }
}
