//! The command line: verbs, flags and their help.

mod link;
mod list;
mod objects;
mod serve;

pub(crate) use link::{AcceptArgs, AfterArgs, ConflictsVerb, DemoArgs, InviteArgs, LinkVerb, SyncVerb};
pub(crate) use list::LsArgs;
pub(crate) use objects::{CpArgs, MkdirArgs, MvArgs, RmArgs};
pub(crate) use serve::{MountArgs, ServeArgs};

use crate::quantity::parse_size;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  not found
  4  offline or incomplete
  5  damaged

Paths are CLUSTER/TENANT/BUCKET[/KEY]. When a daemon (tombolo serve) has the data directory, commands go through the
socket in it; otherwise they open the directory themselves.";

/// Stores objects and files in a segment, one data directory, serves them over S3, NFS and FUSE, and links it to segments elsewhere.
#[derive(Debug, Parser)]
#[command(name = "tombolo", version, max_term_width = 120, after_long_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// The data directory.
    #[arg(long, global = true, env = "TOMBOLO_DIR", value_name = "DIR", help_heading = "Global options")]
    pub(crate) dir: Option<PathBuf>,
    /// Print JSON: one object, or an array with one element per line. Errors are objects on standard error.
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// What to log to standard error: error, warn, info, debug or trace, also per module (info,tombolo_core=debug).
    #[arg(long, global = true, env = "TOMBOLO_LOG", value_name = "LEVEL", help_heading = "Global options")]
    pub(crate) log_level: Option<String>,
    /// Form of the log.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT", help_heading = "Global options")]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Forms of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One line of text per event.
    Text,
    /// One JSON object per event.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a segment in an empty or absent directory.
    #[command(after_long_help = "Example:\n  tombolo init --dir /srv/tombolo --segment newyork --cluster NewYork")]
    Init(InitArgs),
    /// Serve the segment until SIGTERM or SIGINT.
    ///
    /// Makes the directory and the segment if they are not there. When S3 is served and no tenant has a user yet, a user
    /// is made, of a tenant that is made if it is not there, and the user's keys are printed, once.
    ///
    /// On SIGTERM or SIGINT it stops accepting, finishes what is under way, flushes and ends with 0; a second signal ends
    /// it at once. Nothing acknowledged is lost either way.
    #[command(after_long_help = "\
Examples:
  tombolo serve --dir ./data                                   S3 on 127.0.0.1:9000
  tombolo serve --dir ./data --s3 0.0.0.0:9000 --admin 127.0.0.1:9001 --log-format json
  tombolo serve --dir ./data --s3 127.0.0.1:9000 --link 0.0.0.0:7000

On the admin address: GET /metrics (Prometheus), /healthz (the process lives), /readyz (it takes requests).")]
    Serve(Box<ServeArgs>),
    /// Mount the namespace, a tenant, a bucket or a directory of one as a file system (FUSE).
    ///
    /// Asks the daemon that has the data directory; where none runs, this process becomes one, for as long as anything is mounted. What a
    /// killed process left mounted is replaced.
    #[command(after_long_help = "\
Options for -o:
  ro                     nothing can be changed
  allow_other            users other than the one who mounts may enter (mounts of root: everybody)
  fsname=NAME            the source that /proc/mounts shows
  subtype=NAME           the type is fuse.NAME instead of fuse
  entry_timeout=SECONDS  how long the kernel keeps names (60); changes through other doors are told to it at once
  attr_timeout=SECONDS   the same for attributes
  nowriteback            writes go to the segment at once instead of when the kernel chooses, or at fsync and close
  threads=COUNT          threads that read requests (2)
  nosuid, nodev, noexec, noatime, …

Examples:
  tombolo mount NewYork/lab/results /mnt/results
  tombolo mount /mnt/all                            clusters, tenants and buckets as directories
  tombolo umount /mnt/results

