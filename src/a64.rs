//! A64 loads and stores, decoded from the instruction (Arm ARM, "Loads and Stores" in "A64 instruction set encoding").
//!
//! The syndrome of a data abort describes an access to one general-purpose register without write-back, and no other
//! (`ESR_EL2.ISS.ISV`). Decoded here is what compilers emit: one register or a pair of them, general-purpose or SIMD and
//! floating-point, in every addressing mode.
//!
//! Not decoded: exclusives, atomics, structures (`LD1`), literals, unprivileged accesses, prefetches; what is
//! CONSTRAINED UNPREDICTABLE (a base that is also loaded, a pair of one register); and what goes by the stack pointer, as no
//! stack is in a device.

use tock_registers::{LocalRegisterCopy, register_bitfields};

use crate::exit::Gpr;

register_bitfields! { u32,
    /// Fields that the classes of loads and stores have in common, by the names of "Load/store register" and
    /// "Load/store register pair".
    LoadStore [
        size OFFSET(30) NUMBITS(2) [],
        class OFFSET(27) NUMBITS(3) [ Pair = 0b101, Single = 0b111 ],
        V OFFSET(26) NUMBITS(1) [],
        /// Of a single register: scaled or not.
        unsigned OFFSET(24) NUMBITS(2) [ No = 0b00, Yes = 0b01 ],
        opc OFFSET(22) NUMBITS(2) [],
        imm12 OFFSET(10) NUMBITS(12) [],
        by_register OFFSET(21) NUMBITS(1) [],
        imm9 OFFSET(12) NUMBITS(9) [],
        form OFFSET(10) NUMBITS(2) [ Unscaled = 0b00, PostIndex = 0b01, Unprivileged = 0b10, PreIndex = 0b11 ],
        Rm OFFSET(16) NUMBITS(5) [],
        option OFFSET(13) NUMBITS(3) [ UXTW = 0b010, LSL = 0b011, SXTW = 0b110, SXTX = 0b111 ],
        S OFFSET(12) NUMBITS(1) [],
        /// Of a pair.
        mode OFFSET(23) NUMBITS(3) [ NoAllocate = 0b000, PostIndex = 0b001, Offset = 0b010, PreIndex = 0b011 ],
        L OFFSET(22) NUMBITS(1) [],
        imm7 OFFSET(15) NUMBITS(7) [],
        Rt2 OFFSET(10) NUMBITS(5) [],
        Rn OFFSET(5) NUMBITS(5) [],
        Rt OFFSET(0) NUMBITS(5) []
    ]
}

type Fields = LocalRegisterCopy<u32, LoadStore::Register>;

/// A load or store of one register or two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Transfer {
    /// It writes memory.
    pub store: bool,
    /// The bytes that each register moves are 2 to the power of this: 0 to 3, and 4 of SIMD registers.
    pub scale: u32,
    /// Which registers.
    pub bank: Bank,
    /// The register at the lower address, by its number in the bank.
    pub first: u8,
    /// The one behind it.
    pub second: Option<u8>,
    /// The register that the address starts from.
    pub base: Gpr,
    /// How the address comes of it.
    pub address: Address,
}

/// What kind of registers is moved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bank {
    /// `X0` to `X30`, and 31 for the zero register.
    General {
        /// A load copies the highest bit upwards.
        sign_extend: bool,
        /// A load writes the register as `X`, not as `W`.
        sixty_four: bool,
    },
    /// `V0` to `V31`; a load clears the bits that it does not fill.
    Vector,
}

/// How an address comes of the base.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Address {
    /// So many bytes from it.
    Offset(i64),
    /// So many bytes from it, where the base is afterwards.
    PreIndex(i64),
    /// At it; afterwards it is so many bytes from there.
    PostIndex(i64),
    /// From it by a register's value.
    Register {
        /// The register.
        index: Gpr,
        /// How its value is made 64 bits wide.
        extend: Extend,
        /// By how many bits it is shifted left then.
        shift: u32,
    },
}

/// How a register's value becomes an offset (Arm ARM, "ExtendReg").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extend {
    /// The lower 32 bits, and zeroes.
    Uxtw,
    /// The lower 32 bits, with their sign.
    Sxtw,
    /// All of it.
    Whole,
}

impl Transfer {
    /// The load or store that `instruction` is; `None` for whatever else it is, or none of those above.
    pub fn decode(instruction: u32) -> Option<Self> {
        let fields = Fields::new(instruction);
        let decoded = match fields.read_as_enum(LoadStore::class)? {
            LoadStore::class::Value::Pair => pair(fields),
            LoadStore::class::Value::Single => single(fields),
        };
        decoded.filter(|transfer| transfer.is_predictable())
    }

    /// How many bytes each register moves: 1 to 16.
    pub const fn bytes(&self) -> u64 {
        1 << self.scale
    }

    /// How many bytes are moved: 1 to 32.
    pub const fn size(&self) -> u64 {
        self.bytes() * if self.second.is_some() { 2 } else { 1 }
    }

    /// The registers moved, in the order of their addresses.
    pub fn registers(&self) -> impl Iterator<Item = u8> + use<> {
        core::iter::once(self.first).chain(self.second)
    }

    /// The virtual address of the first byte, by what the registers hold.
    pub fn address(&self, read: impl Fn(Gpr) -> u64) -> u64 {
        let base = read(self.base);
        match self.address {
            Address::Offset(by) | Address::PreIndex(by) => base.wrapping_add_signed(by),
            Address::PostIndex(_) => base,
            Address::Register { index, extend, shift } => {
                let value = read(index);
                let word = value & 0xffff_ffff;
                let value = match extend {
                    Extend::Uxtw => word,
                    Extend::Sxtw => (word ^ 0x8000_0000).wrapping_sub(0x8000_0000),
                    Extend::Whole => value,
                };
                base.wrapping_add(value << shift)
            }
        }
    }

