//! Accesses to devices by every width, at every offset, aligned or not, of every register and none, with and without a sign:
//! what becomes of registers and of the device, against what the instruction says in plain arithmetic.
//!
//! What a device makes of a width is its own affair, and its own tests'. Here it is what an unsigned load of 64 bits says.

use std::sync::Arc;

use crate::common::*;
use plinth::addr::Ipa;
use plinth::exit::{Direction, Exit, Gpr, MmioAccess, Width};
use plinth::machine::fake::{Op, SYNC_VECTOR, Scripted, World};
use plinth::machine::{CpuId, El1Register, Machine};
use plinth::memory::{Uncached, Vmids};
use plinth::vcpu::{Vcpu, VcpuId};
use plinth::vgic::GicVersion::{self, V2, V3};
use plinth::vm::{Next, Vm, layout};

const ME: VcpuId = VcpuId(0);
const WIDTHS: [Width; 4] = [Width::Byte, Width::Half, Width::Word, Width::Double];
/// `XZR`.
const ZERO: u8 = 31;
/// `ESR_EL1` of a synchronous external abort on a load; on a store it has `WnR`.
const ABORT: u64 = 0x25 << 26 | 1 << 25 | 0b01_0000;
const WNR: u64 = 1 << 6;

/// 16 bytes of each device, of which some can be read and some written, and what the first word reads.
fn places(gic: GicVersion) -> Vec<(u64, Option<u64>)> {
    let [uart, rtc, gpio] = [layout::UART, layout::RTC, layout::GPIO].map(|it| it.base.raw());
    let (virtio, gicd) = (layout::VIRTIO.base.raw(), layout::GICD.base.raw());
    let gicr = layout::GICR.base.raw();
    let mut places = vec![
        (uart + 0x24, None),         // UARTIBRD and what follows
        (uart + 0xfe0, Some(0x11)),  // UARTPeriphID0
        (rtc + 0x04, None),          // RTCMR and what follows
        (rtc + 0xfe0, Some(0x31)),   // RTCPeriphID0
        (gpio + 0x400, None),        // GPIODIR and what follows
        (gpio + 0xfe0, Some(0x61)),  // GPIOPeriphID0
        (virtio, Some(0x7472_6976)), // MagicValue
        (virtio + 0x10, None),       // DeviceFeatures
        (virtio + 0x100, None),      // Config
        (virtio + 31 * layout::VIRTIO_STRIDE, Some(0x7472_6976)), // an empty slot
        (gicd + 0x420, Some(0)),     // GICD_IPRIORITYR8
        (gicd + 0xc08, None),        // GICD_ICFGR2
    ];
    if gic == V3 {
        places.extend([
            (gicd + 0x6100, None),      // GICD_IROUTER32
            (gicr + 0x1_0410, Some(0)), // GICR_IPRIORITYR4
            (gicr, None),               // GICR_CTLR and GICR_TYPER
        ]);
    }
    places
}

/// A VM, one of whose vCPUs is loaded.
struct Bench {
    world: Arc<World>,
    machine: Scripted,
    vm: Vm,
    vcpu: Vcpu,
    vmid: u8,
    /// What could be answered at once is not.
    the_long_way: bool,
}

/// Both controllers, and on one of them what is answered at once otherwise.
const BENCHES: [(GicVersion, bool); 3] = [(V2, false), (V3, false), (V3, true)];

impl Bench {
    fn new(gic: GicVersion, the_long_way: bool) -> Self {
        let (mut frames, mut vmids) = (pool(RAM + (1 << 20)), Vmids::new());
        let manifest = bundle(&[guest("one", 1)]);
        let (vm, _) =
            create(&manifest, 0, 0, &host(gic, 1), &mut frames, &mut vmids, &Uncached).unwrap();
        let world = World::new(1, Box::new(|_, _| {}));
        let mut machine = Scripted::new(CpuId(0), world.clone(), 4);
        let mut vcpu = Vcpu::at_reset(ENTRY, 0);
        vcpu.el1.vbar_el1 = VECTORS;
        machine.load(&vcpu, &vm.space(ME, CpuId(0), false));
        let vmid = vmid(&vm);
        Self { world, machine, vm, vcpu, vmid, the_long_way }
    }

