//! Where boards may have virtio devices.

use super::*;

#[test]
fn qemus_board_has_32_places_and_the_highest_comes_first() {
    for blob in [VIRT_GICV2, VIRT_GICV3] {
        let places = Board::virtio_places(blob).unwrap();
        assert_eq!(places.len(), 32);
        for (place, number) in places.iter().zip((0..32u16).rev()) {
            let start = 0x0a00_0000 + 0x200 * u64::from(number);
            assert_eq!(place.registers, region(start, 0x200));
            let interrupt = WiredInterrupt { intid: IntId(48 + number), trigger: Trigger::Edge };
            assert_eq!(place.interrupt, interrupt);
            assert!(place.coherent);
        }
    }
}

#[test]
fn a_board_without_such_nodes_has_no_place() {
    assert_eq!(Board::virtio_places(&pi().to_dtb()), Ok(vec![]));
}

#[test]
fn a_place_out_of_use_is_none_and_coherence_is_inherited_and_can_be_taken_back() {
    let mut tree = virt_with(VIRT_GICV2, pick(32, 4));
    tree.root.remove_property("dma-coherent");
    set(&mut tree, "/virtio_mmio@a000000", "status", "disabled");
    at(&mut tree, "/virtio_mmio@a000200").remove_property("dma-coherent");
    set(&mut tree, "/virtio_mmio@a000400", "dma-noncoherent", vec![0u8; 0]);
    let coherent = |tree: &DeviceTree| {
        let places = Board::virtio_places(&tree.to_dtb()).unwrap();
        let places = places.iter().rev().take(3);
        places.map(|place| (place.registers.start().raw(), place.coherent)).collect::<Vec<_>>()
    };
    let first = [(0x0a00_0200, false), (0x0a00_0400, false), (0x0a00_0600, true)];
    assert_eq!(coherent(&tree), first);
    tree.root.add_property(DeviceTreeProperty::new("dma-coherent", vec![0u8; 0]).unwrap());
    assert_eq!(coherent(&tree)[..2], [(0x0a00_0200, true), (0x0a00_0400, false)]);
}

#[test]
fn a_place_without_an_interrupt_is_an_error_that_names_it() {
    let mut tree = virt_with(VIRT_GICV3, pick(32, 8));
    at(&mut tree, "/virtio_mmio@a000e00").remove_property("interrupts");
    let error = Board::virtio_places(&tree.to_dtb()).unwrap_err();
    let path = "/virtio_mmio@a000e00".into();
    assert_eq!(error, BoardError::MissingProperty { path, property: "interrupts" });
}
