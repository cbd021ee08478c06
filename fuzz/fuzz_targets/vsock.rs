//! Two guests of a group and one of another, whose drivers say anything by their socket devices, and begin again at any moment.
//! Devices always come to an end with what there is to do, and need no reset. What they tell a guest is for it and from who may
//! be connected to it, and bytes come only where it was connected; what one guest sends no other than its peer gets.
#![no_main]

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use plinth::device::doorbell::{Doorbell, Doorbells};
use plinth::device::{Device, Signal};
use plinth::manifest::{Rights, VsockConfig};
use plinth::sched::VmId;
use plinth::virtio::queue::Buffer;
use plinth::virtio::queue::fake::Offer;
use plinth::virtio::ram::SharedRam;
use plinth::virtio::transport::Transport;
use plinth::virtio::vsock::VsockDevice;
use plinth::virtio::vsock::packet::{PacketHeader, SIZE, STREAM, op};
use plinth::virtio::vsock::sockets::Sockets;
use plinth_fuzz::driver::{Driven, NOW, RUNNING, Rings, STATUS};
use plinth_fuzz::{often, shared_ram};

const BYTES: u64 = 64 * 4096;
const GUESTS: usize = 3;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// The hypervisor's CID, and those of the guests.
const HOST: u64 = 2;
const FIRST: u64 = 3;

#[derive(Debug)]
struct Step {
    who: usize,
    act: Act,
}

#[derive(Debug)]
enum Act {
    /// A packet with this many bytes, of which the header may say something else, cut here.
    Send {
        header: PacketHeader,
        bytes: u16,
        cut: u8,
    },
    /// A packet as the last one that came would have it answered.
    Answer {
        op: u16,
        bytes: u16,
    },
    /// Room for a packet with so much payload.
    Expect(u16),
    /// The monitor answers a line.
    Line(u16),
    Begin,
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let who = u.int_in_range(0..=GUESTS - 1)?;
        let act = match u.int_in_range(0..=12)? {
            0 => Act::Begin,
            1 => Act::Line(u.arbitrary()?),
            2..=4 => Act::Expect(often(u, &[4096, 0, 1])? as u16),
            5..=8 => Act::Answer { op: often(u, &[2, 5])? as u16 % 9, bytes: u.arbitrary()? },
            _ => {
                let bytes = (often(u, &[0, 1, 4096, 16 << 10])? % (20 << 10)) as u16;
                let header = PacketHeader {
                    src_cid: often(u, &[FIRST + who as u64])?,
                    dst_cid: often(u, &[HOST, FIRST, FIRST + 1, FIRST + 2])?,
                    src_port: u.int_in_range(0..=3)?,
                    dst_port: u.int_in_range(0..=3)?,
                    len: often(u, &[bytes.into()])? as u32,
                    kind: often(u, &[STREAM.into()])? as u16,
                    op: u.int_in_range(0..=8)?,
                    flags: u.arbitrary()?,
                    buf_alloc: often(u, &[0, 1, 4096, 1 << 18])? as u32,
                    fwd_cnt: often(u, &[0])? as u32,
                };
                Act::Send { header, bytes, cut: u.arbitrary()? }
            }
        };
        Ok(Self { who, act })
    }
}

thread_local! {
    static RAMS: RefCell<[SharedRam; GUESTS]> = RefCell::new([(); GUESTS].map(|()| shared_ram(BYTES)));
}

/// What a guest knows of one of its ports' connection with somebody else's.
#[derive(Default)]
struct Known {
    /// How many bytes came.
    received: u32,
    /// It has said that it is connected, at any time since it began: that may have waited in its queue.
    says_so: bool,
    /// Since the last end: it was asked, and was told that it is connected.
    asked: bool,
    is_told_so: bool,
}

struct Guest {
    cid: u64,
    driven: Driven<Transport<VsockDevice, SharedRam>>,
    rings: Rings,
    /// Where what was offered to be received into is, by name.
    offered: Vec<(u16, Buffer)>,
    last: Option<PacketHeader>,
    known: HashMap<(u32, u64, u32), Known>,
}

