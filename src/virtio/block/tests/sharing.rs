//! What disks share, and what they do not.

use super::*;
use crate::virtio::block::base::DiskError;
use crate::virtio::block::image::ImageError;

fn creation(base: Option<Arc<base::Base>>, size: u64, space: Option<u64>) -> Creation {
    let owner = Arc::new(Owner::new("test".into()));
    Creation { size, base, space, serial: "d".into(), owner }
}

#[test]
fn an_image_is_in_memory_once_and_gone_with_its_last_disk() {
    let content = pattern(pick(130_000, 70_000) / 512 * 512);
    let image = keep(image_of(&content));
    let (mut pool, mut images) = (pool(128), Images::default());
    let free = pool.free_bytes();
    let mut make = |pool: &mut FramePool| {
        let base = images.get(image, pool).unwrap();
        let size = base.size();
        Disk::new(creation(Some(base), size, Some(8192)), pool).unwrap()
    };
    let mut one = make(&mut pool);
    let first = free - pool.free_bytes();
    let mut two = make(&mut pool);
    let own = Disk::memory(content.len() as u64, Some(8192));
    assert_eq!(
        first,
        own + base::Base::memory(&crate::virtio::block::image::Image::new(image).unwrap())
    );
    assert_eq!(free - pool.free_bytes(), first + own);
    // Each goes on with the unpacking where the other has stopped.
    loop {
        let ready = [one.step().unwrap(), two.step().unwrap()];
        if ready == [true; 2] {
            break;
        }
    }
    let mut guest = Guest::new(one);
    assert_eq!(guest.write(0, &[1; 4096]), OK);
    let mut other = Guest::new(two);
    let most = pick(250, 130);
    assert!(other.read(0, most).read == content[..usize::try_from(512 * most).unwrap()]);
    let disk = |guest: Guest| {
        let Guest { device, .. } = guest;
        device
    };
    drop((disk(guest), disk(other)));
    // The disks of these two are lost with their guests; a third begins anew.
    let mut three = make(&mut pool);
    let taken = free - pool.free_bytes();
    while !three.step().unwrap() {}
    let mut four = make(&mut pool);
    assert!(four.step().is_ok());
    assert_eq!(free - pool.free_bytes(), taken + own);
    four.release(&mut pool);
    assert_eq!(free - pool.free_bytes(), taken);
    three.release(&mut pool);
    assert_eq!(free - pool.free_bytes(), taken - first);
}

#[test]
fn what_cannot_be_made_leaves_nothing_behind() {
    let image = keep(image_of(&pattern(1 << 17)));
    let needs = (Disk::memory(1 << 17, Some(1 << 17)) >> 12) + 33;
    for pages in (1..needs).step_by(pick(1, 19)) {
        let mut pool = pool(pages);
        let free = pool.free_bytes();
        let made = Images::default().get(image, &mut pool).map(|base| {
            Disk::new(creation(Some(base), 1 << 17, Some(1 << 17)), &mut pool).map(drop)
        });
        assert!(matches!(made, Err(DiskError::Memory(_)) | Ok(Err(_))), "{pages} pages");
        assert_eq!(pool.free_bytes(), free);
    }
}

#[test]
fn a_bad_image_is_told_to_all_who_want_it() {
    let mut image = image_of(&pattern(1 << 17));
    let at = image.len() - 100;
    image.truncate(at);
    let mut pool = pool(128);
    let free = pool.free_bytes();
    let mut images = Images::default();
    let bytes = keep(image);
    let [mut one, mut two] = [(); 2].map(|()| {
        let base = images.get(bytes, &mut pool).unwrap();
        Disk::new(creation(Some(base), 1 << 17, None), &mut pool).unwrap()
    });
    let told = std::iter::repeat_with(|| one.step()).find(|step| *step != Ok(false)).unwrap();
    assert_eq!(told, Err(ImageError::Place { number: 1 }));
    assert_eq!(two.step(), told);
    one.release(&mut pool);
    two.release(&mut pool);
    assert_eq!(pool.free_bytes(), free);
}
