//! What one connection can do to the others: nothing.

use crate::client::{Args, Client, NFS, within};
use crate::served::{BUCKET, SOON, Served, patient};
use tokio::io::AsyncWriteExt;
use tombolo_nfs::NfsLimits;

const MIB: u32 = 1 << 20;

/// Sends calls for a gibibyte and takes no reply.
async fn stall(client: &mut Client, file: &[u8]) {
    for _ in 0..1024 {
        client.send(NFS, 6, &Args::new().opaque(file).u64(0).u32(MIB)).await;
    }
}

/// The memory for calls and replies was one for all: who took no replies had all of it in the end, and everybody else waited.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_replies_holds_up_nobody() {
    let limits = NfsLimits { memory_bytes: 8 << 20, memory_per_connection_bytes: 2 << 20, ..patient() };
    let served = Served::new(&[], limits).await;
    served.filled("file", MIB as usize).await;
    let mut good = served.client().await;
    let root = good.mount(BUCKET).await.unwrap();
    let file = good.lookup(&root, "file").await.unwrap();
    let mut stalled = Vec::new();
    for _ in 0..2 {
        let mut client = served.client().await;
        stall(&mut client, &file).await;
        stalled.push(client);
    }
    for _ in 0..200 {
        assert_eq!(good.read(&file, 0, MIB).await, Ok(MIB as usize));
    }
    // The others go on where they have stopped.
    for client in &mut stalled {
        for _ in 0..1024 {
            assert!(client.receive().await.unwrap().0.len() > MIB as usize);
        }
    }
}

/// It also stayed connected for ever. That the only place becomes free, and the memory, is seen by the next client.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_replies_is_cut_off() {
    let limits = NfsLimits { connections_max: 1, memory_bytes: 4 << 20, transfer_timeout: SOON, ..patient() };
    let served = Served::new(&[], limits).await;
    served.filled("file", MIB as usize).await;
    let mut stalled = served.client().await;
    let root = stalled.mount(BUCKET).await.unwrap();
    let file = stalled.lookup(&root, "file").await.unwrap();
    stall(&mut stalled, &file).await;
    for _ in 0..3 {
        let mut next = served.client().await;
        for _ in 0..10 {
            assert_eq!(next.read(&file, 0, MIB).await, Ok(MIB as usize));
        }
    }
    // Not even what was on its way comes any more.
    within("the connection is gone", async { while stalled.receive().await.is_some() {} }).await;
}

#[tokio::test]
async fn a_record_that_has_begun_must_come() {
    for begins in [&b"\x80\x10\x00\x00only the beginning"[..], b"\x00\x00\x00\x04abcd", b"\x00\x00\x00\x04abcd\x80\x00"]
    {
        let served = Served::new(&[], NfsLimits { transfer_timeout: SOON, ..patient() }).await;
        for has_called in [false, true] {
            let mut client = served.client().await;
            if has_called {
                client.null().await;
            }
            within("the bytes are taken", client.stream.write_all(begins)).await.unwrap();
            client.closed().await;
        }
    }
}

#[tokio::test]
async fn silence_has_an_end() {
    let served = Served::new(&[], NfsLimits { greeting_timeout: SOON, ..patient() }).await;
    let mut greeted = served.client().await;
    greeted.null().await;
    for begins in [&b""[..], b"\x80", b"\x80\x00\x00\x28\x00"] {
        let mut client = served.client().await;
        within("the bytes are taken", client.stream.write_all(begins)).await.unwrap();
        client.closed().await;
    }
    greeted.null().await;

    let served = Served::new(&[], NfsLimits { idle_timeout: SOON, ..patient() }).await;
    let mut silent = served.client().await;
    silent.null().await;
    silent.closed().await;
}

/// Connections that nobody used kept the new ones waiting.
#[tokio::test]
async fn the_silent_make_room() {
    let served = Served::new(&[], NfsLimits { connections_max: 2, ..patient() }).await;
    let mut old = served.client().await;
    old.null().await;
    let mut mute = served.client().await;
    let mut new = served.client().await;
    new.null().await;
    mute.closed().await;
    // Of two that have called the one that was silent longest goes.
    old.null().await;
    let mut newest = served.client().await;
    newest.null().await;
    new.closed().await;
    old.null().await;
}
