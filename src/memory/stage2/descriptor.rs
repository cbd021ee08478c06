//! Stage-2 descriptors (Arm ARM, "VMSAv8-64 translation table format descriptors", stage 2).

use tock_registers::fields::FieldValue;
use tock_registers::{LocalRegisterCopy, register_bitfields};

use super::geometry::Level;
use crate::addr::PhysAddr;

register_bitfields! { u64,
    /// A stage-2 Table, Block or Page descriptor, 4 KiB granule.
    STAGE2 [
        /// Execute-never.
        XN OFFSET(54) NUMBITS(1) [],
        /// One of a group that a TLB may hold as one entry. Plinth leaves it clear.
        Contiguous OFFSET(52) NUMBITS(1) [],
        /// Output address, or next-level table address.
        OA OFFSET(12) NUMBITS(36) [],
        /// Access flag.
        AF OFFSET(10) NUMBITS(1) [],
        /// Shareability.
        SH OFFSET(8) NUMBITS(2) [Non = 0b00, Outer = 0b10, Inner = 0b11],
        /// Data access permissions.
        S2AP OFFSET(6) NUMBITS(2) [None = 0b00, Read = 0b01, Write = 0b10, ReadWrite = 0b11],
        /// Memory attributes.
        MemAttr OFFSET(2) NUMBITS(4) [DevicenGnRE = 0b0001, NormalWriteBack = 0b1111],
        /// Table (levels 0 to 2) or Page (level 3) when set, Block when clear.
        Type OFFSET(1) NUMBITS(1) [Block = 0, TableOrPage = 1],
        /// Whether the descriptor is anything at all.
        Valid OFFSET(0) NUMBITS(1) []
    ]
}

/// What a guest may do with a page. An access it may not do faults to EL2.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Perms {
    /// Data reads.
    pub read: bool,
    /// Data writes.
    pub write: bool,
    /// Instruction fetches; never from a device, whatever is asked for.
    pub execute: bool,
}

impl Perms {
    /// A guest's RAM.
    pub const RWX: Self = Self { read: true, write: true, execute: true };
    /// A device, or memory that only holds data.
    pub const RW: Self = Self { read: true, write: true, execute: false };
    /// Code and read-only data, or RAM whose writes are to be noticed.
    pub const RX: Self = Self { read: true, write: false, execute: true };
    /// Read-only data.
    pub const R: Self = Self { read: true, write: false, execute: false };
}

/// The memory type that stage 2 asks for. The guest's stage 1 can only make it stricter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MemoryType {
    /// Normal, Inner and Outer Write-Back, Inner Shareable.
    Ram,
    /// Device-nGnRE, execute-never.
    Device,
}

/// What an address is translated to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mapping {
    /// The physical address.
    pub pa: PhysAddr,
    /// The memory type.
    pub memory: MemoryType,
    /// What the guest may do.
    pub perms: Perms,
}

impl Mapping {
    /// The mapping `bytes` further on.
    pub(super) fn advanced(self, bytes: u64) -> Self {
        Self { pa: PhysAddr::new(self.pa.raw().wrapping_add(bytes)), ..self }
    }

    /// The mapping with `perms`, as far as its memory type grants them.
    pub(super) fn with_perms(self, perms: Perms) -> Self {
        let execute = perms.execute && self.memory == MemoryType::Ram;
        Self { perms: Perms { execute, ..perms }, ..self }
    }
}

/// A descriptor, decoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Entry {
    Invalid,
    Table(PhysAddr),
    Leaf(Mapping),
}

impl Entry {
    /// The descriptor to store in a table of `level`.
    pub(super) fn encode(self, level: Level) -> u64 {
        let fields: FieldValue<u64, STAGE2::Register> = match self {
            Self::Invalid => STAGE2::Valid::CLEAR,
            Self::Table(at) => {
                STAGE2::Valid::SET + STAGE2::Type::TableOrPage + STAGE2::OA.val(at.raw() >> 12)
            }
            Self::Leaf(mapping) => leaf(mapping.with_perms(mapping.perms), level),
        };
        fields.value
    }

    /// What `descriptor`, read from a table of `level`, says.
    pub(super) fn decode(descriptor: u64, level: Level) -> Self {
        let fields = LocalRegisterCopy::<u64, STAGE2::Register>::new(descriptor);
        let address = PhysAddr::new(fields.read(STAGE2::OA) << 12);
        let access = fields.read_as_enum(STAGE2::S2AP);
        let table_or_page = fields.is_set(STAGE2::Type);
        use STAGE2::S2AP::Value as S2AP;
        match level {
            _ if !fields.is_set(STAGE2::Valid) => Self::Invalid,
            Level::Zero | Level::One | Level::Two if table_or_page => Self::Table(address),
            Level::Zero => Self::Invalid,
            Level::Three if !table_or_page => Self::Invalid,
            Level::One | Level::Two | Level::Three => Self::Leaf(Mapping {
                pa: address.align_down(level.size()),
                memory: match fields.read_as_enum(STAGE2::MemAttr) {
                    Some(STAGE2::MemAttr::Value::NormalWriteBack) => MemoryType::Ram,
                    _ => MemoryType::Device,
                },
                perms: Perms {
                    read: matches!(access, Some(S2AP::Read | S2AP::ReadWrite)),
                    write: matches!(access, Some(S2AP::Write | S2AP::ReadWrite)),
                    execute: !fields.is_set(STAGE2::XN),
                },
            }),
        }
    }
}

