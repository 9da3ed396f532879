//! Links that are slow but not broken.

use crate::site::{Site, eventually_at, noise};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until};
use tombolo_core::BucketPolicy;
use tombolo_link::{LinkLimits, Mode};

const DATA: &str = "SF/lab/data";
/// What one read of the line takes from it, in bytes.
const STEP: usize = 4 << 10;

/// A line between two sites: so many bytes a second each way, all connections together, and next to no buffers. When `is_dead` becomes true nothing passes any more, and nobody is told.
async fn line(to: SocketAddr, bytes_per_second: u32, is_dead: watch::Receiver<bool>) -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(64).unwrap();
    let address = listener.local_addr().unwrap();
    let free: [Arc<Mutex<Instant>>; 2] = std::array::from_fn(|_| Arc::new(Mutex::new(Instant::now())));
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpSocket::new_v4().unwrap();
            far.set_recv_buffer_size(16 << 10).unwrap();
            let Ok(far) = far.connect(to).await else { continue };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            let [there, back] = free.clone();
            tokio::spawn(carry(near_in, far_out, there, bytes_per_second, is_dead.clone()));
            tokio::spawn(carry(far_in, near_out, back, bytes_per_second, is_dead.clone()));
        }
    });
    address
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    free: Arc<Mutex<Instant>>,
    bytes_per_second: u32,
    is_dead: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; STEP];
    while let Ok(count) = from.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        let due = {
            let mut free = free.lock().await;
            let start = (*free).max(Instant::now());
            *free = start + Duration::from_secs(count as u64) / bytes_per_second;
            *free
        };
        sleep_until(due).await;
        if *is_dead.borrow() {
            // Both ends stay open.
            return std::future::pending().await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// P13: what takes a slow link longer than a broken one is waited for arrives, as long as bytes move. A frame had to pass within that time, and so had the next frame of each answer: on
/// a slow link connections were ended, what had come of a frame was thrown away, and the same began anew for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_may_take_longer_than_a_dead_connection() {
    let patience = Duration::from_secs(3);
    let limits = LinkLimits {
        silence_timeout: patience,
        transfer_timeout: patience,
        bulk_connections: 2,
        redial_max: Duration::from_millis(200),
        ..LinkLimits::default()
    };
    let (sf, ny) = (Site::with_limits("sf", limits.clone()).await, Site::with_limits("ny", limits).await);
    sf.make_bucket(DATA, BucketPolicy::default()).await;
    let object = noise(500, 1_200_000);
    sf.put(DATA, "large", object.clone()).await;
    let (_alive, is_dead) = watch::channel(false);
    let address = line(sf.door.addresses()[0], 100 << 10, is_dead).await;
    sf.link_at(&ny, Mode::Full, address).await;
    ny.wait().await;
    assert_eq!(ny.get(DATA, "large").await.unwrap(), object);
    // It came once.
    let received = ny.door.status().await.unwrap().links[0].received_bytes;
    assert!(received < 2_000_000, "{received} bytes came");
    for site in [sf, ny] {
        site.stop().await;
    }
}

/// The connection of a peer that has gone without a word ends all the same, when nothing has come for long enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_carries_nothing_ends_the_connection() {
    let limits = LinkLimits { silence_timeout: Duration::from_millis(500), ..LinkLimits::default() };
    let (sf, ny) = (Site::with_limits("sf", limits.clone()).await, Site::with_limits("ny", limits).await);
    let (dying, is_dead) = watch::channel(false);
    let address = line(sf.door.addresses()[0], 1 << 30, is_dead).await;
    sf.link_at(&ny, Mode::Full, address).await;
    ny.wait().await;
    dying.send(true).unwrap();
    let ended = async || {
        let links = ny.door.status().await.unwrap().links;
        links[0].problem.as_ref().is_some_and(|problem| problem.contains("silent"))
    };
    eventually_at(&[&sf, &ny], "the end of a silent connection", ended).await;
    for site in [sf, ny] {
        site.stop().await;
    }
}
