//! A generic timer of EL1 as arithmetic: the physical timer a guest is given (Arm ARM, "The Generic Timer",
//! `CNTP_CTL_EL0`, `CNTP_CVAL_EL0`, `CNTP_TVAL_EL0`), and the same sums for the virtual one.
//!
//! A timer compares its *count*: `CNTPCT_EL0` for the physical timer, `CNTPCT_EL0 - CNTVOFF_EL2` for the
//! virtual one ([`virtual_count`]). Every method takes that count, so no offset is kept here.
//! The compare is of unsigned 64-bit values; `TVAL` is a signed 32-bit distance from the count, so a
//! `TVAL` with bit 31 set lies in the past and, near count 0, wraps to a far future.
//! Not modelled: the event stream, and the secure and EL2 timers.

use crate::time::Ticks;

/// A register of the EL1 physical timer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TimerReg {
    /// `CNTP_CTL_EL0`.
    Ctl,
    /// `CNTP_CVAL_EL0`.
    Cval,
    /// `CNTP_TVAL_EL0`.
    Tval,
}

/// `CNTP_CTL_EL0.ENABLE`.
const ENABLE: u64 = 1 << 0;
/// `CNTP_CTL_EL0.IMASK`.
const IMASK: u64 = 1 << 1;
/// `CNTP_CTL_EL0.ISTATUS`, read-only.
const ISTATUS: u64 = 1 << 2;

/// The count of a virtual timer: the physical count less `CNTVOFF_EL2`, modulo 2^64.
pub const fn virtual_count(physical: Ticks, cntvoff: u64) -> Ticks {
    Ticks(physical.0.wrapping_sub(cntvoff))
}

/// One timer. The reset state is disabled.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PhysicalTimer {
    /// `ENABLE` and `IMASK`; other bits are never kept.
    ctl: u64,
    cval: u64,
}

impl PhysicalTimer {
    /// The timer whose registers read `ctl` and `cval`, e.g. the saved `CNTV_CTL_EL0`, `CNTV_CVAL_EL0`.
    pub const fn from_registers(ctl: u64, cval: u64) -> Self {
        Self { ctl: ctl & (ENABLE | IMASK), cval }
    }

    /// What the guest reads from `reg`. `ISTATUS` reads 0 and `TVAL` still counts while the timer is
    /// disabled; both are UNKNOWN then.
    pub const fn read(&self, reg: TimerReg, count: Ticks) -> u64 {
        match reg {
            TimerReg::Ctl if self.condition_met(count) => self.ctl | ISTATUS,
            TimerReg::Ctl => self.ctl,
            TimerReg::Cval => self.cval,
            TimerReg::Tval => self.cval.wrapping_sub(count.0) & 0xffff_ffff,
        }
    }

    /// The guest writes `value` to `reg`. The output level may change with it.
    #[allow(clippy::cast_possible_truncation)] // TVAL is the low word, sign-extended
    pub const fn write(&mut self, reg: TimerReg, value: u64, count: Ticks) {
        match reg {
            TimerReg::Ctl => self.ctl = value & (ENABLE | IMASK),
            TimerReg::Cval => self.cval = value,
            TimerReg::Tval => self.cval = count.0.wrapping_add_signed(value as u32 as i32 as i64),
        }
    }

    /// The level of the timer's interrupt: enabled, not masked, and the count has reached `CVAL`.
    pub const fn output(&self, count: Ticks) -> bool {
        self.ctl & IMASK == 0 && self.condition_met(count)
    }

    /// How long until the output rises: nothing when it is high already, `None` when only a register
    /// write can raise it.
    pub const fn remaining(&self, count: Ticks) -> Option<Ticks> {
        if self.ctl & (ENABLE | IMASK) != ENABLE {
            return None;
        }
        Some(Ticks(self.cval.saturating_sub(count.0)))
    }

    /// The physical count at which the output rises, given that the physical count is `now` and that
    /// the timer counts `now - offset` (0 for the physical timer). The end of time stands for later.
    pub const fn deadline(&self, now: Ticks, offset: u64) -> Option<Ticks> {
        match self.remaining(virtual_count(now, offset)) {
            Some(span) => Some(now.saturating_add(span)),
            None => None,
        }
    }

    const fn condition_met(&self, count: Ticks) -> bool {
        self.ctl & ENABLE != 0 && count.0 >= self.cval
    }
}

