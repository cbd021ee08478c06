//! Why a guest stopped: `ESR_EL2`, `FAR_EL2` and `HPFAR_EL2` decoded once (Arm ARM, "ESR_EL2,
//! Exception Syndrome Register (EL2)"). Nothing after this file sees a syndrome.
//!
//! What cannot be decoded is a variant of its own, never a guess.

use aarch64_cpu::registers::ESR_EL2;
use tock_registers::LocalRegisterCopy;
use tock_registers::register_bitfields;

use crate::addr::Ipa;

register_bitfields! { u32,
    /// ISS of a Data Abort (Arm ARM, "ISS encoding for an exception from a Data Abort"). AR, whether it acquires or releases, is not
    /// looked at: whoever answers takes a lock and lets it go, which orders at least as much.
    DataAbortIss [
        ISV OFFSET(24) NUMBITS(1) [],
        SAS OFFSET(22) NUMBITS(2) [],
        SSE OFFSET(21) NUMBITS(1) [],
        SRT OFFSET(16) NUMBITS(5) [],
        SF OFFSET(15) NUMBITS(1) [],
        FnV OFFSET(10) NUMBITS(1) [],
        EA OFFSET(9) NUMBITS(1) [],
        CM OFFSET(8) NUMBITS(1) [],
        S1PTW OFFSET(7) NUMBITS(1) [],
        WnR OFFSET(6) NUMBITS(1) [],
        DFSC OFFSET(0) NUMBITS(6) []
    ],
    /// ISS of an exception from HVC or SMC in AArch64 state.
    CallIss [
        imm16 OFFSET(0) NUMBITS(16) []
    ],
    /// ISS of a trapped WF* instruction.
    WfxIss [
        TI OFFSET(0) NUMBITS(2) [ Wfi = 0, Wfe = 1, Wfit = 2, Wfet = 3 ]
    ]
}

/// The width of one access; the discriminant is `ESR_EL2.ISS.SAS`, the logarithm of the bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Width {
    /// 1 byte.
    Byte = 0,
    /// 2 bytes.
    Half = 1,
    /// 4 bytes.
    Word = 2,
    /// 8 bytes.
    Double = 3,
}

impl Width {
    /// How many bytes.
    #[inline(always)]
    pub const fn bytes(self) -> u64 {
        // A shift is shorter than a table.
        1 << self as u32
    }

    /// The bits of a value that this access moves.
    #[inline(always)]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// A general-purpose register as an instruction names it: 31 is the zero register.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Gpr(u8);

impl Gpr {
    /// The zero register.
    pub const ZERO: Self = Self(31);

    /// The register of a 5-bit field.
    pub const fn new(field: u32) -> Self {
        Self((field & 0x1f) as u8)
    }

    /// The index into `x0..x30`; `None` for the zero register.
    #[inline(always)]
    pub fn index(self) -> Option<usize> {
        (self.0 < 31).then_some(usize::from(self.0))
    }
}

/// What a data access does with its register.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// A load into `gpr`.
    Read {
        /// Bit 8·width − 1 is copied upwards.
        sign_extend: bool,
        /// The register is written as `X`, not as `W`: extended to 64 bits rather than to 32.
        sixty_four: bool,
    },
    /// A store of `gpr`.
    Write,
}

/// A guest's data access that stage 2 did not map, as `ESR_EL2` describes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MmioAccess {
    /// The first byte.
    pub ipa: Ipa,
    /// The virtual address, for the abort the guest may get instead of an answer.
    pub far: u64,
    /// How wide.
    pub width: Width,
    /// Load or store.
    pub direction: Direction,
    /// The register loaded or stored.
    pub gpr: Gpr,
    /// The guest is big-endian: device registers are little-endian, so the bytes change places. The
    /// syndrome does not tell; whoever knows the guest's state sets it.
    pub swapped: bool,
}

impl MmioAccess {
    /// What a store of `value` moves, in the device's byte order; and a load likewise.
    #[inline(always)]
    pub const fn stored(&self, value: u64) -> u64 {
        if self.swapped {
            value.swap_bytes() >> (64 - 8 * self.width.bytes())
        } else {
            value & self.width.mask()
        }
    }

