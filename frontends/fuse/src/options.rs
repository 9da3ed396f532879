//! Mount options, as `-o` and fstab give them.

use std::time::Duration;
use tombolo_core::{Error, Result};

/// How long the kernel may keep what it was told, when nothing says that it changed.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The most of that for a name that is not there: nothing is kept of those, so where a change was missed nothing else bounds them.
const ABSENCE_TIMEOUT: Duration = Duration::from_secs(5);

/// How to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// Nothing can be changed.
    pub read_only: bool,
    /// Users other than the one who mounts may enter (root's mounts: everybody, always).
    pub allow_other: bool,
    /// What `/proc/mounts` shows as the source. Default: `tombolo`.
    pub fs_name: String,
    /// The part of the type behind `fuse.`; none: the type is `fuse`.
    pub subtype: Option<String>,
    /// How long names are kept (that there is none, 5 seconds at most). Changes through other doors are told to the kernel at once; this bounds what slips through.
    pub entry_timeout: Duration,
    /// How long attributes are kept.
    pub attribute_timeout: Duration,
    /// Written pages stay in the kernel until it chooses to hand them over, or fsync or close.
    pub writeback: bool,
    /// Threads that read requests.
    pub threads: usize,
    /// Flags for the kernel: `nosuid`, `nodev`, `noexec`, `noatime`, …
    pub flags: Vec<String>,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            read_only: false,
            allow_other: false,
            fs_name: "tombolo".into(),
            subtype: None,
            entry_timeout: TIMEOUT,
            attribute_timeout: TIMEOUT,
            writeback: true,
            threads: 2,
            flags: Vec::new(),
        }
    }
}

/// What mount(8) and fstab say to programs other than us.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "rw",
    "default_permissions",
];
/// What the kernel takes.
const FLAGS: &[&str] = &[
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "atime",
    "noatime",
    "relatime",
    "nodiratime",
    "sync",
    "async",
    "dirsync",
];

impl MountOptions {
    /// Whether the kernel writes back: then it owns sizes and times of files it has in hand, and keeps them whatever it is told.
    pub(crate) fn writes_back(&self) -> bool {
        self.writeback && !self.read_only
    }

    /// How long the kernel keeps that a name is not there.
    pub(crate) fn absence_timeout(&self) -> Duration {
        self.entry_timeout.min(ABSENCE_TIMEOUT)
    }

    /// Takes a comma-separated list over what is set already, as `mount -o` has it.
    ///
    /// # Errors
    /// `Invalid`, naming the option that is not known or whose value can't be read.
    pub fn set(&mut self, list: &str) -> Result<()> {
        for option in list.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            match (name, value) {
                ("ro", None) => self.read_only = true,
                ("rw", None) => self.read_only = false,
                ("allow_other", None) => self.allow_other = true,
                ("fsname", Some(value)) => self.fs_name = value.to_owned(),
                ("subtype", Some("")) => self.subtype = None,
                ("subtype", Some(value)) => self.subtype = Some(value.to_owned()),
                ("entry_timeout", Some(value)) => self.entry_timeout = seconds(name, value)?,
                ("attr_timeout", Some(value)) => self.attribute_timeout = seconds(name, value)?,
                ("writeback", None) => self.writeback = true,
                ("nowriteback", None) => self.writeback = false,
                ("threads", Some(value)) => {
                    let count = value.parse().ok().filter(|count| (1..=64).contains(count));
                    self.threads = count.ok_or_else(|| bad(name, value, "a number from 1 to 64"))?;
                }
                (flag, None) if FLAGS.contains(&flag) => self.flags.push(flag.to_owned()),
                (ignored, None) if IGNORED.contains(&ignored) => {}
                (comment, _) if comment.starts_with("x-") || comment == "comment" => {}
                _ => return Err(Error::invalid(format!("the mount option '{option}' is not known"))),
            }
        }
        Ok(())
    }
}

fn bad(name: &str, value: &str, wanted: &str) -> Error {
    Error::invalid(format!("the mount option '{name}' takes {wanted}, not '{value}'"))
}

fn seconds(name: &str, value: &str) -> Result<Duration> {
    let seconds = value.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| bad(name, value, "a number of seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_fstab_is_understood() {
        let mut options = MountOptions::default();
        options
            .set("ro,noauto,_netdev,x-systemd.automount,nosuid,fsname=lab,entry_timeout=0.5,attr_timeout=0")
            .unwrap();
        options.set("rw,allow_other,threads=3").unwrap();
        assert!(!options.read_only && options.allow_other);
        assert_eq!((options.fs_name.as_str(), options.threads), ("lab", 3));
        assert_eq!((options.entry_timeout, options.attribute_timeout), (Duration::from_millis(500), Duration::ZERO));
        assert_eq!(options.flags, ["nosuid"]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for bad in ["colour=red", "ro=1", "entry_timeout=soon", "attr_timeout=-1", "threads=0", "allow_others"] {
            assert!(MountOptions::default().set(bad).is_err(), "{bad}");
        }
    }
}