impl Guest {
    fn begin(&mut self) {
        self.driven.begin(0, self.rings, &[16; 3]);
        self.offered.clear();
        self.known.clear();
        self.last = None;
    }

    fn send(&mut self, header: PacketHeader, bytes: u16, cut: u8) {
        while self.driven.used(TRANSMIT).is_some() {}
        // Whose bytes these are is seen by whom they come to.
        let mark = self.cid.to_le_bytes()[0];
        let packet = [&header.bytes()[..], &vec![mark; bytes.into()]].concat();
        let readable = self.driven.pieces(&packet, cut);
        let offer = Offer { readable, indirect: cut & 1 != 0, ..Offer::default() };
        if self.driven.offer(TRANSMIT, offer).is_none() {
            return;
        }
        let key = (header.src_port, header.dst_cid, header.dst_port);
        if header.src_cid == self.cid {
            self.known.entry(key).or_default().says_so |= header.op == op::RESPONSE;
        }
        self.driven.show(TRANSMIT);
    }

    fn expect(&mut self, payload: u16) {
        let buffer = self.driven.buffer(SIZE + usize::from(payload).min(8192));
        let writable = vec![buffer];
        let offer = Offer { writable, indirect: payload & 1 != 0, ..Offer::default() };
        if let Some(name) = self.driven.offer(RECEIVE, offer) {
            self.offered.push((name, buffer));
            self.driven.show(RECEIVE);
        }
    }

    /// Looks at what has come.
    fn hear(&mut self) {
        while let Some((name, written)) = self.driven.used(RECEIVE) {
            let at = self.offered.iter().position(|(other, _)| *other == name);
            let (_, buffer) = self.offered.swap_remove(at.expect("it was offered"));
            let mut bytes = vec![0; written as usize];
            self.driven.memory().read_into(buffer.ipa, &mut bytes).expect("it is RAM");
            let (head, payload) = bytes.split_first_chunk::<SIZE>().expect("a whole header");
            let header = PacketHeader::parse(head);
            assert_eq!((header.dst_cid, header.len as usize), (self.cid, payload.len()));
            assert!((op::REQUEST..=op::CREDIT_UPDATE).contains(&header.op));
            assert!(header.op == op::RW || payload.is_empty());
            let peers: &[u64] =
                if self.cid == FIRST + 2 { &[HOST] } else { &[HOST, FIRST, FIRST + 1] };
            if header.op != op::RST {
                assert!(peers.contains(&header.src_cid) && header.src_cid != self.cid);
                assert_eq!(header.kind, STREAM);
            }
            let known = self.known.entry((header.dst_port, header.src_cid, header.src_port));
            let known = known.or_default();
            match header.op {
                op::REQUEST => (known.asked, known.received) = (true, 0),
                op::RESPONSE => (known.is_told_so, known.received) = (true, 0),
                op::RST if header.kind == STREAM => {
                    *known = Known { says_so: known.says_so, ..Known::default() };
                }
                op::RW => {
                    let is_open = known.is_told_so || known.asked && known.says_so;
                    assert!(is_open, "bytes from nobody");
                    known.received = known.received.wrapping_add(header.len);
                    if header.src_cid != HOST {
                        let mark = header.src_cid.to_le_bytes()[0];
                        assert!(payload.iter().all(|byte| *byte == mark), "somebody else's bytes");
                    }
                }
                _ => {}
            }
            self.last = Some(header);
        }
    }
}

struct World {
    bells: Arc<Doorbells>,
    sockets: Sockets,
    guests: Vec<Guest>,
}