fn leaf(mapping: Mapping, level: Level) -> FieldValue<u64, STAGE2::Register> {
    let (attributes, shareability) = match mapping.memory {
        MemoryType::Ram => (STAGE2::MemAttr::NormalWriteBack, STAGE2::SH::Inner),
        // Device memory is Outer Shareable whatever is written; say so.
        MemoryType::Device => (STAGE2::MemAttr::DevicenGnRE, STAGE2::SH::Outer),
    };
    let access = match (mapping.perms.read, mapping.perms.write) {
        (false, false) => STAGE2::S2AP::None,
        (true, false) => STAGE2::S2AP::Read,
        (false, true) => STAGE2::S2AP::Write,
        (true, true) => STAGE2::S2AP::ReadWrite,
    };
    let shape = match level {
        Level::Three => STAGE2::Type::TableOrPage,
        Level::Zero | Level::One | Level::Two => STAGE2::Type::Block,
    };
    STAGE2::Valid::SET
        + shape
        + attributes
        + access
        + shareability
        + STAGE2::AF::SET
        + STAGE2::OA.val(mapping.pa.raw() >> 12)
        + STAGE2::XN.val(u64::from(!mapping.perms.execute))
}

/// Whether a valid descriptor may become another valid one in one store, without break-before-make:
/// only the permissions may differ (Arm ARM, "Using break-before-make when updating translation table
/// entries").
#[cfg(test)]
pub(super) fn differ_in_permissions_only(old: u64, new: u64) -> bool {
    let permissions = STAGE2::S2AP.mask << 6 | STAGE2::XN.mask << 54;
    (old ^ new) & !permissions == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PA: PhysAddr = PhysAddr::new(0x1_c000_0000);

    #[test]
    fn a_page_of_ram_is_the_descriptor_worked_out_from_the_manual() {
        let ram = Mapping { pa: PA, memory: MemoryType::Ram, perms: Perms::RWX };
        // AF | SH=11 | S2AP=11 | MemAttr=1111 | Page
        assert_eq!(Entry::Leaf(ram).encode(Level::Three), 0x1_c000_07ff);
        assert_eq!(Entry::Leaf(ram).encode(Level::One), 0x1_c000_07fd);
    }

    #[test]
    fn a_device_is_execute_never_even_where_execution_is_asked_for() {
        let device = Mapping { pa: PA, memory: MemoryType::Device, perms: Perms::RWX };
        // XN | AF | SH=10 | S2AP=11 | MemAttr=0001 | Page
        assert_eq!(Entry::Leaf(device).encode(Level::Three), 0x0040_0001_c000_06c7);
    }

    #[test]
    fn every_leaf_reads_back_as_it_was_written() {
        for level in [Level::One, Level::Two, Level::Three] {
            for bits in 0..16u8 {
                let memory = if bits & 8 == 0 { MemoryType::Ram } else { MemoryType::Device };
                let perms =
                    Perms { read: bits & 1 != 0, write: bits & 2 != 0, execute: bits & 4 != 0 };
                let leaf = Mapping { pa: PA, memory, perms };
                let back = Entry::decode(Entry::Leaf(leaf).encode(level), level);
                assert_eq!(back, Entry::Leaf(leaf.with_perms(perms)));
            }
        }
    }

    #[test]
    fn reserved_encodings_are_invalid() {
        assert_eq!(Entry::decode(0x7fd, Level::Zero), Entry::Invalid);
        assert_eq!(Entry::decode(0x7fd, Level::Three), Entry::Invalid);
        assert_eq!(Entry::decode(!1, Level::Two), Entry::Invalid);
    }

    #[test]
    fn a_change_of_address_or_type_is_no_change_of_permissions() {
        let ram = Mapping { pa: PA, memory: MemoryType::Ram, perms: Perms::RWX };
        let encode = |mapping| Entry::Leaf(mapping).encode(Level::Three);
        let with = |perms| encode(Mapping { perms, ..ram });
        assert!(differ_in_permissions_only(with(Perms::RWX), with(Perms::R)));
        assert!(!differ_in_permissions_only(encode(ram), encode(ram.advanced(4096))));
        let device = Mapping { memory: MemoryType::Device, ..ram };
        assert!(!differ_in_permissions_only(encode(ram), encode(device)));
    }
}
