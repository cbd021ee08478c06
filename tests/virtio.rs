//! Our devices with the drivers of another project, `virtio-drivers`, on the other side of their queues.

#![allow(unsafe_code, reason = "the trait that gives a driver its memory is unsafe")]

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use plinth::addr::Ipa;
use plinth::device::doorbell::{Doorbell, Doorbells};
use plinth::device::serial::ScriptedLine;
use plinth::device::{Device, Signal};
use plinth::exit::Width;
use plinth::firmware::entropy::Entropy;
use plinth::manifest::{Rights, VsockConfig};
use plinth::memory::{FramePool, GuestMemory, Ram, Recorder};
use plinth::net::{DropReason, MacAddr, Plan, PortConfig, PortId};
use plinth::sched::VmId;
use plinth::time::{Frequency, Ticks};
use plinth::virtio::block::disk::{Creation, Disk, Owner};
use plinth::virtio::block::{BlockDevice, SharedDisk};
use plinth::virtio::console::ConsoleDevice;
use plinth::virtio::entropy::EntropyDevice;
use plinth::virtio::net::NetDevice;
use plinth::virtio::net::lan::Lan;
use plinth::virtio::net::socket::Plug;
use plinth::virtio::ram::SharedRam;
use plinth::virtio::transport::Transport as OurTransport;
use plinth::virtio::vsock::connections::{HOST, PORT};
use plinth::virtio::vsock::sockets::Sockets as AllSockets;
use plinth::virtio::vsock::{SharedConnections, VsockDevice};
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::device::console::VirtIOConsole;
use virtio_drivers::device::net::VirtIONet;
use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::device::socket::{
    DisconnectReason, SocketError, VirtIOSocket, VsockAddr, VsockConnectionManager, VsockEvent,
    VsockEventType,
};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Error, Hal, PhysAddr};

const BASE: u64 = 0x4000_0000;
const SIZE: u64 = 256 * 4096;

/// The guest's RAM of this thread's test, and how much of it the driver has taken.
struct Guest {
    ram: SharedRam,
    /// Where it lies in this process.
    at: u64,
    taken: u64,
    /// Places of buffers that are shared no more, and their sizes.
    free: Vec<(u64, u64)>,
}

impl Guest {
    fn new() -> Self {
        let mut pool = FramePool::new();
        pool.add(Ram::from_heap(SIZE, SIZE).unwrap(), &[]);
        let frames = pool.allocate(SIZE).unwrap().scrub().clean(&Recorder::default());
        let mut memory = GuestMemory::new();
        memory.add(Ipa::new(BASE), frames).unwrap();
        let at = memory.blocks().next().unwrap().1.raw();
        assert_eq!(memory.blocks().count(), 1, "it is in one piece");
        let ram = SharedRam::default();
        ram.call_once(|| memory);
        Self { ram, at, taken: 0, free: Vec::new() }
    }

    fn take(&mut self, bytes: u64) -> u64 {
        let start = self.taken;
        self.taken = (start + bytes).next_multiple_of(4096);
        assert!(self.taken <= SIZE, "the test's guest has more RAM");
        start
    }
}

thread_local! {
    static GUEST: RefCell<Guest> = RefCell::new(Guest::new());
}

fn ram() -> SharedRam {
    GUEST.with_borrow(|guest| guest.ram.clone())
}

/// The driver's memory is the guest's RAM; what it shares is copied there and back.
struct Memory;

// SAFETY: `dma_alloc` hands out pages that nobody else has, zeroed.
unsafe impl Hal for Memory {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        GUEST.with_borrow_mut(|guest| {
            let offset = guest.take(pages as u64 * 4096);
            let zeros = vec![0; pages * 4096];
            guest.ram.get().unwrap().write_from(Ipa::new(BASE + offset), &zeros).unwrap();
            let at = usize::try_from(guest.at + offset).unwrap();
            let pointer = std::ptr::with_exposed_provenance_mut(at);
            (BASE + offset, NonNull::new(pointer).unwrap())
        })
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("no PCI here")
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let at = GUEST.with_borrow_mut(|guest| {
            let size = (buffer.len() as u64).next_multiple_of(4096);
            let free = guest.free.iter().position(|place| place.1 == size);
            BASE + match free {
                Some(at) => guest.free.swap_remove(at).0,
                None => guest.take(size),
            }
        });
        if direction != BufferDirection::DeviceToDriver {
            // SAFETY: valid, and nobody else's meanwhile, by this function's contract.
            let bytes = unsafe { buffer.as_ref() };
            ram().get().unwrap().write_from(Ipa::new(at), bytes).unwrap();
        }
        at
    }

    unsafe fn unshare(paddr: PhysAddr, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: as for `share`.
            let bytes = unsafe { buffer.as_mut() };
            ram().get().unwrap().read_into(Ipa::new(paddr), bytes).unwrap();
        }
        // Its place is free again, so that a test may go on for long.
        let size = (buffer.len() as u64).next_multiple_of(4096);
        GUEST.with_borrow_mut(|guest| guest.free.push((paddr - BASE, size)));
    }
}

