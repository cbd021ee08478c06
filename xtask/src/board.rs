//! The boards that QEMU emulates for us, and which machines they can be.

use std::fmt;

use anyhow::{Result, bail};

use crate::cli::RunOptions;
use crate::size;

/// A board.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Board {
    /// QEMU's own, `virt`.
    QemuVirt,
    /// The Raspberry Pi 4 Model B, QEMU's `raspi4b`.
    Rpi4,
}

/// The RAM that the device tree of QEMU's `raspi4b` has: a real board's first range, below the
/// memory of the VideoCore.
const RPI4_USABLE: u64 = 948 << 20;

impl Board {
    const ALL: [Self; 2] = [Self::QemuVirt, Self::Rpi4];

    /// The board that is called `name`.
    pub fn parse(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|board| board.to_string() == name);
        let known = || Self::ALL.map(|board| board.to_string()).join(", ");
        found.ok_or_else(|| format!("unknown board `{name}`; known are: {}", known()))
    }

    /// The guests that boot when none is named, below the project's root.
    pub fn default_manifest(self) -> &'static str {
        match self {
            Self::QemuVirt => "platform/qemu_virt/guests.toml",
            Self::Rpi4 => "platform/rpi4/guests.toml",
        }
    }

    /// A hint at how to give the machine more memory, where there is a way.
    pub fn memory_option(self) -> &'static str {
        match self {
            Self::QemuVirt => " (--memory)",
            Self::Rpi4 => ", as the device tree of QEMU's raspi4b has it",
        }
    }
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QemuVirt => "qemu-virt",
            Self::Rpi4 => "rpi4",
        })
    }
}

/// A machine that QEMU can build.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hardware {
    pub board: Board,
    /// The version of its GIC.
    pub gic: u8,
    /// Its CPU, by QEMU's name.
    pub cpu: String,
    /// How many CPUs it has.
    pub smp: u32,
    /// How much RAM it has, in bytes.
    pub memory: u64,
}

impl Hardware {
    /// The machine that the options describe; an error names the option that does not fit.
    pub fn of(options: &RunOptions) -> Result<Self> {
        let board = match (options.board, &options.card) {
            (Some(Board::QemuVirt), Some(_)) => {
                bail!("--board: qemu-virt has no card to boot from")
            }
            (None, Some(_)) => Board::Rpi4,
            (board, _) => board.unwrap_or(Board::QemuVirt),
        };
        let (gic, smp) = match board {
            Board::QemuVirt => (3, 2),
            Board::Rpi4 => (2, 4),
        };
        let cpu = || "cortex-a72".to_owned();
        let hardware = Self {
            board,
            gic: options.gic.unwrap_or(gic),
            cpu: options.cpu.clone().unwrap_or_else(cpu),
            smp: options.smp.unwrap_or(smp),
            memory: options.memory.unwrap_or(2 << 30),
        };
        match board {
            Board::QemuVirt => hardware.check_virt()?,
            Board::Rpi4 => hardware.check_rpi4(options.bare)?,
        }
        Ok(hardware)
    }

    fn check_virt(&self) -> Result<()> {
        let Self { gic, cpu, smp, .. } = self;
        let most = if *gic == 2 { 8 } else { 512 };
        if *smp == 0 || *smp > most {
            bail!("--smp: {smp} CPUs; qemu-virt with a GICv{gic} has 1 to {most}");
        }
        if cpu.is_empty() || cpu.contains(char::is_whitespace) {
            bail!("--cpu: `{cpu}` is not a CPU's name");
        }
        Ok(())
    }

    fn check_rpi4(&self, bare: bool) -> Result<()> {
        let Self { gic, cpu, smp, memory, .. } = self;
        if bare {
            bail!("--bare: guests are made for QEMU's virt board; a Raspberry Pi 4 is another");
        }
        if *gic != 2 {
            bail!("--gic: a Raspberry Pi 4 has a GICv2");
        }
        if cpu != "cortex-a72" {
            bail!("--cpu: `{cpu}`; a Raspberry Pi 4 has the CPU cortex-a72");
        }
        if *smp != 4 {
            bail!("--smp: {smp} CPUs; a Raspberry Pi 4 has 4");
        }
        if *memory != 2 << 30 {
            let memory = size::show(*memory);
            bail!("--memory: {memory}; QEMU's Raspberry Pi 4 has 2G and no other size");
        }
        Ok(())
    }

    /// The RAM that its device tree tells of, in bytes.
    pub fn usable_memory(&self) -> u64 {
        match self.board {
            Board::QemuVirt => self.memory,
            Board::Rpi4 => RPI4_USABLE,
        }
    }
}

impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { board, gic, cpu, smp, memory } = self;
        if *board == Board::Rpi4 {
            f.write_str("Raspberry Pi 4, ")?;
        }
        write!(f, "{smp} x {cpu}, GICv{gic}, {}", size::show(*memory))
    }
}
