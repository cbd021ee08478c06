//! The self-hosted debug registers of one vCPU (Arm ARM, "AArch64 Self-hosted Debug" and the register
//! titles below), for `MDCR_EL2.TDA`, `TDOSA` and `TDRA`.
//!
//! The guest reads and writes this model; the world switch loads [`DebugRegs::mdscr_in_effect`] and the
//! breakpoints and watchpoints into the CPU. Nothing the guest can store reaches beyond its own two
//! exception levels: the bits that select EL2, a security state or a VMID are dropped.
//! Not modelled: the external debugger, hence the debug communications channel, `OSECCR_EL1`,
//! `DBGPRCR_EL1` and the double lock (all RAZ/WI, decided in `sysreg`).

/// The most breakpoints, and the most watchpoints, the encoding has room for.
pub const MAX_DEBUG_POINTS: usize = 16;

/// A debug register with state. The number is below [`MAX_DEBUG_POINTS`] when it comes from an encoding.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DebugReg {
    /// `MDSCR_EL1`.
    Mdscr,
    /// `OSLAR_EL1`, write-only.
    OsLar,
    /// `OSLSR_EL1`, read-only.
    OsLsr,
    /// `DBGCLAIMSET_EL1`.
    ClaimSet,
    /// `DBGCLAIMCLR_EL1`.
    ClaimClr,
    /// `DBGBVR<n>_EL1`.
    Bvr(u8),
    /// `DBGBCR<n>_EL1`.
    Bcr(u8),
    /// `DBGWVR<n>_EL1`.
    Wvr(u8),
    /// `DBGWCR<n>_EL1`.
    Wcr(u8),
}

/// `MDSCR_EL1.SS`.
const SS: u64 = 1 << 0;
/// `MDSCR_EL1.TDCC`: the only other bit with an effect while no external debugger exists.
const TDCC: u64 = 1 << 12;
/// `MDSCR_EL1.KDE`.
const KDE: u64 = 1 << 13;
/// `MDSCR_EL1.MDE`.
const MDE: u64 = 1 << 15;
/// `DBGBCR<n>_EL1`: E, PMC, BAS, LBN, and BT less its top bit (which selects the VMID).
const BCR_KEPT: u64 = 0x007f_01e7;
/// `DBGWCR<n>_EL1`: E, PAC, LSC, BAS, LBN, WT, MASK.
const WCR_KEPT: u64 = 0x1f1f_1fff;
/// `OSLSR_EL1.OSLM`: the OS Lock is implemented (0b10, in bits 3 and 0).
const OSLM: u64 = 1 << 3;
/// `OSLSR_EL1.OSLK`.
const OSLK: u64 = 1 << 1;
/// The eight CLAIM tags.
const CLAIM_TAGS: u64 = 0xff;

/// One vCPU's debug registers.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct DebugRegs {
    mdscr: u64,
    os_lock: bool,
    claim: u64,
    bvr: [u64; MAX_DEBUG_POINTS],
    bcr: [u64; MAX_DEBUG_POINTS],
    wvr: [u64; MAX_DEBUG_POINTS],
    wcr: [u64; MAX_DEBUG_POINTS],
}

impl Default for DebugRegs {
    /// The state out of reset: everything off, the OS Lock locked.
    fn default() -> Self {
        let off = [0; MAX_DEBUG_POINTS];
        Self { mdscr: 0, os_lock: true, claim: 0, bvr: off, bcr: off, wvr: off, wcr: off }
    }
}

impl DebugRegs {
    /// What the guest reads from `reg`.
    pub fn read(&self, reg: DebugReg) -> u64 {
        let at = |values: &[u64; MAX_DEBUG_POINTS], n: u8| {
            values.get(usize::from(n)).copied().unwrap_or(0)
        };
        match reg {
            DebugReg::Mdscr => self.mdscr,
            DebugReg::OsLar => 0,
            DebugReg::OsLsr => OSLM | if self.os_lock { OSLK } else { 0 },
            DebugReg::ClaimSet => CLAIM_TAGS,
            DebugReg::ClaimClr => self.claim,
            DebugReg::Bvr(n) => at(&self.bvr, n),
            DebugReg::Bcr(n) => at(&self.bcr, n),
            DebugReg::Wvr(n) => at(&self.wvr, n),
            DebugReg::Wcr(n) => at(&self.wcr, n),
        }
    }

