//! What a driver says of ports stands in memory that others write meanwhile: each byte of it is read once.

use super::*;
use crate::virtio::backend::{Backend, Served};
use crate::virtio::once::Once;

#[test]
fn whatever_is_said_of_ports_is_read_once_however_it_is_cut() {
    const HEAR: usize = 3;
    for event in [0u16, 1, 2, 3, 4, 5, 6, 7, 8, 0xffff].into_iter().step_by(pick(1, 6)) {
        for port in [0u32, 1, 2, u32::MAX].into_iter().step_by(pick(1, 3)) {
            for length in (1..=control::SIZE + 4).step_by(pick(1, 7)) {
                let bells = Arc::new(Doorbells::new(1));
                let [end, _other] = End::pair();
                let named = vec![NamedPort { name: "data".into(), end }];
                let bell = Doorbell::new(bells.clone(), VmId(0), 0);
                let mut device =
                    ConsoleDevice::new(Arc::new(ScriptedLine::default()), false, named, bell);
                device.begin(MULTIPORT);
                let word = u64::from(port) | u64::from(event) << 32 | 1 << 48;
                let said = [&word.to_le_bytes()[..], &[0xff; 4]].concat();
                for cut in (1..=control::SIZE).step_by(pick(1, 5)) {
                    let ram = Once::new(&said[..length], &[cut, 1], &[]);
                    let served = (0..3).map(|_| device.serve(HEAR, &ram.chain, &ram));
                    assert!(served.into_iter().any(|served| matches!(served, Ok(Served::Done(0)))));
                    assert_eq!(ram.count(), length.min(control::SIZE));
                }
            }
        }
    }
}