    /// The guest makes an access. The syndrome of the exception that it is given, if any.
    fn access(&mut self, at: u64, width: Width, direction: Direction, gpr: u8) -> Option<u64> {
        let ipa = Ipa::new(at);
        let gpr = Gpr::new(gpr.into());
        let exit = Exit::Mmio(MmioAccess { ipa, far: at, width, direction, gpr, swapped: false });
        self.world.program(self.vmid, ENTRY, &[Op::Exit(exit)]);
        self.vcpu.regs.pc = ENTRY;
        self.machine.write_el1(El1Register::Esr, 0);
        while self.machine.run(&mut self.vcpu.regs) != exit {}
        let (machine, vcpu) = (&mut self.machine, &mut self.vcpu);
        if self.the_long_way || self.vm.answer(machine, ME, vcpu, exit).is_none() {
            assert_eq!(self.vm.handle(machine, ME, vcpu, exit).next, Next::Resume);
        }
        let esr = self.machine.read_el1(El1Register::Esr);
        let goes_on = if esr == 0 { ENTRY + 4 } else { VECTORS + SYNC_VECTOR };
        assert_eq!(self.vcpu.regs.pc, goes_on);
        (esr != 0).then_some(esr)
    }

    /// What an unsigned load of 64 bits finds; nothing where it is not aligned.
    fn plain(&mut self, at: u64, width: Width) -> Option<u64> {
        let direction = Direction::Read { sign_extend: false, sixty_four: true };
        let esr = self.access(at, width, direction, 9);
        assert_eq!(esr.is_none(), at.is_multiple_of(width.bytes()));
        esr.is_none().then(|| self.vcpu.regs.x[9])
    }

    /// The words from there on.
    fn words(&mut self, at: u64) -> [Option<u64>; 4] {
        [0, 4, 8, 12].map(|offset| self.plain(at + offset, Width::Word))
    }

    /// A store of `value` by a register that has more than that above it.
    fn store(&mut self, at: u64, width: Width, gpr: u8, value: u64) -> Option<u64> {
        if let Some(register) = self.vcpu.regs.x.get_mut(usize::from(gpr)) {
            let bits = 8 * width.bytes();
            let above = if bits == 64 { 0 } else { 0x5a5a_5a5a_5a5a_5a5a << bits };
            *register = value & (u64::MAX >> (64 - bits)) | above;
        }
        self.access(at, width, Direction::Write, gpr)
    }

    /// Registers that are all different, with and without a sign in each of their parts.
    fn fill(&mut self) -> [u64; 31] {
        let mut next = 0x8070_e05f_9b3c_a4d1u64;
        let x = std::array::from_fn(|_| {
            next = next.rotate_left(2);
            next
        });
        self.vcpu.regs.x = x;
        x
    }
}

/// What a load leaves in its register.
fn extended(value: u64, width: Width, sign_extend: bool, sixty_four: bool) -> u64 {
    let bits = 8 * u32::try_from(width.bytes()).unwrap();
    let modulus = 1u128 << bits;
    let is_negative = sign_extend && u128::from(value) >= modulus / 2;
    let all = if sixty_four { 1u128 << 64 } else { 1 << 32 };
    // A number that is below nothing by as much, in as many bits as there are.
    let whole = if is_negative { u128::from(value) + all * 2 - modulus } else { value.into() };
    u64::try_from(whole % all).unwrap()
}