impl World {
    fn new(rams: [SharedRam; GUESTS], rings: [Rings; GUESTS]) -> Self {
        let group = |name: &str| Some(name.to_owned());
        let configs = [
            VsockConfig { group: group("two"), monitor: Rights::Read, ..VsockConfig::new(3) },
            VsockConfig { group: group("two"), ..VsockConfig::new(4) },
            VsockConfig { group: group("one"), monitor: Rights::Control, ..VsockConfig::new(5) },
        ];
        let sockets = Sockets::new(configs.iter().map(Some));
        let bells = Arc::new(Doorbells::new(GUESTS));
        let guest = |(vm, (ram, rings)): (u16, (SharedRam, Rings))| {
            let bell = Doorbell::new(bells.clone(), VmId(vm), 0);
            let socket = sockets.of(VmId(vm)).expect("it has one").clone();
            let device = Transport::new(VsockDevice::new(socket, bell), ram.clone(), "it".into());
            let mut guest = Guest {
                cid: FIRST + u64::from(vm),
                driven: Driven::new(device, ram, BYTES),
                rings,
                offered: Vec::new(),
                last: None,
                known: HashMap::new(),
            };
            guest.begin();
            guest
        };
        let guests = (0..).zip(rams.into_iter().zip(rings)).map(guest).collect();
        Self { bells, sockets, guests }
    }

    /// What CPUs do after an exit, until there is nothing more to be done.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut rung = Vec::new();
            self.bells.answer(|vm, _| rung.push(vm.index()));
            let quiet = rung.is_empty();
            rung.into_iter()
                .for_each(|vm| self.guests[vm].driven.device.signal(Signal::Input, NOW));
            let mut due = 0;
            for guest in &mut self.guests {
                if guest.driven.device.deadline().is_some() {
                    guest.driven.device.advance(NOW);
                    due += 1;
                }
            }
            if quiet && due == 0 {
                return;
            }
        }
        panic!("there is always something to do");
    }

    fn answer_line(&self, vm: u16, bytes: u16) {
        let socket = self.sockets.of(VmId(vm)).expect("it has one");
        let mut connections = socket.connections.lock();
        if let Some((id, line)) = connections.take_line() {
            assert!(line.iter().all(|byte| *byte != b'\n'));
            connections.answer(id, vec![b'a'; bytes.into()]);
        }
    }
}

fuzz_target!(|input: ([Rings; GUESTS], Vec<Step>)| {
    let (rings, steps) = input;
    let mut world = World::new(RAMS.with_borrow(Clone::clone), rings);
    for Step { who, act } in steps {
        let guest = &mut world.guests[who];
        match act {
            Act::Send { header, bytes, cut } => guest.send(header, bytes, cut),
            Act::Answer { op, bytes } => {
                let Some(last) = guest.last else { continue };
                let bytes = if op == op::RW { bytes % 4096 } else { 0 };
                let header = PacketHeader {
                    src_cid: guest.cid,
                    dst_cid: last.src_cid,
                    src_port: last.dst_port,
                    dst_port: last.src_port,
                    len: bytes.into(),
                    kind: STREAM,
                    op,
                    buf_alloc: 4096,
                    fwd_cnt: guest
                        .known
                        .get(&(last.dst_port, last.src_cid, last.src_port))
                        .map_or(0, |known| known.received),
                    ..PacketHeader::default()
                };
                guest.send(header, bytes, 44);
            }
            Act::Expect(payload) => guest.expect(payload),
            Act::Line(bytes) => world.answer_line(who as u16, bytes),
            Act::Begin => guest.begin(),
        }
        world.settle();
        for guest in &mut world.guests {
            guest.hear();
            assert_eq!(guest.driven.get(STATUS), RUNNING);
        }
    }
    // Whoever goes leaves nothing behind at others' once they have taken what there is.
    for _ in 0..2 {
        world.guests.iter_mut().for_each(Guest::begin);
        world.settle();
    }
    for vm in 0..GUESTS {
        let socket = world.sockets.of(VmId(vm as u16)).expect("it has one");
        assert_eq!(socket.connections.lock().count(), 0);
        let (group, me) = socket.group.as_ref().expect("it is in one").lock();
        assert_eq!(group.streams.count(me), 0);
    }
});