/// The driver's access to the registers (VIRTIO 1.2, "MMIO Device Register Layout").
#[derive(Clone)]
struct Registers(Rc<RefCell<dyn Device>>);

impl Registers {
    fn of(device: impl Device + 'static) -> Self {
        Self(Rc::new(RefCell::new(device)))
    }

    fn get(&self, offset: u64) -> u32 {
        let value = self.0.borrow_mut().read(offset, Width::Word, Ticks(0));
        u32::try_from(value).unwrap()
    }

    fn set(&self, offset: u64, value: u32) {
        self.0.borrow_mut().write(offset, Width::Word, value.into(), Ticks(0));
    }

    fn set_both(&self, offset: u64, value: u64) {
        self.set(offset, u32::try_from(value & 0xffff_ffff).unwrap());
        self.set(offset + 4, u32::try_from(value >> 32).unwrap());
    }
}

impl Transport for Registers {
    fn device_type(&self) -> DeviceType {
        DeviceType::try_from(self.get(0x008)).unwrap()
    }

    fn read_device_features(&mut self) -> u64 {
        let half = |sel| {
            self.set(0x014, sel);
            u64::from(self.get(0x010))
        };
        half(0) | half(1) << 32
    }

    fn write_driver_features(&mut self, features: u64) {
        for (sel, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.set(0x024, sel);
            self.set(0x020, u32::try_from(half).unwrap());
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.set(0x030, queue.into());
        self.get(0x034)
    }

    fn notify(&mut self, queue: u16) {
        self.set(0x050, queue.into());
        // What is left is due at once.
        let mut device = self.0.borrow_mut();
        while device.deadline().is_some() {
            device.advance(Ticks(0));
        }
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.get(0x070))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.set(0x070, status.bits());
    }

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.set(0x030, queue.into());
        self.set(0x038, size);
        self.set_both(0x080, descriptors);
        self.set_both(0x090, driver_area);
        self.set_both(0x0a0, device_area);
        self.set(0x044, 1);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.set(0x030, queue.into());
        self.set(0x044, 0);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.set(0x030, queue.into());
        self.get(0x044) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        let status = self.get(0x060);
        self.set(0x064, status);
        InterruptStatus::from_bits_retain(status)
    }

    fn read_config_generation(&self) -> u32 {
        self.get(0x0fc)
    }

    fn read_config_space<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
        &self,
        offset: usize,
    ) -> virtio_drivers::Result<T> {
        let bytes: Vec<u8> = (0..size_of::<T>())
            .map(|at| {
                let at = 0x100 + (offset + at) as u64;
                self.0.borrow_mut().read(at, Width::Byte, Ticks(0)).to_le_bytes()[0]
            })
            .collect();
        Ok(T::read_from_bytes(&bytes).unwrap())
    }

    fn write_config_space<T: zerocopy::IntoBytes + zerocopy::Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> virtio_drivers::Result<()> {
        for (at, byte) in value.as_bytes().iter().enumerate() {
            let at = 0x100 + (offset + at) as u64;
            self.0.borrow_mut().write(at, Width::Byte, (*byte).into(), Ticks(0));
        }
        Ok(())
    }
}

fn entropy() -> Registers {
    let generator = Entropy::from_seed(&[7; 32]).unwrap();
    Registers::of(OurTransport::new(EntropyDevice::new(generator), ram(), String::from("test")))
}

