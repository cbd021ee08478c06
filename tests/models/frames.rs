//! A VM is taken apart while another one's card sends to it, and a third one gets its memory.

use plinth::host::allotment::Allotment;
use plinth::hypervisor::{Hypervisor, Refusal};
use plinth::machine::fake::Op;
use plinth::manifest::{self, CardConfig, MachineConfig, Manifest, NetworkConfig, WhenIdle};
use plinth::net::{MacAddr, PortConfig};
use plinth::sched::VmId;
use plinth::vgic::GicVersion::V3;
use plinth::vm::{Status, Stop};

use crate::asking::SLOT;
use crate::code::{Code, handler, store};
use crate::common::{
    ENTRY, Guest, LOOP, RAM, SYSTEM_OFF, SYSTEM_RESET, elf, gicd, guest, prologue, psci, wait_loop,
};
use crate::ram;
use crate::stage::{Actor, choose, explore, interrupt, room, run_with};

const SCHEDULES: usize = 60;
const SENDS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const RECEIVES: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const RECEIVER: VmId = VmId(1);
const NEXT: VmId = VmId(2);
/// Where the receiver's and the next one's first instructions are.
const WAITS: u64 = ENTRY + 0x9000;
const LATER: u64 = ENTRY + 0xa000;
/// Where the ring is, and what is in it, at either end.
const RING: u64 = ENTRY + 0x2000;
const FRAMES: u64 = ENTRY + 0x4000;
const CHAINS: u16 = 8;
/// A frame and the header before it.
const SIZE: u32 = 12 + 14 + 128;
/// What is in a frame, and nowhere else.
const SENT: u8 = 0xd5;
/// The card's interrupt.
const CARD: u64 = 48;
const CPUS: u64 = 2;
/// Two VMs and their tables, and no third one.
const MEMORY: u64 = 2 * RAM + (48 << 10);

/// A kernel with a ring of buffers, which are for frames to come or hold frames to go.
fn kernel(entry: u64, sends: bool) -> Vec<u8> {
    let mut bytes = vec![0; 0xc000];
    let mut put = |at: u64, new: &[u8]| {
        let at = usize::try_from(at - ENTRY).unwrap();
        bytes[at..at + new.len()].copy_from_slice(new);
    };
    for number in 0..CHAINS {
        let at = FRAMES + 0x200 * u64::from(number);
        let flags: u16 = if sends { 0 } else { 2 };
        let descriptor =
            [&at.to_le_bytes()[..], &SIZE.to_le_bytes(), &flags.to_le_bytes()].concat();
        put(RING + 16 * u64::from(number), &descriptor);
        put(RING + 0x404 + 2 * u64::from(number), &number.to_le_bytes());
        put(RING + 0x402, &(number + 1).to_le_bytes());
        if sends {
            let mut frame = [&[0; 12], &RECEIVES.0[..], &SENDS.0, &[0x88, 0xb5]].concat();
            frame.resize(usize::try_from(SIZE).unwrap(), SENT);
            put(at, &frame);
        }
    }
    let mut file = elf(ENTRY, &bytes, 0xd000);
    file[24..32].copy_from_slice(&entry.to_le_bytes());
    file
}

fn set(offset: u64, value: u64) -> Op {
    store(SLOT + offset, value)
}

/// "Device Initialization", with one queue: to receive, or to send.
fn begin(queue: u64) -> Vec<Op> {
    let features = [(0x070, 3), (0x024, 1), (0x020, 1), (0x070, 11)];
    let ring = [
        (0x030, queue),
        (0x044, 0),
        (0x038, CHAINS.into()),
        (0x080, RING),
        (0x090, RING + 0x400),
        (0x0a0, RING + 0x600),
        (0x044, 1),
        (0x070, 15),
    ];
    features.into_iter().chain(ring).map(|(at, value)| set(at, value)).collect()
}

