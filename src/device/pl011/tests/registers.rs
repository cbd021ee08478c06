//! The registers: what they reset to, and what they keep.

use super::*;

#[test]
fn the_registers_reset_to_the_manuals_values() {
    let mut bench = Bench::new();
    let values = [(0x018, 0x090), (0x030, 0x300), (0x034, 0x012)];
    for offset in (0x000..0xfe0).step_by(4) {
        let value = values.iter().find(|&&(at, _)| at == offset).map_or(0, |&(_, value)| value);
        assert_eq!(bench.read(offset), value, "at {offset:#x}");
    }
}

#[test]
fn the_peripheral_identifies_itself_as_a_pl011_with_sixteen_deep_fifos() {
    let mut bench = Bench::new();
    let id: Vec<u64> = (0xfe0..0x1000).step_by(4).map(|offset| bench.read(offset)).collect();
    assert_eq!(id, [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
}

#[test]
fn a_register_keeps_the_bits_it_has() {
    let mut bench = Bench::new();
    let widths = [
        (0x020, 0x00ff),
        (0x024, 0xffff),
        (0x028, 0x003f),
        (0x02c, 0x00ff),
        (0x030, 0xff87),
        (0x034, 0x003f),
        (0x038, 0x07ff),
        (0x048, 0x0007),
    ];
    for (offset, bits) in widths {
        bench.write(offset, 0xffff_ffff);
        assert_eq!(bench.read(offset), bits, "at {offset:#x}");
        bench.write(offset, 0);
        assert_eq!(bench.read(offset), 0, "at {offset:#x}");
    }
}

#[test]
fn a_write_to_a_status_register_or_a_hole_changes_nothing() {
    let mut bench = Bench::with_fifos();
    bench.type_in(b"abc");
    let before = bench.uart.state().clone();
    for offset in [0x008, 0x014, 0x018, 0x01c, 0x03c, 0x040, 0x04c, 0x080, 0xfdc, 0xfe0, 0xffc] {
        bench.write(offset, 0xffff_ffff);
    }
    assert_eq!(*bench.uart.state(), before);
    assert_eq!(bench.line.take_output(), []);
}