#[test]
fn a_driver_of_others_gets_random_bytes_and_never_the_same() {
    let registers = entropy();
    let mut driver = VirtIORng::<Memory, _>::new(registers.clone()).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2000 {
        let mut bytes = [0; 16];
        assert_eq!(driver.request_entropy(&mut bytes).unwrap(), 16);
        assert!(seen.insert(bytes), "the same bytes twice");
        assert!(driver.ack_interrupt().contains(InterruptStatus::QUEUE_INTERRUPT));
    }
}

#[test]
fn a_large_request_gets_a_part_and_a_new_driver_begins_anew() {
    let registers = entropy();
    for _ in 0..3 {
        let mut driver = VirtIORng::<Memory, _>::new(registers.clone()).unwrap();
        let mut bytes = [0; 1000];
        assert_eq!(driver.request_entropy(&mut bytes).unwrap(), 32);
        assert!(bytes[..32].iter().any(|byte| *byte != 0));
        assert!(bytes[32..].iter().all(|byte| *byte == 0));
    }
}

/// Two cards of one network, and what rings when something comes for them.
struct Cards {
    lan: Arc<Lan>,
    ports: [PortId; 2],
    bells: Arc<Doorbells>,
    registers: [Registers; 2],
}

const MACS: [MacAddr; 2] = [MacAddr([0x52, 0x54, 0, 0, 0, 1]), MacAddr([0x52, 0x54, 0, 0, 0, 2])];

impl Cards {
    fn new() -> Self {
        let mut plan = Plan::default();
        plan.network(false).unwrap();
        let ports = MACS.map(|mac| plan.join(0, PortConfig::new(mac)).unwrap());
        let frequency = Frequency(NonZeroU32::new(62_500_000).unwrap());
        let lan = Arc::new(Lan::new(plan.build(frequency).unwrap(), || Ticks(1)));
        let bells = Arc::new(Doorbells::new(1));
        let registers = [0, 1].map(|at| {
            let card = NetDevice::new(lan.clone(), ports[at], MACS[at], 1);
            let steering = card.steering().clone();
            let card = OurTransport::new(card, ram(), String::from("test"));
            let bell = Doorbell::new(bells.clone(), VmId(0), u16::try_from(at).unwrap());
            lan.plug(ports[at], Some(Plug { queues: card.queues().clone(), bell, steering }));
            Registers::of(card)
        });
        Self { lan, ports, bells, registers }
    }

    /// What a CPU does after an exit.
    fn answer(&self) {
        self.bells.answer(|_, slots| {
            for (at, card) in self.registers.iter().enumerate() {
                if slots >> at & 1 != 0 {
                    card.0.borrow_mut().signal(Signal::Input, Ticks(0));
                }
            }
        });
    }
}

type Driver = VirtIONet<Memory, Registers, 16>;

fn frame(to: MacAddr, from: MacAddr, length: usize) -> Vec<u8> {
    let mut frame = [&to.0[..], &from.0, &[0x88, 0xb5]].concat();
    frame.extend((0..length).map(|n| (n % 251).to_le_bytes()[0]));
    frame
}

fn send(driver: &mut Driver, frame: &[u8]) {
    let mut buffer = driver.new_tx_buffer(frame.len());
    buffer.packet_mut().copy_from_slice(frame);
    driver.send(buffer).unwrap();
}

#[test]
fn frames_of_others_drivers_go_from_card_to_card_byte_by_byte() {
    let cards = Cards::new();
    let [mut a, mut b] = cards.registers.clone().map(|card| Driver::new(card, 2048).unwrap());
    assert_eq!([a.mac_address(), b.mac_address()], MACS.map(|mac| mac.0));
    for length in [0, 1, 46, 100, 1500] {
        let there = frame(MACS[1], MACS[0], length);
        assert!(!b.can_recv());
        b.ack_interrupt();
        send(&mut a, &there);
        assert!(cards.bells.is_rung());
        cards.answer();
        assert!(b.ack_interrupt().contains(InterruptStatus::QUEUE_INTERRUPT));
        let got = b.receive().unwrap();
        assert_eq!(got.packet(), there);
        b.recycle_rx_buffer(got).unwrap();
        // And to everybody, which is one.
        let back = frame(MacAddr([0xff; 6]), MACS[1], length);
        send(&mut b, &back);
        cards.answer();
        let got = a.receive().unwrap();
        assert_eq!(got.packet(), back);
        a.recycle_rx_buffer(got).unwrap();
    }
    let counts = cards.ports.map(|port| cards.lan.switch().counts(port));
    assert_eq!(counts.map(|counts| (counts.frames_in, counts.frames_out)), [(5, 5); 2]);
}