#[cfg(test)]
mod exhaustive;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Ticks = Ticks(0x10_0000_0000);

    fn enabled() -> PhysicalTimer {
        let mut timer = PhysicalTimer::default();
        timer.write(TimerReg::Ctl, 1, NOW);
        timer
    }

    #[test]
    fn tval_is_a_signed_distance_from_the_count() {
        for (tval, cval, fires) in [
            (0, 0x10_0000_0000, true),
            (1, 0x10_0000_0001, false),
            (0x7fff_ffff, 0x10_7fff_ffff, false),
            (0x8000_0000, 0x0f_8000_0000, true),
            (0xffff_ffff, 0x0f_ffff_ffff, true),
            // The upper word of the general register is not part of TVAL.
            (0xffff_ffff_0000_0001, 0x10_0000_0001, false),
        ] {
            let mut timer = enabled();
            timer.write(TimerReg::Tval, tval, NOW);
            assert_eq!(timer.read(TimerReg::Cval, NOW), cval, "{tval:#x}");
            assert_eq!(timer.output(NOW), fires, "{tval:#x}");
            assert_eq!(timer.read(TimerReg::Ctl, NOW), if fires { 5 } else { 1 });
            assert_eq!(timer.read(TimerReg::Tval, NOW), tval & 0xffff_ffff);
        }
    }

    /// A TVAL of more than 2^31 soon after the counter starts is a negative one, and wraps.
    #[test]
    fn a_negative_tval_near_count_zero_lies_in_a_far_future() {
        let mut timer = enabled();
        timer.write(TimerReg::Tval, 2_250_000_000, Ticks(5));
        assert!(!timer.output(Ticks(u64::MAX / 2)));
        assert!(timer.deadline(Ticks(5), 0).unwrap() > Ticks(u64::MAX - 0xffff_ffff));
    }

    #[test]
    fn cval_compares_unsigned() {
        for (cval, fires) in
            [(0, true), (1 << 63, false), ((1 << 63) - 1, false), (u64::MAX, false), (NOW.0, true)]
        {
            let mut timer = enabled();
            timer.write(TimerReg::Cval, cval, NOW);
            assert_eq!(timer.output(NOW), fires, "{cval:#x}");
            let deadline = timer.deadline(NOW, 0).unwrap();
            assert_eq!(deadline, Ticks(cval.max(NOW.0)));
            assert!(timer.output(deadline));
        }
    }

    #[test]
    fn a_masked_or_disabled_timer_has_no_deadline_and_no_output() {
        for ctl in [0, 2, 3, 0xffff_ffff_ffff_fffe] {
            let mut timer = PhysicalTimer::default();
            timer.write(TimerReg::Ctl, ctl, NOW);
            assert!(!timer.output(NOW));
            assert_eq!(timer.deadline(NOW, 0), None);
        }
    }

    #[test]
    fn istatus_shows_through_the_mask_and_cannot_be_written() {
        let mut timer = PhysicalTimer::default();
        timer.write(TimerReg::Ctl, 7, NOW);
        assert_eq!(timer.read(TimerReg::Ctl, NOW), 7);
        timer.write(TimerReg::Cval, NOW.0 + 1, NOW);
        assert_eq!(timer.read(TimerReg::Ctl, NOW), 3);
        timer.write(TimerReg::Ctl, 4, NOW);
        assert_eq!(timer.read(TimerReg::Ctl, NOW), 0);
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        #[test]
        fn the_output_is_low_before_the_deadline_and_high_at_it(
            cval: u64, now in 0..u64::MAX / 2, offset: u64,
        ) {
            let timer = PhysicalTimer::from_registers(1, cval);
            let deadline = timer.deadline(Ticks(now), offset).unwrap();
            prop_assert!(deadline >= Ticks(now));
            if deadline.0 < u64::MAX {
                prop_assert!(timer.output(virtual_count(deadline, offset)));
            }
            if deadline.0 > now {
                prop_assert!(!timer.output(virtual_count(Ticks(deadline.0 - 1), offset)));
            }
        }

        #[test]
        fn tval_reads_back_what_was_written_and_counts_down(
            tval: u32, count: u64, later in 0u64..1 << 40,
        ) {
            let mut timer = PhysicalTimer::from_registers(1, 0);
            timer.write(TimerReg::Tval, u64::from(tval), Ticks(count));
            prop_assert_eq!(timer.read(TimerReg::Tval, Ticks(count)), u64::from(tval));
            let left = timer.read(TimerReg::Tval, Ticks(count.wrapping_add(later)));
            prop_assert_eq!(left, u64::from(tval).wrapping_sub(later) & 0xffff_ffff);
        }
    }
}