In fstab, with the binary linked as /sbin/mount.tombolo:
  NewYork/lab/results  /mnt/results  tombolo  dir=/srv/tombolo,_netdev  0 0")]
    Mount(MountArgs),
    /// Unmount what is mounted on a directory.
    Umount {
        #[arg(value_name = "POINT")]
        point: PathBuf,
    },
    /// Make, list, show and delete clusters, the first level of the namespace.
    #[command(subcommand)]
    Cluster(ClusterVerb),
    /// Make, list, show and delete tenants, the second level of the namespace.
    #[command(subcommand)]
    Tenant(TenantVerb),
    /// Make, list, show, change and delete buckets.
    #[command(subcommand)]
    Bucket(BucketVerb),
    /// Make, list and delete the users of a tenant; each has a key pair for S3.
    #[command(subcommand)]
    User(UserVerb),
    /// Store a file, or standard input (-), as an object.
    #[command(after_long_help = "\
Examples:
  tombolo put report.pdf NewYork/lab/results/2026/report.pdf
  tombolo put report.pdf NewYork/lab/results/2026/            the key takes the file's name
  pg_dump db | tombolo put - NewYork/lab/backup/db.sql --header content-type=application/sql

The object is durable when the command returns.")]
    Put(PutArgs),
    /// Fetch an object into a file, a directory, or standard output (-).
    #[command(after_long_help = "\
Examples:
  tombolo get NewYork/lab/results/2026/report.pdf .
  tombolo get NewYork/lab/backup/db.sql - | psql db
  tombolo get NewYork/lab/results/plan.txt old.txt --version 06Tq…

Every byte is verified before it is written. A file appears whole, under its name, or not at all.")]
    Get(GetArgs),
    /// List what is below a path: clusters, tenants, buckets, or keys.
    #[command(after_long_help = "\
Examples:
  tombolo ls                              clusters
  tombolo ls NewYork/lab                  buckets
  tombolo ls -l NewYork/lab/results/2026  one directory, with sizes and times
  tombolo ls -r --json NewYork/lab/results

JSON: key, type (file, directory, symlink, … or prefix), size, time, etag; with -l also local (yes, part, no) and local_bytes.")]
    Ls(LsArgs),
    /// Show everything about one object, file or directory.
    Stat(StatArgs),
    /// Delete an object; with -r everything below a path.
    #[command(after_long_help = "\
Examples:
  tombolo rm NewYork/lab/results/draft.txt
  tombolo rm -r NewYork/lab/results/2019        the directory and all below it
  tombolo rm -r NewYork/lab/results             all that is in the bucket (with a slash at its end it is refused)
  tombolo rm NewYork/lab/results/plan.txt --version 06Tq…

In a bucket that keeps versions, what is deleted stays as an older version below a delete marker.")]
    Rm(RmArgs),
    /// Copy an object, or with -r everything below a path. Content is shared, not copied.
    ///
    /// With -r an error about one object is reported, the others are copied, and the command ends with 1.
    Cp(CpArgs),
    /// Rename an object or a directory; a directory in one step, whatever is below it.
    #[command(after_long_help = "\
Examples:
  tombolo mv NewYork/lab/results/a.txt NewYork/lab/results/b.txt
  tombolo mv NewYork/lab/results/2025 NewYork/lab/results/archive/2025