    /// What a load leaves in its register when the device answered `value`.
    #[inline(always)]
    pub fn extend(&self, value: u64) -> u64 {
        let Direction::Read { sign_extend, sixty_four } = self.direction else { return value };
        let mut value = self.stored(value);
        let sign = 1 << (8 * self.width.bytes() - 1);
        if sign_extend && value & sign != 0 {
            value |= !self.width.mask();
        }
        if sixty_four { value } else { value & 0xffff_ffff }
    }
}

/// What was tried when stage 2 faulted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FaultSource {
    /// A data access whose instruction the syndrome does not describe (`ISV` = 0: a pair, a
    /// write-back form, SIMD, an exclusive …).
    Data {
        /// A store.
        write: bool,
    },
    /// Cache maintenance or address translation by VA.
    Maintenance,
    /// An instruction fetch.
    Fetch,
}

/// A stage-2 fault that is not an access a device can answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StageTwoFault {
    /// Where; `None` for a fault whose `HPFAR_EL2` is UNKNOWN (permission faults, external aborts).
    pub ipa: Option<Ipa>,
    /// The virtual address; `None` when the syndrome says it is not valid.
    pub far: Option<u64>,
    /// What was tried.
    pub source: FaultSource,
    /// It happened on the guest's own page-table walk (`S1PTW`).
    pub walk: bool,
}

/// Why the guest stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// A physical interrupt is pending at EL2.
    Irq,
    /// A data access to an unmapped IPA, fully described.
    Mmio(MmioAccess),
    /// Any other stage-2 fault.
    Fault(StageTwoFault),
    /// The bus refused an access (synchronous external abort).
    ExternalAbort(StageTwoFault),
    /// `HVC #imm`; the PC is already behind it.
    Hvc(u16),
    /// A trapped `SMC #imm`; the PC is still on it.
    Smc(u16),
    /// A trapped `MSR`, `MRS` or system instruction: the raw ISS, decoded by `vm::sysreg`.
    Sysreg {
        /// The 25-bit ISS.
        iss: u32,
    },
    /// `WFI`, or `WFIT` taken as one.
    Wfi,
    /// `WFE`, or `WFET` taken as one.
    Wfe,
    /// An instruction of a feature the guest does not have (SVE, pointer authentication, AArch32
    /// coprocessors, …): it gets an UNDEFINED exception.
    NotOffered,
    /// An asynchronous external abort (SError) arrived while the guest ran.
    SError {
        /// `ESR_EL2`.
        esr: u64,
    },
    /// A syndrome this hypervisor never asked for.
    Unexpected {
        /// `ESR_EL2`.
        esr: u64,
    },
}

impl Exit {
    /// The exit for a synchronous exception or SError from the guest. `fault` reads `FAR_EL2` and `HPFAR_EL2`,
    /// where that is of use.
    #[inline(always)]
    pub fn decode(esr: u64, fault: impl FnOnce() -> (u64, u64)) -> Self {
        let class = esr >> 26 & 0x3f;
        let iss = (esr & 0x1ff_ffff) as u32;
        match class {
            class::DATA_ABORT => {
                let (far, hpfar) = fault();
                data_abort(iss, far, hpfar)
            }
            class::HVC64 => Self::Hvc((iss & 0xffff) as u16),
            class::SYSREG => Self::Sysreg { iss },
            class::SMC64 => Self::Smc((iss & 0xffff) as u16),
            class::INSTRUCTION_ABORT => {
                let (far, hpfar) = fault();
                instruction_abort(iss, far, hpfar)
            }
            class::WFX => {
                let wfx = LocalRegisterCopy::<u32, WfxIss::Register>::new(iss);
                match wfx.read_as_enum(WfxIss::TI) {
                    Some(WfxIss::TI::Value::Wfe | WfxIss::TI::Value::Wfet) => Self::Wfe,
                    _ => Self::Wfi,
                }
            }
            class::SERROR => Self::SError { esr },
            _ if is_unoffered_class(class) => Self::NotOffered,
            _ => Self::Unexpected { esr },
        }
    }
}