fn bundle() -> Manifest<'static> {
    let card = |mac| vec![CardConfig { network: 0, port: PortConfig::new(mac) }];
    let guests = [
        Guest { kernel: kernel(ENTRY, true), nets: card(SENDS), ..guest("sends", 1) },
        Guest { kernel: kernel(WAITS, false), nets: card(RECEIVES), ..guest("receives", 1) },
        Guest { kernel: elf(LATER, &[0x5a; 64], 0x1000), autostart: false, ..guest("next", 1) },
    ];
    let sources: Vec<_> =
        guests.iter().map(|guest| guest.map(String::as_str, Vec::as_slice)).collect();
    let machine = MachineConfig { when_idle: WhenIdle::Wait, ..MachineConfig::default() };
    let network = NetworkConfig { name: "net", uplink: false };
    let bytes = manifest::write(&machine, &[network], &sources).unwrap();
    manifest::read(Box::leak(bytes.into_boxed_slice())).unwrap()
}

/// The receiver goes; then the next one is to start.
fn monitor(actor: &Actor, hypervisor: &'static Hypervisor) {
    actor.wait(choose(500));
    interrupt(actor.world(), choose(CPUS), |hypervisor, machine| {
        hypervisor.destroy(machine, RECEIVER).unwrap();
    });
    actor.wait_until(50, "the next VM starts", || {
        interrupt(actor.world(), choose(CPUS), |hypervisor, machine| {
            match hypervisor.start_vm(machine, NEXT) {
                // The memory is not there yet; or it was, when this was asked before.
                Ok(()) | Err(Refusal::Create(_) | Refusal::Running | Refusal::Stopping) => {}
                Err(other) => panic!("{other}"),
            }
        });
        hypervisor.vm(NEXT).is_some()
    });
}

#[test]
fn no_frame_comes_into_memory_that_is_not_its_receivers_any_more() {
    let bundle = bundle();
    explore(SCHEDULES, move || {
        let cpus = u8::try_from(CPUS).unwrap();
        let mut room = room(V3, cpus, &bundle, MEMORY, Allotment::default());
        let mut sends = Code::at(ENTRY);
        for _ in 0..6 {
            // From the start of its ring again.
            sends = sends.then(&begin(1)).then(&[set(0x050, 1), Op::Mark(1), Op::Work(choose(60))]);
            sends = sends.then(&[set(0x070, 0)]);
        }
        let sends = sends.then(&[psci(SYSTEM_OFF)]);
        let interrupts = [store(gicd(0x104), 1 << (CARD - 32)), store(gicd(0x830), 0x0101_0101)];
        let waits = Code::at(WAITS).then(&prologue(V3, 0)).then(&interrupts).then(&begin(0));
        let waits = match choose(2) {
            0 => waits.then(&[Op::Branch(LOOP)]),
            _ => waits.then(&[Op::Work(200), psci(SYSTEM_RESET)]),
        };
        let handler = handler(&[(CARD, set(0x064, 1))]);
        let later = Code::at(LATER).then(&[Op::Work(500), psci(SYSTEM_OFF)]);
        // Each attempt to build it takes the next one.
        for vmid in 0..=u8::MAX {
            for code in [&sends, &waits, &handler, &later] {
                room.world.program(vmid, code.parts().0, code.parts().1);
            }
            room.world.program(vmid, LOOP, &wait_loop());
        }
        let hypervisor = room.hypervisor;
        run_with(&mut room, vec![Box::new(move |actor| monitor(actor, hypervisor))]);
        assert_eq!(room.marks(0, 0).len(), 6, "the sender has gone on");
        assert!(room.hypervisor.vm(RECEIVER).is_none());
        let vm = room.hypervisor.vm(NEXT).expect("it was started");
        assert_eq!(vm.status(), Status::Stopped(Stop::Off));
        drop(vm);
        // The next one has the frames that the receiver had, and had them erased.
        assert_eq!(ram::rows_of(SENT), usize::from(CHAINS), "what the sender has, and no more");
        for vm in [VmId(0), NEXT] {
            room.ask(0, |hypervisor, machine| hypervisor.destroy(machine, vm)).unwrap();
        }
        for cpu in (0..room.cpus.len()).cycle().take(8) {
            room.step(cpu);
        }
        assert_eq!(room.hypervisor.memory().free, MEMORY, "all is back");
    });
}