#[test]
fn who_has_no_buffers_loses_frames_and_nobody_else_does() {
    let cards = Cards::new();
    let [mut a, mut b] = cards.registers.clone().map(|card| Driver::new(card, 2048).unwrap());
    for number in 0..20 {
        send(&mut a, &frame(MACS[1], MACS[0], number));
        cards.answer();
    }
    let counts = cards.lan.switch().counts(cards.ports[1]);
    assert_eq!((counts.frames_out, counts.dropped(DropReason::NoRoom)), (16, 4));
    for number in 0..16 {
        assert_eq!(b.receive().unwrap().packet(), frame(MACS[1], MACS[0], number));
    }
    assert!(!b.can_recv());
    // One that is too long for the buffers is lost as well: the next one is not.
    drop(b);
    let mut b = VirtIONet::<Memory, _, 16>::new(cards.registers[1].clone(), 1600).unwrap();
    send(&mut a, &frame(MACS[1], MACS[0], 1700));
    send(&mut a, &frame(MACS[1], MACS[0], 5));
    cards.answer();
    assert_eq!(b.receive().unwrap().packet(), frame(MACS[1], MACS[0], 5));
    // Nobody is there any more.
    drop(b);
    cards.registers[1].set(0x070, 0);
    send(&mut a, &frame(MACS[1], MACS[0], 5));
    assert!(!cards.bells.is_rung());
}

/// A disk of 1 MiB, with space for half of it where it can be written to.
fn disk(read_only: bool) -> Registers {
    let mut pool = FramePool::new();
    pool.add(Ram::from_heap(1 << 20, 1 << 16).unwrap(), &[]);
    let (space, owner) = (Some(1 << 19), Arc::new(Owner::new("test".into())));
    let space = space.filter(|_| !read_only);
    let creation = Creation { size: 1 << 20, base: None, space, serial: "serial".into(), owner };
    let mut disk = Disk::new(creation, &mut pool).unwrap();
    while !disk.step().unwrap() {}
    let device = BlockDevice::new(SharedDisk::new(disk.into()), 4);
    Registers::of(OurTransport::new(device, ram(), String::from("test")))
}

#[test]
fn a_driver_of_others_finds_on_a_disk_what_it_has_written_also_after_a_reset() {
    let registers = disk(false);
    let mut model = vec![0u8; 1 << 20];
    for round in 0..3u8 {
        let mut driver = VirtIOBlk::<Memory, _>::new(registers.clone()).unwrap();
        assert_eq!((driver.capacity(), driver.readonly()), (2048, false));
        let mut id = [0; 20];
        let length = driver.device_id(&mut id).unwrap();
        assert_eq!(&id[..length], b"serial");
        for step in 0..if cfg!(miri) { 4 } else { 60usize } {
            let (sector, sectors) = (step * 37 % 900, 1 + step % 9);
            let bytes = vec![round.wrapping_add(step.to_le_bytes()[0]); 512 * sectors];
            driver.write_blocks(sector, &bytes).unwrap();
            model[512 * sector..512 * (sector + sectors)].copy_from_slice(&bytes);
            assert!(driver.ack_interrupt().contains(InterruptStatus::QUEUE_INTERRUPT));
        }
        driver.flush().unwrap();
        let mut read = vec![0; 1 << 15];
        for first in (0..2048).step_by(if cfg!(miri) { 1024 } else { 64 }) {
            driver.read_blocks(first, &mut read).unwrap();
            assert!(read == model[512 * first..512 * (first + 64)]);
        }
    }
}

#[test]
fn a_driver_of_others_is_told_what_fails() {
    let mut driver = VirtIOBlk::<Memory, _>::new(disk(true)).unwrap();
    assert!(driver.readonly());
    assert_eq!(driver.write_blocks(0, &[1; 512]), Err(virtio_drivers::Error::IoError));
    let mut driver = VirtIOBlk::<Memory, _>::new(disk(false)).unwrap();
    assert_eq!(driver.read_blocks(2048, &mut [0; 512]), Err(virtio_drivers::Error::IoError));
    for block in 0..128 {
        driver.write_blocks(8 * block, &[1; 512]).unwrap();
    }
    assert_eq!(driver.write_blocks(8 * 128, &[1; 512]), Err(virtio_drivers::Error::IoError));
    driver.write_blocks(1, &[1; 512]).unwrap();
}