/// `ESR_EL2.EC`, of what is decoded (Arm ARM, "ESR_EL2.EC").
mod class {
    use super::ESR_EL2::EC::Value;

    pub const WFX: u64 = Value::TrappedWFIorWFE as u64;
    pub const HVC64: u64 = Value::HVC64 as u64;
    pub const SMC64: u64 = Value::SMC64 as u64;
    pub const SYSREG: u64 = Value::TrappedMsrMrs as u64;
    pub const INSTRUCTION_ABORT: u64 = Value::InstrAbortLowerEL as u64;
    pub const DATA_ABORT: u64 = Value::DataAbortLowerEL as u64;
    pub const SERROR: u64 = Value::SError as u64;
}

/// Exception classes by which a guest reaches for what its ID registers do not offer, or for AArch32
/// coprocessors from EL0 (Arm ARM, "ESR_EL2.EC").
const fn is_unoffered_class(class: u64) -> bool {
    matches!(
        class,
        0x00 // unknown reason: an undefined instruction under a trap this CPU does not name
        | 0x03
            ..=0x06 // MCR, MRC, MCRR, MRRC, LDC, STC
        | 0x07 // FP and SIMD
        | 0x08 // VMRS
        | 0x09 // pointer authentication
        | 0x0a // LS64 and other trapped instructions
        | 0x0c // MRRC to coprocessor 14
        | 0x12 | 0x13 // HVC and SMC from AArch32
        | 0x14 // 128-bit system registers
        | 0x19 // SVE
        | 0x1a // ERET with nested virtualisation
        | 0x1b // TSTART
        | 0x1c // pointer authentication failure
        | 0x1d // SME
        | 0x27 // memory copy instructions
        | 0x2d // GCS
    )
}

/// Fault status codes shared by both kinds of abort (Arm ARM, "ISS encoding …", `DFSC`, `IFSC`).
fn has_fault_ipa(status: u32, walk: bool) -> bool {
    // Address size (0b0000LL), translation (0b0001LL) and access flag (0b0010LL) faults; a permission
    // fault (0b0011LL) only on a page-table walk.
    matches!(status >> 2, 0b0000..=0b0010) || (status >> 2 == 0b0011 && walk)
}

/// The faulting guest-physical address: `HPFAR_EL2.FIPA` gives the page, `FAR_EL2` the byte in it.
/// (Arm ARM, "HPFAR_EL2, Hypervisor IPA Fault Address Register".)
fn fault_ipa(hpfar: u64, far: u64) -> Ipa {
    const FIPA: u64 = 0x0000_0fff_ffff_fff0;
    Ipa::new(((hpfar & FIPA) << 8) | (far & 0xfff))
}

fn is_external(status: u32) -> bool {
    // 0b010000: on the access; 0b0100xx, 0b0101xx: on a walk; 0b0110xx, 0b0111xx: parity or ECC.
    matches!(status >> 3, 0b010 | 0b011)
}

#[inline(always)]
fn data_abort(iss: u32, far: u64, hpfar: u64) -> Exit {
    // Nearly always: a translation fault on an access that the syndrome describes.
    const TRANSLATION: u32 = 0b000100;
    let ordinary = DataAbortIss::ISV::SET + DataAbortIss::DFSC.val(TRANSLATION);
    let others = DataAbortIss::CM::SET + DataAbortIss::S1PTW::SET + DataAbortIss::DFSC.val(!0b11);
    let iss = LocalRegisterCopy::<u32, DataAbortIss::Register>::new(iss);
    if iss.get() & (ordinary.mask() & !0b11 | others.value) == ordinary.value {
        return described_access(iss, fault_ipa(hpfar, far), far);
    }
    decode_data_abort(iss, far, hpfar)
}