    /// What the base register becomes, if the instruction changes it.
    pub fn write_back(&self, read: impl Fn(Gpr) -> u64) -> Option<u64> {
        match self.address {
            Address::PreIndex(by) | Address::PostIndex(by) => {
                Some(read(self.base).wrapping_add_signed(by))
            }
            Address::Offset(_) | Address::Register { .. } => None,
        }
    }

    /// Whether the manual says what it does, and it does not go by the stack pointer.
    fn is_predictable(&self) -> bool {
        let Some(base) = self.base.index() else { return false };
        let changes_base = matches!(self.address, Address::PreIndex(_) | Address::PostIndex(_));
        let moves_base = matches!(self.bank, Bank::General { .. })
            && self.registers().any(|register| usize::from(register) == base);
        let twice = !self.store && self.second == Some(self.first);
        !(changes_base && moves_base || twice)
    }
}

/// "Load/store register pair", in its four forms.
fn pair(fields: Fields) -> Option<Transfer> {
    let (store, opc) = (!fields.is_set(LoadStore::L), fields.read(LoadStore::size));
    let mode = fields.read_as_enum(LoadStore::mode)?;
    let no_allocate = mode == LoadStore::mode::Value::NoAllocate;
    let general = |sign_extend, sixty_four| Bank::General { sign_extend, sixty_four };
    let (scale, bank) = match (fields.is_set(LoadStore::V), opc) {
        (false, 0b00) => (2, general(false, false)),
        (false, 0b01) if !store && !no_allocate => (2, general(true, true)),
        (false, 0b10) => (3, general(false, true)),
        (true, 0b00..=0b10) => (2 + opc, Bank::Vector),
        _ => return None,
    };
    let by = signed(fields.read(LoadStore::imm7), 7) << scale;
    let address = match mode {
        LoadStore::mode::Value::NoAllocate | LoadStore::mode::Value::Offset => Address::Offset(by),
        LoadStore::mode::Value::PostIndex => Address::PostIndex(by),
        LoadStore::mode::Value::PreIndex => Address::PreIndex(by),
    };
    let second = Some(register(fields.read(LoadStore::Rt2)));
    Some(Transfer { second, ..of_one(fields, store, scale, bank, address) })
}

/// "Load/store register", with an immediate or a register for the offset.
fn single(fields: Fields) -> Option<Transfer> {
    let (size, opc) = (fields.read(LoadStore::size), fields.read(LoadStore::opc));
    let general = |sign_extend, sixty_four| Bank::General { sign_extend, sixty_four };
    let (store, scale, bank) = match (fields.is_set(LoadStore::V), opc, size) {
        (false, 0b00, _) => (true, size, general(false, size == 3)),
        (false, 0b01, _) => (false, size, general(false, size == 3)),
        (false, 0b10, 0..=2) => (false, size, general(true, true)),
        (false, 0b11, 0..=1) => (false, size, general(true, false)),
        (true, 0b00 | 0b01, _) => (opc == 0b00, size, Bank::Vector),
        (true, 0b10 | 0b11, 0) => (opc == 0b10, 4, Bank::Vector),
        _ => return None,
    };
    let unscaled = signed(fields.read(LoadStore::imm9), 9);
    let by_register = fields.is_set(LoadStore::by_register);
    let address = match fields.read_as_enum(LoadStore::unsigned)? {
        LoadStore::unsigned::Value::Yes => {
            Address::Offset(i64::from(fields.read(LoadStore::imm12)) << scale)
        }
        LoadStore::unsigned::Value::No => match fields.read_as_enum(LoadStore::form)? {
            // The same value of `form` says that the offset is in a register.
            LoadStore::form::Value::Unprivileged if by_register => {
                let extend = match fields.read_as_enum(LoadStore::option)? {
                    LoadStore::option::Value::UXTW => Extend::Uxtw,
                    LoadStore::option::Value::SXTW => Extend::Sxtw,
                    LoadStore::option::Value::LSL | LoadStore::option::Value::SXTX => Extend::Whole,
                };
                let shift = if fields.is_set(LoadStore::S) { scale } else { 0 };
                Address::Register { index: Gpr::new(fields.read(LoadStore::Rm)), extend, shift }
            }
            _ if by_register => return None,
            LoadStore::form::Value::Unprivileged => return None,
            LoadStore::form::Value::Unscaled => Address::Offset(unscaled),
            LoadStore::form::Value::PostIndex => Address::PostIndex(unscaled),
            LoadStore::form::Value::PreIndex => Address::PreIndex(unscaled),
        },
    };
    Some(of_one(fields, store, scale, bank, address))
}

fn of_one(fields: Fields, store: bool, scale: u32, bank: Bank, address: Address) -> Transfer {
    let first = register(fields.read(LoadStore::Rt));
    let base = Gpr::new(fields.read(LoadStore::Rn));
    Transfer { store, scale, bank, first, second: None, base, address }
}

const fn register(field: u32) -> u8 {
    (field & 0x1f) as u8
}

/// The value of a field so many bits wide.
fn signed(field: u32, bits: u32) -> i64 {
    let sign = 1 << (bits - 1);
    (i64::from(field) ^ sign) - sign
}

#[cfg(test)]
mod tests;