#[test]
fn a_driver_of_others_has_a_console() {
    let line = Arc::new(ScriptedLine::default());
    let bell = Doorbell::new(Arc::new(Doorbells::new(1)), VmId(0), 0);
    let device = ConsoleDevice::new(line.clone(), true, Vec::new(), bell);
    let registers = Registers::of(OurTransport::new(device, ram(), String::from("test")));
    let mut driver = VirtIOConsole::<Memory, _>::new(registers.clone()).unwrap();
    let text: Vec<u8> = (0..1000u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    driver.send_bytes(&text).unwrap();
    driver.send(b'!').unwrap();
    assert!(line.take_output() == [&text[..], b"!"].concat());
    line.type_in(b"typed by somebody");
    let mut got = Vec::new();
    for _ in 0..100 {
        registers.0.borrow_mut().signal(Signal::Input, Ticks(0));
        driver.ack_interrupt().unwrap();
        got.extend(driver.recv(true).unwrap());
    }
    assert_eq!(got, b"typed by somebody");
    driver.emergency_write(b'x').unwrap();
    assert_eq!(line.take_output(), b"x");
}

/// A socket device, and what rings when something is to be received by it.
struct Sockets {
    connections: SharedConnections,
    bells: Arc<Doorbells>,
    bell: Doorbell,
    registers: Registers,
}

type SocketDriver = VsockConnectionManager<Memory, Registers>;

const MONITOR: VsockAddr = VsockAddr { cid: HOST, port: PORT };

impl Sockets {
    fn new() -> Self {
        let vsock = VsockConfig { monitor: Rights::Read, ..VsockConfig::new(3) };
        let socket = AllSockets::new([Some(&vsock)].into_iter()).of(VmId(0)).unwrap().clone();
        let connections = socket.connections.clone();
        let bells = Arc::new(Doorbells::new(1));
        let bell = Doorbell::new(bells.clone(), VmId(0), 0);
        let device = VsockDevice::new(socket, bell.clone());
        let registers = Registers::of(OurTransport::new(device, ram(), String::from("test")));
        Self { connections, bells, bell, registers }
    }

    fn driver(&self) -> SocketDriver {
        SocketDriver::new(VirtIOSocket::new(self.registers.clone()).unwrap())
    }

    /// What a CPU does after an exit.
    fn answer_bells(&self) {
        while self.bells.is_rung() {
            self.bells.answer(|_, _| {});
            let mut device = self.registers.0.borrow_mut();
            device.signal(Signal::Input, Ticks(0));
            while device.deadline().is_some() {
                device.advance(Ticks(0));
            }
        }
    }

    /// Answers each line with what `answer` makes of it.
    fn serve(&self, answer: impl Fn(Vec<u8>) -> Vec<u8>) {
        loop {
            let line = self.connections.lock().take_line();
            let Some((id, line)) = line else { break };
            self.connections.lock().answer(id, answer(line));
        }
        self.bell.ring();
        self.answer_bells();
    }

    fn event(&self, driver: &mut SocketDriver) -> Option<VsockEvent> {
        self.answer_bells();
        let event = driver.poll().unwrap();
        self.answer_bells();
        event
    }

    fn connect(&self, driver: &mut SocketDriver, port: u32) {
        driver.connect(MONITOR, port).unwrap();
        let event = self.event(driver).unwrap();
        assert_eq!((event.source, event.event_type), (MONITOR, VsockEventType::Connected));
    }

    /// All that comes, read at once.
    fn read(&self, driver: &mut SocketDriver, port: u32) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(event) = self.event(driver) {
            if let VsockEventType::Received { length } = event.event_type {
                let mut bytes = vec![0; length];
                assert_eq!(driver.recv(MONITOR, port, &mut bytes).unwrap(), length);
                all.extend(bytes);
                driver.update_credit(MONITOR, port).unwrap();
            }
        }
        all
    }
}

