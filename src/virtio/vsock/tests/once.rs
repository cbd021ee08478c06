//! Packets stand in memory that others write meanwhile: each byte of a header and of what follows it is read once.

use super::*;
use crate::testing::pick;
use crate::virtio::backend::{Backend, Served};
use crate::virtio::once::Once;

/// What a guest sends, in however many pieces; how many bytes of it are read.
fn sent(bytes: &[u8], pieces: &[usize]) -> usize {
    let configs =
        [3, 4].map(|cid| VsockConfig { group: Some("test".into()), ..VsockConfig::new(cid) });
    let sockets = Sockets::new(configs.iter().map(Some));
    let bells = Arc::new(Doorbells::new(2));
    let [mut device, _other] = [0, 1].map(|vm| {
        let bell = Doorbell::new(bells.clone(), VmId(vm), 0);
        let mut device = VsockDevice::new(sockets.of(VmId(vm)).unwrap().clone(), bell);
        device.begin(0);
        device
    });
    let ram = Once::new(bytes, pieces, &[]);
    for _ in 0..100 {
        match device.serve(TRANSMIT, &ram.chain, &ram) {
            Ok(Served::Done(_)) => return ram.count(),
            // It is looked at again from its beginning when there is room for it: none was looked at yet.
            Ok(_) => assert_eq!(ram.count(), 0),
            Err(bad) => panic!("{bad}"),
        }
    }
    panic!("it is never taken")
}

#[test]
fn every_packet_is_read_once_however_it_is_cut() {
    let ops = [
        0,
        op::REQUEST,
        op::RESPONSE,
        op::RST,
        op::SHUTDOWN,
        op::RW,
        op::CREDIT_UPDATE,
        op::CREDIT_REQUEST,
        0xffff,
    ];
    for op in ops.into_iter().step_by(pick(1, 5)) {
        // To the other guest, to the hypervisor, to nobody; and in somebody else's name.
        for (src_cid, dst_cid) in [(3, 4), (3, 2), (3, 99), (4, 3)].into_iter().step_by(pick(1, 2))
        {
            let lengths = [(0, 0), (100, 100), (100, 7), (7, 100), (u32::MAX, 9)];
            for (len, follow) in lengths.into_iter().step_by(pick(1, 3)) {
                let header = PacketHeader { src_cid, dst_cid, len, ..packet(0, 1024, op, 0) };
                let bytes = [&header.bytes()[..], &vec![b'x'; follow]].concat();
                for cut in (1..SIZE + 2).step_by(pick(1, 43)) {
                    for pieces in [vec![cut], vec![cut, 3], vec![SIZE, cut]] {
                        let read = sent(&bytes, &pieces);
                        assert!(
                            (SIZE..=bytes.len()).contains(&read),
                            "{op} {dst_cid} {len} {pieces:?}"
                        );
                    }
                }
            }
        }
    }
}