/// Any data abort.
#[cold]
fn decode_data_abort(
    iss: LocalRegisterCopy<u32, DataAbortIss::Register>,
    far: u64,
    hpfar: u64,
) -> Exit {
    let status = iss.read(DataAbortIss::DFSC);
    let walk = iss.is_set(DataAbortIss::S1PTW);
    let write = iss.is_set(DataAbortIss::WnR);
    let source = if iss.is_set(DataAbortIss::CM) {
        FaultSource::Maintenance
    } else {
        FaultSource::Data { write }
    };
    let ipa = has_fault_ipa(status, walk).then(|| fault_ipa(hpfar, far));
    let valid_far = (!is_external(status) || !iss.is_set(DataAbortIss::FnV)).then_some(far);
    let fault = StageTwoFault { ipa, far: valid_far, source, walk };
    if is_external(status) {
        return Exit::ExternalAbort(fault);
    }
    let (true, false, false, Some(ipa)) =
        (iss.is_set(DataAbortIss::ISV), iss.is_set(DataAbortIss::CM), walk, ipa)
    else {
        return Exit::Fault(fault);
    };
    described_access(iss, ipa, far)
}

/// An access that the syndrome describes (`ISV` = 1).
#[inline(always)]
fn described_access(
    iss: LocalRegisterCopy<u32, DataAbortIss::Register>,
    ipa: Ipa,
    far: u64,
) -> Exit {
    Exit::Mmio(MmioAccess {
        ipa,
        far,
        width: match iss.read(DataAbortIss::SAS) {
            0 => Width::Byte,
            1 => Width::Half,
            2 => Width::Word,
            _ => Width::Double,
        },
        direction: if iss.is_set(DataAbortIss::WnR) {
            Direction::Write
        } else {
            Direction::Read {
                sign_extend: iss.is_set(DataAbortIss::SSE),
                sixty_four: iss.is_set(DataAbortIss::SF),
            }
        },
        gpr: Gpr::new(iss.read(DataAbortIss::SRT)),
        swapped: false,
    })
}

#[inline]
fn instruction_abort(iss: u32, far: u64, hpfar: u64) -> Exit {
    let iss = LocalRegisterCopy::<u32, DataAbortIss::Register>::new(iss);
    let status = iss.read(DataAbortIss::DFSC);
    let walk = iss.is_set(DataAbortIss::S1PTW);
    let valid_far = (!is_external(status) || !iss.is_set(DataAbortIss::FnV)).then_some(far);
    let ipa = has_fault_ipa(status, walk).then(|| fault_ipa(hpfar, far));
    let fault = StageTwoFault { ipa, far: valid_far, source: FaultSource::Fetch, walk };
    if is_external(status) { Exit::ExternalAbort(fault) } else { Exit::Fault(fault) }
}

