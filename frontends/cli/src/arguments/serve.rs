//! `serve` and `mount`.

use crate::quantity::{parse_duration, parse_size};
use clap::{Args, Parser};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tombolo_nfs::Export;

/// Where NFS clients look for a port mapper.
const PORT_MAPPER_PORT: u16 = 111;

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Serve S3 on this address. Default when no other door is asked for: 127.0.0.1:9000.
    #[arg(long, value_name = "ADDR")]
    pub(crate) s3: Option<SocketAddr>,
    /// Take requests to BUCKET.NAME for requests to that bucket (virtual-hosted style); without it buckets are in the path, which most clients must be
    /// told: "path style". A name without a port, such as s3.example.org; can be given several times.
    #[arg(long, value_name = "NAME", value_parser = parse_domain)]
    pub(crate) s3_domain: Vec<String>,
    /// Serve NFS version 3 on this address; mount with port=PORT,mountport=PORT,nolock, or see --nfs-port-mapper.
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:2049")]
    pub(crate) nfs: Option<SocketAddr>,
    /// Be the port mapper of NFS clients, too, so that they find the rest, locks included, and mount without options: at this address. Default: port 111 of
    /// the one of --nfs.
    #[arg(long, value_name = "ADDR", num_args = 0..=1, requires = "nfs")]
    pub(crate) nfs_port_mapper: Option<Option<SocketAddr>>,
    /// Export a bucket or a directory of one over NFS, with options as in exports(5): ro, root_squash (default), no_root_squash, all_squash, anonuid=,
    /// anongid=, secure (default), insecure, client=ADDRESS[/BITS]. Can be given several times. Without it: every bucket, to this host alone.
    #[arg(long, value_name = "/PATH[:OPTIONS]", requires = "nfs")]
    pub(crate) nfs_export: Vec<Export>,
    /// Listen for links from other segments on this address, which they must reach; only segments that were invited get past the greeting. Can be
    /// given several times. Without it links that were accepted here are dialled all the same. See tombolo link --help.
    #[arg(long, value_name = "ADDR")]
    pub(crate) link: Vec<SocketAddr>,
    /// Mount on POINT: everything, or what is at PATH (CLUSTER[/TENANT[/BUCKET[/DIRECTORY]]]). Can be given several times.
    #[arg(long, value_name = "[PATH=]POINT", value_parser = parse_mount)]
    pub(crate) mount: Vec<(String, PathBuf)>,
    /// Options for these mounts, see tombolo mount --help.
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    pub(crate) mount_options: String,
    /// Serve metrics and health on this address, without authentication; keep it on loopback or a trusted network.
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:9001")]
    pub(crate) admin: Option<SocketAddr>,
    /// On the first start: the segment's name. Default: the host's name.
    #[arg(long, value_name = "NAME")]
    pub(crate) segment: Option<String>,
    /// On the first start: the segment's cluster.
    #[arg(long, value_name = "NAME", default_value = "Local")]
    pub(crate) cluster: String,
    /// While no tenant has a user: the tenant of the user to make; it is made if it is not there.
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub(crate) tenant: String,
    /// While no tenant has a user: the user to make.
    #[arg(long, value_name = "NAME", default_value = "admin")]
    pub(crate) user: String,
    /// Drop multipart uploads that were started longer ago; 0: never.
    #[arg(long, value_name = "AGE", default_value = "7d", value_parser = parse_duration)]
    pub(crate) upload_expiry: Duration,
    /// Collect garbage this often, when anything was written or deleted in between; 0: never.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    pub(crate) gc_interval: Duration,
    /// What a collection moves at most per second, while the disk is not full; 0: unlimited.
    #[arg(long, value_name = "BYTES", default_value = "128M", value_parser = parse_size)]
    pub(crate) gc_rate: u64,
    /// Read and verify all that is stored this long after the last time; 0: never. Damage is healed from linked segments where it can be, and shows in the log,
    /// the metrics and tombolo status.
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_duration)]
    pub(crate) scrub_interval: Duration,
    /// What that reads at most per second; 0: unlimited.
    #[arg(long, value_name = "BYTES", default_value = "32M", value_parser = parse_size)]
    pub(crate) scrub_rate: u64,
    /// How long to wait for requests under way when shutting down.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub(crate) shutdown_timeout: Duration,
    /// Memory for verified chunks. Reading ahead takes up to a quarter as much again.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) chunk_cache: Option<u64>,
    /// Room on the disk for data that readers fetch over links and that is not to stay: at least 64M. Default: 10G, and at most a quarter of the file system.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) cache_size: Option<u64>,
    /// Memory for metadata.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) metadata_cache: Option<u64>,
    /// Memory for contents on their way in, all clients together: at least 8M.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) write_buffer: Option<u64>,
    /// Refuse writes when the file system has less free than this.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) reserve: Option<u64>,
    /// Threads that cut, hash and compress; 0: one per core.
    #[arg(long, value_name = "COUNT")]
    pub(crate) workers: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// What to mount, CLUSTER[/TENANT[/BUCKET[/DIRECTORY]]] (without it: everything), and where.
    #[arg(value_name = "[PATH] POINT", num_args = 1..=2, required = true)]
    pub(crate) places: Vec<OsString>,
    /// Options, comma-separated.
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(crate) options: Vec<String>,
    /// When this process becomes the daemon: leave it in the background and return once it is mounted; it logs to mount.log in the data directory.
    #[arg(long)]
    pub(crate) background: bool,
}

impl ServeArgs {
    /// Where the NFS door is a port mapper.
    pub(crate) fn port_mapper(&self) -> Option<SocketAddr> {
        let default = || self.nfs.map(|nfs| SocketAddr::new(nfs.ip(), PORT_MAPPER_PORT));
        self.nfs_port_mapper.and_then(|address| address.or_else(default))
    }

    /// As `tombolo serve` without arguments.
    pub(crate) fn defaults() -> ServeArgs {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            serve: ServeArgs,
        }
        Line::parse_from(["tombolo"]).serve
    }
}

/// A name of hosts, without a port.
fn parse_domain(text: &str) -> Result<String, String> {
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !text.split('.').all(is_label) || text.parse::<std::net::IpAddr>().is_ok() {
        return Err("it takes a domain such as s3.example.org, without a port".into());
    }
    Ok(text.to_owned())
}

/// `[PATH=]POINT`.
fn parse_mount(text: &str) -> Result<(String, PathBuf), String> {
    let (path, point) = text.split_once('=').unwrap_or(("", text));
    if point.is_empty() {
        return Err("it takes [PATH=]POINT".into());
    }
    Ok((path.to_owned(), point.into()))
}
