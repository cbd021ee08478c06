//! The PL011's registers (ARM DDI 0183, "Summary of registers" and "Register descriptions"): where
//! they are, what their bits mean, and which bits exist.

use tock_registers::register_bitfields;

/// UARTDR, "Data Register".
pub const DR: u64 = 0x000;
/// UARTRSR/UARTECR, "Receive Status Register/Error Clear Register".
pub const RSR: u64 = 0x004;
/// UARTFR, "Flag Register".
pub const FR: u64 = 0x018;
/// UARTILPR, "IrDA Low-Power Counter Register".
pub const ILPR: u64 = 0x020;
/// UARTIBRD, "Integer Baud Rate Register".
pub const IBRD: u64 = 0x024;
/// UARTFBRD, "Fractional Baud Rate Register".
pub const FBRD: u64 = 0x028;
/// UARTLCR_H, "Line Control Register".
pub const LCR_H: u64 = 0x02c;
/// UARTCR, "Control Register".
pub const CR: u64 = 0x030;
/// UARTIFLS, "Interrupt FIFO Level Select Register".
pub const IFLS: u64 = 0x034;
/// UARTIMSC, "Interrupt Mask Set/Clear Register".
pub const IMSC: u64 = 0x038;
/// UARTRIS, "Raw Interrupt Status Register".
pub const RIS: u64 = 0x03c;
/// UARTMIS, "Masked Interrupt Status Register".
pub const MIS: u64 = 0x040;
/// UARTICR, "Interrupt Clear Register".
pub const ICR: u64 = 0x044;
/// UARTDMACR, "DMA Control Register".
pub const DMACR: u64 = 0x048;

/// The bits of UARTILPR that exist.
pub const ILPR_BITS: u16 = 0x00ff;
/// The bits of UARTFBRD that exist.
pub const FBRD_BITS: u16 = 0x003f;
/// The bits of UARTLCR_H that exist.
pub const LCR_H_BITS: u16 = 0x00ff;
/// The bits of UARTCR that exist: 6 to 3 are reserved.
pub const CR_BITS: u16 = 0xff87;
/// The bits of UARTIFLS that exist.
pub const IFLS_BITS: u16 = 0x003f;
/// The interrupts that exist.
pub const INTERRUPT_BITS: u16 = 0x07ff;
/// The bits of UARTDMACR that exist.
pub const DMACR_BITS: u16 = 0x0007;

register_bitfields! { u16,
    /// A received character with its errors, as UARTDR shows it.
    pub Data [
        DATA OFFSET(0) NUMBITS(8) [],
        /// Framing, parity and break error: as UARTRSR shows them of the character last read.
        ERRORS OFFSET(8) NUMBITS(3) [],
        BE OFFSET(10) NUMBITS(1) [],
        OE OFFSET(11) NUMBITS(1) [],
    ],

    /// UARTRSR.
    pub ReceiveStatus [
        ERRORS OFFSET(0) NUMBITS(3) [],
        OE OFFSET(3) NUMBITS(1) [],
    ],

    /// UARTFR.
    pub Flags [
        CTS OFFSET(0) NUMBITS(1) [],
        DSR OFFSET(1) NUMBITS(1) [],
        DCD OFFSET(2) NUMBITS(1) [],
        BUSY OFFSET(3) NUMBITS(1) [],
        RXFE OFFSET(4) NUMBITS(1) [],
        TXFF OFFSET(5) NUMBITS(1) [],
        RXFF OFFSET(6) NUMBITS(1) [],
        TXFE OFFSET(7) NUMBITS(1) [],
        RI OFFSET(8) NUMBITS(1) [],
    ],

    /// UARTLCR_H.
    pub LineControl [
        BRK OFFSET(0) NUMBITS(1) [],
        FEN OFFSET(4) NUMBITS(1) [],
    ],

    /// UARTCR.
    pub Control [
        LBE OFFSET(7) NUMBITS(1) [],
        TXE OFFSET(8) NUMBITS(1) [],
        RXE OFFSET(9) NUMBITS(1) [],
        DTR OFFSET(10) NUMBITS(1) [],
        RTS OFFSET(11) NUMBITS(1) [],
        OUT1 OFFSET(12) NUMBITS(1) [],
        OUT2 OFFSET(13) NUMBITS(1) [],
    ],

    /// UARTIFLS.
    pub FifoLevels [
        TXIFLSEL OFFSET(0) NUMBITS(3) [
            Eighth = 0,
            Quarter = 1,
            Half = 2,
            ThreeQuarters = 3,
            SevenEighths = 4,
        ],
        RXIFLSEL OFFSET(3) NUMBITS(3) [
            Eighth = 0,
            Quarter = 1,
            Half = 2,
            ThreeQuarters = 3,
            SevenEighths = 4,
        ],
    ],

    /// UARTIMSC, UARTRIS, UARTMIS and UARTICR have the same bits.
    pub Interrupts [
        RI OFFSET(0) NUMBITS(1) [],
        CTS OFFSET(1) NUMBITS(1) [],
        DCD OFFSET(2) NUMBITS(1) [],
        DSR OFFSET(3) NUMBITS(1) [],
        RX OFFSET(4) NUMBITS(1) [],
        TX OFFSET(5) NUMBITS(1) [],
        RT OFFSET(6) NUMBITS(1) [],
        BE OFFSET(9) NUMBITS(1) [],
        OE OFFSET(10) NUMBITS(1) [],
    ],
}