    /// The guest writes `value` to `reg`.
    pub fn write(&mut self, reg: DebugReg, value: u64) {
        let (values, n, value) = match reg {
            DebugReg::Mdscr => {
                self.mdscr = value & (SS | TDCC | KDE | MDE);
                return;
            }
            DebugReg::OsLar => {
                self.os_lock = value & 1 != 0;
                return;
            }
            DebugReg::OsLsr => return,
            DebugReg::ClaimSet => {
                self.claim |= value & CLAIM_TAGS;
                return;
            }
            DebugReg::ClaimClr => {
                self.claim &= !value;
                return;
            }
            DebugReg::Bvr(n) => (&mut self.bvr, n, value),
            DebugReg::Bcr(n) => (&mut self.bcr, n, value & BCR_KEPT),
            DebugReg::Wvr(n) => (&mut self.wvr, n, value & !3),
            DebugReg::Wcr(n) => (&mut self.wcr, n, value & WCR_KEPT),
        };
        if let Some(slot) = values.get_mut(usize::from(n)) {
            *slot = value;
        }
    }

    /// The `MDSCR_EL1` to run with: while the OS Lock is locked, no debug exception is generated but that
    /// of a breakpoint instruction.
    pub const fn mdscr_in_effect(&self) -> u64 {
        if self.os_lock { self.mdscr & !(SS | KDE | MDE) } else { self.mdscr }
    }

    /// Whether a breakpoint or watchpoint can fire, so that the CPU's must be loaded.
    pub const fn in_use(&self) -> bool {
        self.mdscr_in_effect() & MDE != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_reset_the_os_lock_is_locked_and_oslar_unlocks_it() {
        let mut debug = DebugRegs::default();
        assert_eq!(debug.read(DebugReg::OsLsr), 0xa);
        debug.write(DebugReg::OsLar, 0xffff_fffe);
        assert_eq!(debug.read(DebugReg::OsLsr), 0x8);
        debug.write(DebugReg::OsLsr, 0x2);
        assert_eq!(debug.read(DebugReg::OsLsr), 0x8);
        debug.write(DebugReg::OsLar, 1);
        assert_eq!(debug.read(DebugReg::OsLsr), 0xa);
    }

    #[test]
    fn a_locked_os_lock_holds_debug_exceptions_back() {
        let mut debug = DebugRegs::default();
        debug.write(DebugReg::Mdscr, 0xb001);
        assert_eq!(debug.read(DebugReg::Mdscr), 0xb001);
        assert_eq!((debug.mdscr_in_effect(), debug.in_use()), (0x1000, false));
        debug.write(DebugReg::OsLar, 0);
        assert_eq!((debug.mdscr_in_effect(), debug.in_use()), (0xb001, true));
    }

    #[test]
    fn no_breakpoint_or_watchpoint_selects_el2_a_security_state_or_a_vmid() {
        let mut debug = DebugRegs::default();
        for n in 0..=u8::MAX {
            for reg in [DebugReg::Bvr(n), DebugReg::Bcr(n), DebugReg::Wvr(n), DebugReg::Wcr(n)] {
                debug.write(reg, u64::MAX);
            }
            // HMC is bit 13, SSC bits 14 and 15; BT bit 23 is the VMID's.
            assert_eq!(debug.read(DebugReg::Bcr(n)) & 0x80_e000, 0);
            assert_eq!(debug.read(DebugReg::Wcr(n)) & 0xe000, 0);
            let kept = if n < 16 { u64::MAX } else { 0 };
            assert_eq!(debug.read(DebugReg::Bvr(n)), kept);
            assert_eq!(debug.read(DebugReg::Bcr(n)), kept & 0x007f_01e7);
        }
    }

    #[test]
    fn mdscr_never_halts_the_cpu() {
        let mut debug = DebugRegs::default();
        debug.write(DebugReg::Mdscr, u64::MAX);
        assert_eq!(debug.read(DebugReg::Mdscr), 0xb001);
    }

    #[test]
    fn claim_tags_are_set_and_cleared_bit_by_bit() {
        let mut debug = DebugRegs::default();
        assert_eq!(debug.read(DebugReg::ClaimSet), 0xff);
        debug.write(DebugReg::ClaimSet, 0x1f3);
        debug.write(DebugReg::ClaimClr, 0x11);
        assert_eq!(debug.read(DebugReg::ClaimClr), 0xe2);
    }
}