#[test]
#[cfg_attr(miri, ignore = "very many accesses")]
fn a_load_leaves_what_it_says_in_its_register_and_nothing_anywhere_else() {
    for (gic, the_long_way) in BENCHES {
        let mut bench = Bench::new(gic, the_long_way);
        for (base, first) in places(gic) {
            if let Some(first) = first {
                assert_eq!(bench.plain(base, Width::Word), Some(first), "{base:#x}");
            }
            // Bytes with and without a sign, where they can be written.
            for offset in [0, 4, 8, 12] {
                bench.store(base + offset, Width::Word, 1, 0x90f8_7088);
            }
            for (width, offset) in WIDTHS.iter().flat_map(|width| (0..16).map(|at| (*width, at))) {
                let (at, value) = (base + offset, bench.plain(base + offset, width));
                for (sign_extend, sixty_four) in
                    [(false, false), (false, true), (true, false), (true, true)]
                {
                    for gpr in 0..=ZERO {
                        let mut expected = bench.fill();
                        let direction = Direction::Read { sign_extend, sixty_four };
                        let esr = bench.access(at, width, direction, gpr);
                        assert_eq!(esr, value.is_none().then_some(ABORT), "{at:#x} {width:?}");
                        let loaded = value.map(|it| extended(it, width, sign_extend, sixty_four));
                        if let (Some(loaded), Some(register)) =
                            (loaded, expected.get_mut(usize::from(gpr)))
                        {
                            *register = loaded;
                        }
                        assert!(
                            bench.vcpu.regs.x == expected,
                            "{at:#x} {width:?} {direction:?} x{gpr}: {value:x?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "very many accesses")]
fn a_store_writes_its_registers_lowest_bits_and_of_none_zeroes() {
    for (gic, the_long_way) in BENCHES {
        let mut bench = Bench::new(gic, the_long_way);
        for (base, _) in places(gic) {
            for (width, offset) in WIDTHS.iter().flat_map(|width| (0..16).map(|at| (*width, at))) {
                let at = base + offset;
                let mut after = |gpr: u8, value: u64| {
                    for (word, offset) in [0, 4, 8, 12].into_iter().enumerate() {
                        let before = (0x0101_0101 * (word as u64 + 1)) | 0xf0f0_0000;
                        bench.store(base + offset, Width::Word, 1, before);
                    }
                    let before = bench.words(base);
                    let esr = bench.store(at, width, gpr, value);
                    let aligned = at.is_multiple_of(width.bytes());
                    assert_eq!(esr, (!aligned).then_some(ABORT | WNR), "{at:#x} {width:?}");
                    let words = bench.words(base);
                    assert!(aligned || words == before, "{at:#x} {width:?}: refused, and done");
                    words
                };
                let (some, none) = (after(2, 0x8877_6655_4433_2211), after(2, 0));
                for gpr in [0, 17, 29, 30] {
                    let words = after(gpr, 0x8877_6655_4433_2211);
                    assert_eq!(words, some, "{at:#x} {width:?} x{gpr}");
                }
                assert_eq!(after(ZERO, u64::MAX), none, "{at:#x} {width:?} xzr");
            }
        }
        // Of one that is written by bytes and words, all of it is known.
        let priorities = layout::GICD.base.raw() + 0x420;
        for (width, offset) in [(Width::Byte, 0), (Width::Byte, 7), (Width::Word, 12)] {
            let mut bytes = [0x10u8; 16];
            for word in [0, 4, 8, 12] {
                bench.store(priorities + word, Width::Word, 1, 0x1010_1010);
            }
            bench.store(priorities + offset, width, 3, 0xc8d0_d8e0);
            let end = usize::try_from(offset + width.bytes()).unwrap();
            let stored = 0xc8d0_d8e0u32.to_le_bytes();
            let count = usize::try_from(width.bytes()).unwrap();
            bytes[end - count..end].copy_from_slice(&stored[..count]);
            let words =
                [0, 4, 8, 12].map(|at| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
            assert_eq!(bench.words(priorities), words.map(|word| Some(word.into())));
        }
    }
}
