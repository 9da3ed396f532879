//! A program with a store of its own that lets people in: the bucket it writes to is an NFS export, and a mount if a directory is named.
//!
//! ```sh
//! cargo run --example doors -- ./data            # NFS on 127.0.0.1:2049
//! cargo run --example doors -- ./data /mnt       # and mounted on /mnt
//! ```

use std::error::Error;
use tombolo_core::{BucketPath, BucketPolicy, CreateOptions, ErrorKind, OpenOptions, PutOptions, Segment};
use tombolo_fuse::{Mount, MountOptions, MountPath};
use tombolo_nfs::{Exports, NfsDoor, NfsLimits, NfsOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("usage: doors DIR [MOUNTPOINT]")?;
    let segment = if Segment::exists(&dir) {
        Segment::open(&dir, OpenOptions::default()).await?
    } else {
        let create = CreateOptions { name: "example".into(), cluster: "Example".into() };
        Segment::create(&dir, create, OpenOptions::default()).await?
    };
    let path: BucketPath = "Example/lab/readings".parse()?;
    for made in [
        segment.catalog().create_tenant(&path.tenant).await,
        segment.catalog().create_bucket(&path, BucketPolicy::default()).await.map(drop),
    ] {
        match made {
            Err(error) if error.kind() != ErrorKind::Exists => return Err(error.into()),
            _ => {}
        }
    }
    // What the program writes is a file behind every door when this returns.
    let bucket = segment.bucket(&path).await?;
    bucket.put("2026/first", "21.5 degrees\n", PutOptions::default()).await?;

    let options = NfsOptions { exports: Exports::AllToLoopback, port_mapper: None, limits: NfsLimits::default() };
    let door = NfsDoor::bind(segment.clone(), &["127.0.0.1:2049".parse()?], options).await?;
    println!("mount -t nfs -o vers=3,tcp,port=2049,mountport=2049,nolock 127.0.0.1:/{path} /mnt");
    let mount = match arguments.next() {
        Some(point) => {
            let what = MountPath::Bucket(path.clone(), Vec::new());
            Some(Mount::new(segment.clone(), &what, &point, MountOptions::default()).await?)
        }
        None => None,
    };

    door.serve(async {
        // Until Ctrl-C, or when it can't be listened for.
        let _ = tokio::signal::ctrl_c().await;
    })
    .await;
    if let Some(mount) = mount {
        mount.unmount().await?;
    }
    segment.close().await?;
    Ok(())
}