#[cfg(test)]
mod exhaustive;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn esr(class: u64, iss: u64) -> u64 {
        class << 26 | 1 << 25 | iss
    }

    fn sync(esr: u64, far: u64, hpfar: u64) -> Exit {
        Exit::decode(esr, || (far, hpfar))
    }

    const ISV: u64 = 1 << 24;
    const WNR: u64 = 1 << 6;
    const TRANSLATION_L3: u64 = 0b000111;

    #[test]
    fn a_word_store_to_the_uart_is_an_mmio_write_of_its_register() {
        let iss = ISV | 2 << 22 | 5 << 16 | WNR | TRANSLATION_L3;
        let exit = sync(esr(0x24, iss), 0xffff_8000_0000_0018, 0x9_0000);
        assert_eq!(
            exit,
            Exit::Mmio(MmioAccess {
                ipa: Ipa::new(0x0900_0018),
                far: 0xffff_8000_0000_0018,
                width: Width::Word,
                direction: Direction::Write,
                gpr: Gpr::new(5),
                swapped: false,
            })
        );
    }

    #[test]
    fn a_load_pair_has_no_valid_syndrome_and_stays_undescribed() {
        let exit = sync(esr(0x24, TRANSLATION_L3), 0x18, 0x9_0000);
        assert_eq!(
            exit,
            Exit::Fault(StageTwoFault {
                ipa: Some(Ipa::new(0x0900_0018)),
                far: Some(0x18),
                source: FaultSource::Data { write: false },
                walk: false,
            })
        );
    }

    #[test]
    fn the_fault_address_of_a_permission_fault_is_not_trusted() {
        let exit = sync(esr(0x24, ISV | 0b001111), 0x18, 0xdead_0000);
        let Exit::Fault(fault) = exit else { panic!("{exit:?}") };
        assert_eq!(fault.ipa, None);
    }

    #[test]
    fn a_fault_on_the_guests_own_walk_is_never_an_mmio_access() {
        let exit = sync(esr(0x24, ISV | 1 << 7 | TRANSLATION_L3), 0x18, 0x9_0000);
        assert!(matches!(exit, Exit::Fault(StageTwoFault { walk: true, .. })));
    }

    #[test]
    fn loads_extend_as_the_instruction_says() {
        let load = |sign_extend, sixty_four, width| MmioAccess {
            ipa: Ipa::new(0),
            far: 0,
            width,
            direction: Direction::Read { sign_extend, sixty_four },
            gpr: Gpr::ZERO,
            swapped: false,
        };
        assert_eq!(load(false, false, Width::Byte).extend(0x1ff), 0xff);
        assert_eq!(load(true, false, Width::Byte).extend(0x80), 0xffff_ff80);
        assert_eq!(load(true, true, Width::Byte).extend(0x80), 0xffff_ffff_ffff_ff80);
        assert_eq!(load(true, true, Width::Word).extend(0x8000_0000), 0xffff_ffff_8000_0000);
        assert_eq!(load(true, true, Width::Half).extend(0x7fff), 0x7fff);
        assert_eq!(load(false, true, Width::Double).extend(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_big_endian_guest_moves_the_same_bytes_the_other_way_round() {
        let access = MmioAccess {
            ipa: Ipa::new(0),
            far: 0,
            width: Width::Word,
            direction: Direction::Read { sign_extend: true, sixty_four: true },
            gpr: Gpr::ZERO,
            swapped: true,
        };
        assert_eq!(access.stored(0xffff_ffff_1122_3344), 0x4433_2211);
        assert_eq!(access.extend(0x8000_0080), 0xffff_ffff_8000_0080);
    }

    #[test]
    fn calls_waits_and_system_registers_are_told_apart() {
        assert_eq!(sync(esr(0x16, 3), 0, 0), Exit::Hvc(3));
        assert_eq!(sync(esr(0x17, 0xffff), 0, 0), Exit::Smc(0xffff));
        assert_eq!(sync(esr(0x01, 0), 0, 0), Exit::Wfi);
        assert_eq!(sync(esr(0x01, 1), 0, 0), Exit::Wfe);
        assert_eq!(sync(esr(0x18, 0x12_3456), 0, 0), Exit::Sysreg { iss: 0x12_3456 });
        assert_eq!(sync(esr(0x19, 0), 0, 0), Exit::NotOffered);
        assert_eq!(sync(esr(0x3c, 0), 0, 0), Exit::Unexpected { esr: esr(0x3c, 0) });
        assert_eq!(sync(esr(0x2f, 3), 0, 0), Exit::SError { esr: esr(0x2f, 3) });
    }

    #[test]
    fn a_bus_error_is_an_external_abort_and_keeps_far_only_when_valid() {
        let valid = sync(esr(0x24, 0b010000), 0x55, 0);
        assert!(matches!(valid, Exit::ExternalAbort(StageTwoFault { far: Some(0x55), .. })));
        let invalid = sync(esr(0x20, 0b010000 | 1 << 10), 0x55, 0);
        assert!(matches!(
            invalid,
            Exit::ExternalAbort(StageTwoFault { far: None, source: FaultSource::Fetch, .. })
        ));
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        #[test]
        fn any_syndrome_decodes(esr: u64, far: u64, hpfar: u64) {
            sync(esr, far, hpfar);
        }
    }
}
