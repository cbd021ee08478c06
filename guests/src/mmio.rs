//! Device registers at addresses, one access of a known width each.

macro_rules! access {
    ($read:ident, $write:ident, $type:ty, $load:literal, $store:literal, $form:literal) => {
        /// Reads the register at `address`.
        pub fn $read(address: u64) -> $type {
            let value: u64;
            // SAFETY: one load through a general register; payloads pass device addresses, and a
            // wrong one ends in the vectors.
            unsafe {
                core::arch::asm!(concat!($load, " {", $form, "}, [{1}]"),
                    out(reg) value, in(reg) address, options(nostack));
            }
            value as $type
        }

        /// Writes the register at `address`.
        pub fn $write(address: u64, value: $type) {
            // SAFETY: as for the load.
            unsafe {
                core::arch::asm!(concat!($store, " {", $form, "}, [{1}]"),
                    in(reg) u64::from(value), in(reg) address, options(nostack));
            }
        }
    };
}

access!(read8, write8, u8, "ldrb", "strb", "0:w");
access!(read16, write16, u16, "ldrh", "strh", "0:w");
access!(read32, write32, u32, "ldr", "str", "0:w");
access!(read64, write64, u64, "ldr", "str", "0:x");
