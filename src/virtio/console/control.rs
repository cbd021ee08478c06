//! What device and driver tell each other of ports (VIRTIO 1.2, "Multiport Device Operation").

/// `struct virtio_console_control`, in bytes.
pub const SIZE: usize = 8;

/// What is told. Not used here: that a port is removed, or its terminal's size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// By the driver: it is ready for ports, or has failed.
    DeviceReady,
    /// There is such a port.
    PortAdd,
    /// By the driver: it knows of the port, or could not take it.
    PortReady,
    /// The port is a console.
    ConsolePort,
    /// By both: an end was opened, or closed.
    PortOpen,
    /// What the port is called.
    PortName,
}

impl Event {
    const fn number(self) -> u16 {
        match self {
            Self::DeviceReady => 0,
            Self::PortAdd => 1,
            Self::PortReady => 3,
            Self::ConsolePort => 4,
            Self::PortOpen => 6,
            Self::PortName => 7,
        }
    }

    fn of(number: u16) -> Option<Self> {
        let all = [Self::DeviceReady, Self::PortAdd, Self::PortReady, Self::ConsolePort];
        let all = all.into_iter().chain([Self::PortOpen, Self::PortName]);
        all.into_iter().find(|event| event.number() == number)
    }
}

/// Something that the driver is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Message<'a> {
    /// Of which port.
    pub port: usize,
    /// What.
    pub event: Event,
    /// Whether it is so.
    pub value: u16,
    /// The name, which follows without an end, where that is what is told.
    pub name: &'a str,
}

impl Message<'_> {
    /// Its first [`SIZE`] bytes.
    pub fn head(&self) -> [u8; SIZE] {
        let port = u64::try_from(self.port).unwrap_or(0) & 0xffff_ffff;
        let word = port | u64::from(self.event.number()) << 32 | u64::from(self.value) << 48;
        word.to_le_bytes()
    }
}

/// Port, event and value of what a driver says; `None` where that is nothing known.
pub fn parse(bytes: &[u8; SIZE]) -> Option<(usize, Event, u16)> {
    let [a, b, c, d, e, f, g, h] = *bytes;
    let port = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
    Some((port, Event::of(u16::from_le_bytes([e, f]))?, u16::from_le_bytes([g, h])))
}