#[test]
fn a_socket_driver_of_others_gets_its_lines_answered() {
    let sockets = Sockets::new();
    let mut driver = sockets.driver();
    assert_eq!(driver.guest_cid(), 3);
    sockets.connect(&mut driver, 1000);
    // More than both sides' buffers hold at once goes both ways, as credit allows.
    for round in 0..50_usize {
        let mut line: Vec<u8> =
            (0..300 + round).map(|n| b'a' + u8::try_from(n % 26).unwrap()).collect();
        line.push(b'\n');
        driver.send(MONITOR, 1000, &line).unwrap();
        sockets.serve(|line| [&line[..], b"|"].concat().repeat(20));
        line.pop();
        line.push(b'|');
        let got = sockets.read(&mut driver, 1000);
        assert!(got == line.repeat(20), "round {round}: {} bytes", got.len());
    }
    driver.shutdown(MONITOR, 1000).unwrap();
    let event = sockets.event(&mut driver).unwrap();
    let reason = DisconnectReason::Reset;
    assert_eq!(event.event_type, VsockEventType::Disconnected { reason });
    assert_eq!(sockets.connections.lock().count(), 0);
}

#[test]
fn a_socket_driver_of_others_is_refused_where_nobody_listens_and_begins_anew_after_a_reset() {
    let sockets = Sockets::new();
    for _ in 0..3 {
        let mut driver = sockets.driver();
        for nobody in [VsockAddr { cid: HOST, port: 2 }, VsockAddr { cid: 4, port: PORT }] {
            driver.connect(nobody, 7).unwrap();
            let event = sockets.event(&mut driver).unwrap();
            let reason = DisconnectReason::Reset;
            assert_eq!(event.event_type, VsockEventType::Disconnected { reason });
            assert_eq!(event.source, nobody);
        }
        sockets.connect(&mut driver, 7);
        driver.send(MONITOR, 7, b"half a line").unwrap();
        assert_eq!(sockets.connections.lock().count(), 1);
        sockets.registers.set(0x070, 0);
        assert_eq!(sockets.connections.lock().count(), 0);
    }
}

/// Two guests of a group, with their socket devices.
struct Group {
    bells: Arc<Doorbells>,
    devices: [Registers; 2],
}

const FIRST: VsockAddr = VsockAddr { cid: 3, port: 100 };
const SECOND: VsockAddr = VsockAddr { cid: 4, port: 200 };

impl Group {
    fn new() -> Self {
        let group = || Some(String::from("test"));
        let configs = [3, 4].map(|cid| VsockConfig { group: group(), ..VsockConfig::new(cid) });
        let all = AllSockets::new(configs.iter().map(Some));
        let bells = Arc::new(Doorbells::new(2));
        let devices = [0, 1].map(|vm| {
            let bell = Doorbell::new(bells.clone(), VmId(vm), 0);
            let device = VsockDevice::new(all.of(VmId(vm)).unwrap().clone(), bell);
            Registers::of(OurTransport::new(device, ram(), String::from("test")))
        });
        Self { bells, devices }
    }

    fn drivers(&self) -> [SocketDriver; 2] {
        let driver =
            |device: &Registers| SocketDriver::new(VirtIOSocket::new(device.clone()).unwrap());
        self.devices.each_ref().map(driver)
    }

    /// What a CPU does after an exit.
    fn answer_bells(&self) {
        while self.bells.is_rung() {
            let mut rung = Vec::new();
            self.bells.answer(|vm, _| rung.push(vm));
            for vm in rung {
                let mut device = self.devices[vm.index()].0.borrow_mut();
                device.signal(Signal::Input, Ticks(0));
                while device.deadline().is_some() {
                    device.advance(Ticks(0));
                }
            }
        }
    }

    fn event(&self, driver: &mut SocketDriver) -> Option<VsockEventType> {
        self.answer_bells();
        let event = driver.poll().unwrap();
        self.answer_bells();
        event.map(|event| event.event_type)
    }

    fn connect(&self, [first, second]: &mut [SocketDriver; 2]) {
        second.listen(SECOND.port);
        first.connect(SECOND, FIRST.port).unwrap();
        assert_eq!(self.event(second), Some(VsockEventType::ConnectionRequest));
        assert_eq!(self.event(first), Some(VsockEventType::Connected));
    }
}