Between buckets an object is copied (sharing its content) and then deleted; directories move inside one bucket only.")]
    Mv(MvArgs),
    /// Make a directory, which stays when it is empty.
    ///
    /// Objects need none: the directories of their keys are there while they are.
    Mkdir(MkdirArgs),
    /// List the versions of an object, newest first; of a bucket or a path ending in /, of all objects below.
    #[command(after_long_help = "JSON: version, key, size, segment (its id), time, current, marker, type, etag.")]
    Versions(VersionsArgs),
    /// Bring a directory tree in.
    ///
    /// Keeps modes, owners, times, symbolic and hard links, holes, empty directories, special files and user.* extended
    /// attributes. Files that are there already with the same size and time are skipped, so an interrupted import is
    /// resumed by the same command. A file that cannot be read, or that changes while it is read, is reported and left
    /// out, and the command ends with 1. What is not in DIR any more is not deleted. All is durable when the command returns.
    #[command(after_long_help = "Example:\n  tombolo import /data/run42 NewYork/lab/results/run42")]
    Import(ImportArgs),
    /// Write what is below a path into a directory; the reverse of import, resumable like it.
    ///
    /// Owners are restored when run as root. Keys that cannot be file names here (empty components, . and .., a file and a
    /// directory of one name) are reported and left out, and the command ends with 1.
    #[command(after_long_help = "Example:\n  tombolo export NewYork/lab/results/run42 /scratch/run42")]
    Export(ExportArgs),
    /// Make, list and delete snapshots of a bucket, and clone from them. None of it copies data.
    #[command(subcommand)]
    Snapshot(SnapshotVerb),
    /// Link this segment to others, so that they carry the same buckets.
    #[command(subcommand, after_long_help = link::LINK_HELP)]
    Link(LinkVerb),
    /// Show how far linked segments have come, wait for them, compare with them, and decide what was changed at several at once.
    #[command(subcommand)]
    Sync(SyncVerb),
    /// Run two linked segments on this host, with every door open, and say what to type to see it work.
    ///
    /// The sites are sanfrancisco and newyork. Both serve S3 and NFS on loopback, and are mounted if this user may mount. Ctrl-C ends both. Without --dir
    /// everything is in a temporary directory that is removed at the end; with it the data stays, and the same command goes on with it.
    #[command(after_long_help = "\
