//! Several queues, and what a slow disk holds up.

use std::io;
use std::sync::mpsc;

use vm_memory::GuestMemoryMmap;

use super::super::MAX_QUEUES;
use super::super::config::feature;
use super::*;
use crate::event_loop::EventLoop;
use crate::lock;
use crate::scatter::View;
use crate::virtio::VirtioDevice as _;

/// A disk whose reads wait until they are let go; each says that it has begun.
struct Slow {
    begun: Mutex<mpsc::Sender<u64>>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Disk for Slow {
    fn size(&self) -> u64 {
        64 * SECTOR
    }

    fn read_at(&self, _memory: &GuestMemoryMmap, _into: View<'_>, offset: u64) -> io::Result<()> {
        let _ = lock(&self.begun).send(offset / SECTOR);
        // Ends when the test does, at the latest.
        let _ = lock(&self.go).recv();
        Ok(())
    }

    fn write_at(&self, _: &GuestMemoryMmap, _: View<'_>, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, _: u64, _: u64, _: bool) -> io::Result<()> {
        Ok(())
    }
}

/// A request for a sector in entry 0 to 2 of a queue's table, with buffers of its own.
fn read(guest: &Activated, queue: usize, sector: u64) {
    let place = HEADER_AT + 0x1000 * u64::try_from(queue).expect("few");
    let header = [[0; 8], sector.to_le_bytes()].concat();
    guest
        .memory
        .write_slice(&header, GuestAddress(place))
        .expect("in memory");
    let chain = [
        (place, 16, NEXT, 1),
        (place + 0x200, 512, NEXT | WRITE, 2),
        (place + 0x100, 1, WRITE, 0),
    ];
    guest.offer(queue, &chain, &[0]);
}

#[test]
fn queues_are_as_many_as_workers_and_one_without_the_feature() {
    for workers in [1, 2, MAX_QUEUES, MAX_QUEUES + 1] {
        let event_loop = EventLoop::new().expect("epoll");
        let disk = RawDisk::open(file(&pattern(1024, 0)).into(), Access::ReadWrite);
        let serial = Serial::new("several").expect("a serial");
        let loops = vec![event_loop; workers];
        let disk = Box::new(disk.expect("a disk"));
        let block = Block::new(disk, serial, Access::ReadWrite, loops);
        let expected = workers.min(MAX_QUEUES);
        assert_eq!(block.queue_sizes().len(), expected);
        assert_eq!(block.features() & feature::MQ != 0, workers > 1);
        assert_eq!(block.queues_possible(0), 1);
        assert_eq!(block.queues_possible(feature::MQ), expected);
        let mut told = [0; 2];
        block.read_config(34, &mut told);
        assert_eq!(usize::from(u16::from_le_bytes(told)), expected);
    }
}

#[test]
fn every_queue_reaches_the_same_disk() {
    let bytes = pattern(64 * 512, 3);
    let event_loop = EventLoop::new().expect("epoll");
    let disk = RawDisk::open(file(&bytes).into(), Access::ReadWrite).expect("a disk");
    let serial = Serial::new("several").expect("a serial");
    let loops = vec![event_loop.clone(); 3];
    let block = Block::new(Box::new(disk), serial, Access::ReadWrite, loops);
    let guest = Activated::on(event_loop, Arc::new(Mutex::new(block)), feature::MQ);
    for queue in 0..3 {
        let sector = 5 + u64::try_from(queue).expect("few");
        read(&guest, queue, sector);
        guest.kick(queue);
        assert_eq!(guest.used(queue), [(0, 513)]);
        let place = HEADER_AT + 0x1000 * (sector - 5) + 0x200;
        let mut got = [0; 512];
        guest
            .memory
            .read_slice(&mut got, GuestAddress(place))
            .expect("in memory");
        let at = usize::try_from(sector).expect("small") * 512;
        assert_eq!(got, bytes[at..at + 512]);
    }
}

#[test]
fn a_slow_disk_holds_up_neither_registers_nor_the_other_queue() {
    let (begun, news) = mpsc::channel();
    let (let_go, go) = mpsc::channel();
    let slow = Slow {
        begun: Mutex::new(begun),
        go: Mutex::new(go),
    };
    let loops: Vec<EventLoop> = (0..2).map(|_| EventLoop::new().expect("epoll")).collect();
    let serial = Serial::new("slow").expect("a serial");
    let block = Block::new(Box::new(slow), serial, Access::ReadWrite, loops.clone());
    let main = EventLoop::new().expect("epoll");
    let mut guest = Activated::on(main, Arc::new(Mutex::new(block)), feature::MQ);
    let threads: Vec<_> = loops
        .iter()
        .map(|event_loop| {
            let event_loop = event_loop.clone();
            std::thread::spawn(move || event_loop.run().expect("epoll"))
        })
        .collect();
    // The first queue's worker waits in its first request; two more wait behind it.
    read(&guest, 0, 7);
    guest.offer(0, &[], &[0, 0]);
    guest.kick(0);
    assert_eq!(news.recv(), Ok(7));
    let mut size = [0; 8];
    lock(&guest.device).read_config(0, &mut size);
    assert_eq!(u64::from_le_bytes(size), 64);
    // The second queue asks for no data, so the disk does not keep it.
    let flush = [4_u32.to_le_bytes(), [0; 4], [0; 4], [0; 4]].concat();
    guest
        .memory
        .write_slice(&flush, GuestAddress(STATUS_AT + 0x1000))
        .expect("in memory");
    let chain = [
        (STATUS_AT + 0x1000, 16, NEXT, 1),
        (STATUS_AT + 0x1100, 1, WRITE, 0),
    ];
    guest.offer(1, &chain, &[0]);
    guest.kick(1);
    while guest.used(1).is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(guest.used(0), [], "the first still waits");
    // A reset waits until the disk has let go; afterwards nothing is answered any more.
    let resetting = Arc::clone(&guest.device);
    let other = EventLoop::new().expect("epoll");
    let subscriber = other.add(Arc::clone(&resetting));
    let (done, is_reset) = mpsc::channel();
    let reset = std::thread::spawn(move || {
        lock(&resetting).reset(&mut other.registrar(subscriber));
        done.send(()).expect("somebody listens");
    });
    assert!(is_reset.try_recv().is_err(), "the disk still has a request");
    drop(let_go);
    reset.join().expect("no panic");
    let answered = guest.used(0).len();
    guest.kick(0);
    assert_eq!(guest.used(0).len(), answered);
    guest.restart();
    read(&guest, 0, 9);
    guest.kick(0);
    while guest.used(0).is_empty() {
        std::thread::yield_now();
    }
    for event_loop in &loops {
        event_loop.stop();
    }
    for thread in threads {
        thread.join().expect("no panic");
    }
    drop((guest, loops));
    while let Ok(sector) = news.try_recv() {
        assert!([7, 9].contains(&sector));
    }
    let disk_is_gone = news.try_recv() == Err(mpsc::TryRecvError::Disconnected);
    assert!(disk_is_gone, "nothing holds the disk any more");
}