const RESET: Option<VsockEventType> =
    Some(VsockEventType::Disconnected { reason: DisconnectReason::Reset });

#[test]
fn two_drivers_of_others_send_each_other_more_than_all_buffers_hold() {
    let group = Group::new();
    let mut drivers = group.drivers();
    group.connect(&mut drivers);
    let byte = |who: usize, at: usize| u8::try_from((at + who) % 251).unwrap();
    let (mut sent, mut got, mut blocked) = ([0; 2], [0; 2], [false; 2]);
    let total = 200_000;
    for round in 1..20_000usize {
        if got == [total; 2] {
            break;
        }
        for (who, peer, port) in [(0, SECOND, FIRST.port), (1, FIRST, SECOND.port)] {
            // Each takes what has come at times of its own.
            if round % (who + 16) == 0 {
                while let Some(event) = group.event(&mut drivers[who]) {
                    let VsockEventType::Received { length } = event else { continue };
                    let mut bytes = vec![0; length];
                    assert_eq!(drivers[who].recv(peer, port, &mut bytes).unwrap(), length);
                    let mut at = got[who]..;
                    assert!(bytes.iter().all(|one| *one == byte(1 - who, at.next().unwrap())));
                    got[who] += length;
                    drivers[who].update_credit(peer, port).unwrap();
                }
            }
            let size = (round * 37 % 3000).min(total - sent[who]);
            let bytes: Vec<u8> = (sent[who]..sent[who] + size).map(|at| byte(who, at)).collect();
            match drivers[who].send(peer, port, &bytes) {
                Ok(()) => sent[who] += size,
                Err(Error::SocketDeviceError(SocketError::InsufficientBufferSpaceInPeer)) => {
                    blocked[who] = true;
                }
                Err(error) => panic!("{error}"),
            }
            group.answer_bells();
        }
    }
    assert_eq!((got, blocked), ([total; 2], [true; 2]));
}

#[test]
fn two_drivers_of_others_end_a_stream_and_refuse_one() {
    let group = Group::new();
    let mut drivers = group.drivers();
    for _ in 0..100 {
        group.connect(&mut drivers);
        let [first, second] = &mut drivers;
        first.send(SECOND, FIRST.port, b"last words").unwrap();
        first.shutdown(SECOND, FIRST.port).unwrap();
        assert_eq!(group.event(second), Some(VsockEventType::Received { length: 10 }));
        let mut bytes = [0; 10];
        assert_eq!(second.recv(FIRST, SECOND.port, &mut bytes).unwrap(), 10);
        assert_eq!(&bytes, b"last words");
        let reason = DisconnectReason::Shutdown;
        assert_eq!(group.event(second), Some(VsockEventType::Disconnected { reason }));
        assert_eq!(group.event(first), RESET);
        // Where nobody listens, and where nobody is.
        for nobody in [VsockAddr { port: 9, ..SECOND }, VsockAddr { cid: 7, port: 9 }] {
            first.connect(nobody, FIRST.port).unwrap();
            assert_eq!(group.event(second), None);
            assert_eq!(group.event(first), RESET);
        }
        assert_eq!((group.event(first), group.event(second)), (None, None));
    }
}

#[test]
fn a_driver_that_begins_anew_is_seen_to_be_gone_and_is_connected_to_again() {
    let group = Group::new();
    let mut drivers = group.drivers();
    for _ in 0..5 {
        group.connect(&mut drivers);
        let [mut first, mut second] = drivers;
        second.send(FIRST, SECOND.port, b"before").unwrap();
        drop(second);
        group.devices[1].set(0x070, 0);
        // Nobody is there to be asked.
        first.connect(VsockAddr { port: 201, ..SECOND }, 101).unwrap();
        let mut second = SocketDriver::new(VirtIOSocket::new(group.devices[1].clone()).unwrap());
        let events: Vec<_> = (0..3).map(|_| group.event(&mut first)).collect();
        let received = Some(VsockEventType::Received { length: 6 });
        assert_eq!(events, [RESET, received, RESET]);
        assert_eq!(first.recv(SECOND, FIRST.port, &mut [0; 6]).unwrap(), 6);
        assert_eq!((group.event(&mut first), group.event(&mut second)), (None, None));
        drivers = [first, second];
    }
}