Examples:
  tombolo demo
  tombolo demo --dir ./demo --port-base 19000")]
    Demo(DemoArgs),
    /// Show what the segment holds and how it is doing.
    Status(StatusArgs),
    /// Read and verify everything stored. Ends with 5 when it finds damage.
    Scrub(ScrubArgs),
    /// Give back the space of what nothing refers to any more.
    Gc(GcArgs),
    /// Print a completion script for a shell.
    #[command(after_long_help = "Example:\n  tombolo completions bash > /etc/bash_completion.d/tombolo")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The segment's name, its site's; letters, digits, '.', '-' and '_'.
    #[arg(long, value_name = "NAME")]
    pub(crate) segment: String,
    /// The cluster that buckets made through S3 belong to.
    #[arg(long, value_name = "NAME", default_value = "Local")]
    pub(crate) cluster: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterVerb {
    /// Make a cluster.
    Create { cluster: OsString },
    /// List all clusters.
    List,
    /// Show a cluster and its tenants.
    Show { cluster: OsString },
    /// Delete an empty cluster.
    Delete { cluster: OsString },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TenantVerb {
    /// Make a tenant.
    Create {
        #[arg(value_name = "CLUSTER/TENANT")]
        tenant: OsString,
    },
    /// List the tenants of a cluster.
    List { cluster: OsString },
    /// Show a tenant, its buckets and users.
    Show {
        #[arg(value_name = "CLUSTER/TENANT")]
        tenant: OsString,
    },
    /// Delete an empty tenant.
    Delete {
        #[arg(value_name = "CLUSTER/TENANT")]
        tenant: OsString,
    },
}

const POLICY_HELP: &str = "\
Policy of a bucket, for --set KEY=VALUE:
  chunking       content:BYTES (65536 to 1048576) or fixed:BYTES (4096 to 1048576), powers of two
  compression    none, lz4 or zstd
  versioning     off, on or suspended
  versions-max   how many old versions are kept, or none (all)
  quota-bytes    the most bytes, or none
  quota-objects  the most objects, or none
  conflicts      keep-both, last-writer-wins or origin-wins
  etag           md5 or opaque
  uid            number of the user who owns files that were not made as such (objects put over S3)
  gid            number of their group
  file-mode      their permission bits, in octal
  directory-mode the same for directories

Example:
  tombolo bucket create NewYork/lab/results --set versioning=on --set compression=zstd";

#[derive(Debug, Subcommand)]
pub(crate) enum BucketVerb {
    /// Make a bucket.
    #[command(after_long_help = POLICY_HELP)]
    Create {
        #[arg(value_name = "CLUSTER/TENANT/BUCKET")]
        bucket: OsString,
        /// Policy that differs from the default.
        #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
        set: Vec<(String, String)>,
    },
    /// List the buckets of a tenant.
    List {
        #[arg(value_name = "CLUSTER/TENANT")]
        tenant: OsString,
    },
    /// Show a bucket's policy and what it holds.
    Show {
        #[arg(value_name = "CLUSTER/TENANT/BUCKET")]
        bucket: OsString,
    },
    /// Change a bucket's policy.
    #[command(after_long_help = POLICY_HELP)]
    Set {
        #[arg(value_name = "CLUSTER/TENANT/BUCKET")]
        bucket: OsString,
        /// What to change.
        #[arg(value_name = "KEY=VALUE", value_parser = parse_setting, required_unless_present = "set")]
        values: Vec<(String, String)>,
        /// The same, as in create.
        #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
        set: Vec<(String, String)>,
    },
    /// Delete an empty bucket.
    Delete {
        #[arg(value_name = "CLUSTER/TENANT/BUCKET")]
        bucket: OsString,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserVerb {
    /// Make a user and print its keys; the secret is not shown again.
    #[command(after_long_help = "Example:\n  tombolo user create NewYork/lab alice")]
    Create {
        #[arg(value_name = "CLUSTER/TENANT")]
        tenant: OsString,
        name: String,
        /// Use this access key instead of a generated one.
        #[arg(long, value_name = "KEY", requires = "secret_key")]
        access_key: Option<String>,
        /// Use this secret. Other processes see arguments; the environment variable is safer.
        #[arg(long, value_name = "SECRET", env = "TOMBOLO_SECRET_KEY", hide_env_values = true)]
        secret_key: Option<String>,
    },
    /// List the users of a tenant, without secrets.
    List {
        #[arg(value_name = "CLUSTER/TENANT")]
        tenant: OsString,
    },
    /// Delete a user; its keys stop working at once.
    Delete {
        #[arg(value_name = "CLUSTER/TENANT")]
        tenant: OsString,
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// The file, or - for standard input.
    pub(crate) file: PathBuf,
    /// The object; a bucket or a path that ends in / takes the file's name.
    pub(crate) path: OsString,
    /// A header to keep, such as content-type or cache-control.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    pub(crate) header: Vec<(String, String)>,
    /// User metadata.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    pub(crate) metadata: Vec<(String, String)>,
    /// A tag.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub(crate) tag: Vec<(String, String)>,
    /// Refuse if the object exists.
    #[arg(long)]
    pub(crate) if_absent: bool,
    /// Print a token: with it a reader at another segment waits for this object (get, ls and stat --after).
    #[arg(long)]
    pub(crate) token: bool,
}

/// Which state of an object.
#[derive(Debug, Args)]
pub(crate) struct ViewArgs {
    /// This version of the object.
    #[arg(long, value_name = "ID", conflicts_with = "snapshot")]
    pub(crate) version: Option<String>,
    /// The object as this snapshot of the bucket saw it.
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshot: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The object.
    pub(crate) path: OsString,
    /// The file, a directory, or - for standard output.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) view: ViewArgs,
    #[command(flatten)]
    pub(crate) after: AfterArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StatArgs {
    /// The object, file or directory; or a cluster, tenant or bucket.
    pub(crate) path: OsString,
    #[command(flatten)]
    pub(crate) view: ViewArgs,
    #[command(flatten)]
    pub(crate) after: AfterArgs,
}

#[derive(Debug, Args)]
pub(crate) struct VersionsArgs {
    /// An object; or a bucket or a path that ends in /, for everything below.
    pub(crate) path: OsString,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The directory to read.
    #[arg(value_name = "DIRECTORY")]
    pub(crate) from: PathBuf,
    /// Where to: a bucket, or a directory in one.
    pub(crate) path: OsString,
    /// Compare what is there by content instead of size and time.
    #[arg(long)]
    pub(crate) checksum: bool,
    /// Don't cross into other file systems.
    #[arg(short = 'x', long)]
    pub(crate) one_file_system: bool,
    /// Files under way at once.
    #[arg(long, value_name = "COUNT", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// A bucket, or a directory in one.
    pub(crate) path: OsString,
    /// The directory to write; made if absent.
    #[arg(value_name = "DIRECTORY")]
    pub(crate) to: PathBuf,
    /// Compare what is there by content instead of size and time.
    #[arg(long)]
    pub(crate) checksum: bool,
    /// As this snapshot of the bucket saw it.
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshot: Option<String>,
    /// Files under way at once.
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotVerb {
    /// Keep the present state of a bucket under a name.
    #[command(after_long_help = "Example:\n  tombolo snapshot create NewYork/lab/results before-cleanup")]
    Create {
        #[arg(value_name = "CLUSTER/TENANT/BUCKET")]
        bucket: OsString,
        name: String,
    },
    /// List the snapshots of a bucket.
    List {
        #[arg(value_name = "CLUSTER/TENANT/BUCKET")]
        bucket: OsString,
    },
    /// Delete a snapshot; what only it held becomes garbage.
    Delete {
        #[arg(value_name = "CLUSTER/TENANT/BUCKET")]
        bucket: OsString,
        name: String,
    },
    /// Make a new, writable bucket of a bucket or of a part of it.
    #[command(after_long_help = "\
Examples:
  tombolo snapshot clone NewYork/lab/results NewYork/lab/try-out
  tombolo snapshot clone NewYork/lab/results/2026/ NewYork/lab/restored --snapshot before-cleanup")]
    Clone {
        /// A bucket, or a directory in one.
        path: OsString,
        /// The bucket to make.
        #[arg(value_name = "CLUSTER/TENANT/BUCKET")]
        target: OsString,
        /// As this snapshot saw it; without it, as it is now.
        #[arg(long, value_name = "NAME")]
        snapshot: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// What each bucket holds too.
    #[arg(long)]
    pub(crate) buckets: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Move at most this much per second, while the disk is not full; 0: as fast as it goes.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_size)]
    pub(crate) rate: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ScrubArgs {
    /// Read at most this much per second; 0: as fast as it goes.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_size)]
    pub(crate) rate: u64,
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err(format!("'{text}' is not KEY=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn policy_help_names_every_key() {
        let mut policy = tombolo_core::BucketPolicy::default();
        for line in POLICY_HELP.lines().filter(|line| line.starts_with("  ") && !line.contains("tombolo")) {
            let key = line.split_whitespace().next().unwrap();
            let refused = policy.set(key, "no such value").unwrap_err().to_string();
            assert!(!refused.contains("no bucket policy"), "{key}: {refused}");
        }
        let unknown = policy.set("no-such-key", "").unwrap_err().to_string();
        let (_, keys) = unknown.split_once("there are ").unwrap();
        for key in keys.split(", ") {
            assert!(POLICY_HELP.contains(&format!("\n  {key} ")), "{key}");
        }
    }

    /// All verbs that do something, as they are typed.
    fn verbs(command: &clap::Command, path: &str) -> Vec<String> {
        let below: Vec<_> = command.get_subcommands().filter(|verb| verb.get_name() != "help").collect();
        if below.is_empty() {
            return vec![path.trim_start().to_owned()];
        }
        below.iter().flat_map(|verb| verbs(verb, &format!("{path} {}", verb.get_name()))).collect()
    }

    #[test]
    fn the_contract_parses() {
        let lines = [
            "init --dir d --segment newyork --cluster NewYork",
            "serve --dir d --s3 127.0.0.1:0 --admin 127.0.0.1:0",
            "serve --admin",
            "tenant list SanFrancisco",
            "bucket create a/b/c --set versioning=on --set etag=opaque",
            "bucket set a/b/c versioning=on",
            "bucket set a/b/c --set versioning=on",
            "user create C/t u --access-key K --secret-key S",
            "put - C/t/b/k",
            "get C/t/b/k - --version null",
            "ls",
            "ls -l -r C/t/b",
            "rm -r C/t/b/k",
            "versions C/t/b/k --json",
            "import d C/t/b",
            "export C/t/b d",
            "snapshot clone C/t/b C/t/c --snapshot s",
            "completions zsh",
            "serve --link 127.0.0.1:0 --link [::1]:0",
            "link invite",
            "link invite --address a.example:7000 --address [::1]:7000 --scope A --scope B/c/d --mode metadata --direction send --valid-for 2d",
            "link invite --scope A B/c /",
            "link accept tombolo1-abc --mode full --direction receive --scope A,B",
            "link accept - --mode gather",
            "link invite --mode gather",
            "link invites",
            "link cancel 0011",
            "link list --json",
            "link show newyork",
            "link set newyork mode=full rate=none",
            "link pause newyork",
            "link resume newyork",
            "link delete newyork",
            "link set newyork passes=initial",
            "link set newyork mode=gather gather-delay=12h gather-receipts=2 gather-names=on",
            "link set newyork visible=whole whole-patience=10m",
            "link invite --visible whole",
            "link accept tombolo1-abc --visible early",
            "link rotate-key",
            "link rotate-key --now --timeout 0",
            "sync status",
            "sync status A/b/c --json",
            "sync wait",
            "sync wait A --timeout 60s",
            "sync verify",
            "sync verify A --timeout 5s",
            "sync forget newyork",
            "sync pin A/b/c/k",
            "sync unpin A/b/c/k",
            "sync persist A/b/c/",
            "sync recall A/b/c/",
            "ls --all A/b/c",
            "sync conflicts list",
            "sync conflicts list A/b/c/k --json",
            "sync conflicts resolve A/b/c/k --take theirs",
            "put - C/t/b/k --token",
            "ls C/t/b --after AQID --timeout 5s",
            "demo",
            "demo --dir d --port-base 0 --no-mount",
            "cluster create A",
            "cluster list",
            "cluster show A",
            "cluster delete A",
            "tenant create A/b",
            "tenant show A/b",
            "tenant delete A/b",
            "bucket list A/b",
            "bucket show A/b/c",
            "bucket delete A/b/c",
            "user list A/b",
            "user delete A/b u",
            "stat A/b/c/k",
            "cp A/b/c/k A/b/c/l",
            "mv A/b/c/k A/b/c/l",
            "mkdir A/b/c/d",
            "mount A/b/c d",
            "umount d",
            "snapshot create A/b/c s",
            "snapshot list A/b/c",
            "snapshot delete A/b/c s",
            "status",
            "scrub",
            "gc",
        ];
        for line in lines {
            let parsed = Cli::try_parse_from(std::iter::once("tombolo").chain(line.split(' ')));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
        // Whoever adds a verb adds its line.
        let missing: Vec<String> = verbs(&Cli::command(), "")
            .into_iter()
            .filter(|verb| !lines.iter().any(|line| line.starts_with(verb)))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
        for line in [
            "",
            "fly",
            "user create C/t u --access-key K",
            "bucket set a/b/c",
            "bucket set a/b/c x",
            "put -",
            "link accept",
            "link invite --mode some",
            "link invite --direction up",
            "link invite --visible late",
            "link invite --valid-for soon",
            "link set newyork",
            "serve --link here",
            "sync wait --timeout never",
            "sync conflicts resolve A/b/c/k",
            "get C/t/b/k - --timeout 5s",
            "demo --port-base 99999",
        ] {
            assert!(Cli::try_parse_from(std::iter::once("tombolo").chain(line.split(' '))).is_err(), "{line}");
        }
    }
}
