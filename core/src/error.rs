//! One error type for the whole crate; its kind tells the caller what can be done about it.

use std::fmt;

/// Shorthand for a result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, from the caller's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The thing named by [`Error::subject`] does not exist.
    NotFound,
    /// It exists already, and the call asked for a new one.
    Exists,
    /// The caller may not do this.
    Denied,
    /// An argument can never be right: a bad name, a range past the end, an unknown policy key.
    Invalid,
    /// A condition that the caller set (`If-Match` and the like) does not hold. Nothing was changed.
    Precondition,
    /// A container that must be empty is not.
    NotEmpty,
    /// Too many concurrent changes to the same thing; nothing was changed, trying again may work.
    Busy,
    /// Waiting for a lock would never end: its holder waits, perhaps through others, for the caller.
    Deadlock,
    /// The disk is (nearly) full. Reads and deletes go on.
    NoSpace,
    /// A quota of the bucket is used up.
    Quota,
    /// The bytes are not here and no linked segment that has them can be reached.
    Offline,
    /// Stored bytes do not match their hash or cannot be decoded.
    Damaged,
    /// The storage below failed; the writer has stopped and the segment must be opened again.
    Failed,
}

/// What a [`ErrorKind::NotFound`], [`ErrorKind::Exists`] or [`ErrorKind::NotEmpty`] error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Subject {
    /// Not about one named thing.
    Other,
    /// A data directory.
    Segment,
    /// A cluster.
    Cluster,
    /// A tenant.
    Tenant,
    /// A bucket.
    Bucket,
    /// An object, file or directory.
    Key,
    /// One version of an object.
    Version,
    /// A multipart upload.
    Upload,
    /// A part of a multipart upload.
    Part,
    /// A snapshot.
    Snapshot,
    /// A user or access key.
    User,
    /// A chunk.
    Chunk,
    /// A pack file.
    Pack,
    /// A file or directory known by its node ([`ErrorKind::NotFound`]: it is gone).
    Node,
    /// An extended attribute.
    Attribute,
    /// The number of names of a file.
    Link,
    /// A name or path that is too long.
    Length,
    /// Something that must be a directory and is not.
    NotDirectory,
    /// Something that must not be a directory and is one.
    IsDirectory,
    /// What only the owner, or root, may do.
    Owner,
    /// Something that is not offered.
    Support,
    /// The size of a file.
    Size,
    /// A place in a file where there is nothing of the kind looked for.
    Nowhere,
}

/// An error of the engine: a kind to act on, the subject it is about, and a sentence for people.
pub struct Error {
    kind: ErrorKind,
    subject: Subject,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    marker: Option<crate::VersionId>,
}

impl Error {
    /// An error of `kind` about nothing in particular. `message` names the object and, where there is one, the next step.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, subject: Subject::Other, message: message.into(), source: None, marker: None }
    }

    /// Sets what the error is about.
    #[must_use]
    pub fn about(mut self, subject: Subject) -> Error {
        self.subject = subject;
        self
    }

    /// Attaches the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.source = Some(source.into());
        self
    }

    /// What was asked for is a delete marker with this id ([`Subject::Key`]: on top of the key; [`Subject::Version`]: the version named).
    #[must_use]
    pub fn with_marker(mut self, id: crate::VersionId) -> Error {
        self.marker = Some(id);
        self
    }

    /// The delete marker that was met in place of an object.
    pub fn marker(&self) -> Option<crate::VersionId> {
        self.marker
    }

    /// "`subject` does not exist".
    pub fn not_found(subject: Subject, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::NotFound, message).about(subject)
    }

    /// "`subject` exists already".
    pub fn exists(subject: Subject, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Exists, message).about(subject)
    }

    /// An argument that can never be right.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }

    /// Stored bytes that are not what they must be.
    pub fn damaged(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Damaged, message)
    }

    /// An I/O error of the storage below; "no space left" keeps its own kind.
    pub fn io(context: impl Into<String>, source: std::io::Error) -> Error {
        let kind = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            _ => ErrorKind::Failed,
        };
        Error::new(kind, context).because(source)
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What it is about.
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// The POSIX error number of Linux that says the same, for doors whose callers are programs that think in files.
    pub fn errno(&self) -> i32 {
        match (self.kind, self.subject) {
            (ErrorKind::NotFound, Subject::Node) => errno::ESTALE,
            (ErrorKind::NotFound, Subject::Attribute) => errno::ENODATA,
            (ErrorKind::NotFound, _) => errno::ENOENT,
            (ErrorKind::Exists, _) => errno::EEXIST,
            (ErrorKind::Denied, Subject::Owner) => errno::EPERM,
            (ErrorKind::Denied, _) => errno::EACCES,
            (ErrorKind::Invalid, Subject::Length) => errno::ENAMETOOLONG,
            (ErrorKind::Invalid, Subject::NotDirectory) => errno::ENOTDIR,
            (ErrorKind::Invalid, Subject::IsDirectory) => errno::EISDIR,
            (ErrorKind::Invalid, Subject::Size) => errno::EFBIG,
            (ErrorKind::Invalid, Subject::Nowhere) => errno::ENXIO,
            (ErrorKind::Invalid, Subject::Attribute) => errno::ERANGE,
            (ErrorKind::Invalid, Subject::Support) => errno::EOPNOTSUPP,
            (ErrorKind::Invalid | ErrorKind::Precondition, _) => errno::EINVAL,
            (ErrorKind::NotEmpty, _) => errno::ENOTEMPTY,
            (ErrorKind::Busy, _) => errno::EAGAIN,
            (ErrorKind::Deadlock, _) => errno::EDEADLK,
            (ErrorKind::NoSpace, _) => errno::ENOSPC,
            (ErrorKind::Quota, Subject::Link) => errno::EMLINK,
            (ErrorKind::Quota, _) => errno::EDQUOT,
            (ErrorKind::Offline, _) => errno::EHOSTUNREACH,
            (ErrorKind::Damaged | ErrorKind::Failed, _) => errno::EIO,
        }
    }

    /// The sentence for people, without the cause.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            write!(f, ": {inner}")?;
            // Errors of this crate print their own causes.
            cause = if inner.is::<Error>() { None } else { inner.source() };
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({:?}): {self}", self.kind, self.subject)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| s.as_ref() as &(dyn std::error::Error + 'static))
    }
}

/// Error numbers of Linux (`asm-generic/errno-base.h` and `errno.h`); spelled out because doors for other systems translate from them.
mod errno {
    pub(super) const ENOENT: i32 = 2;
    pub(super) const EPERM: i32 = 1;
    pub(super) const EIO: i32 = 5;
    pub(super) const ENXIO: i32 = 6;
    pub(super) const EAGAIN: i32 = 11;
    pub(super) const EACCES: i32 = 13;
    pub(super) const EEXIST: i32 = 17;
    pub(super) const ENOTDIR: i32 = 20;
    pub(super) const EISDIR: i32 = 21;
    pub(super) const EINVAL: i32 = 22;
    pub(super) const EFBIG: i32 = 27;
    pub(super) const ENOSPC: i32 = 28;
    pub(super) const EMLINK: i32 = 31;
    pub(super) const ERANGE: i32 = 34;
    pub(super) const EDEADLK: i32 = 35;
    pub(super) const ENAMETOOLONG: i32 = 36;
    pub(super) const ENOTEMPTY: i32 = 39;
    pub(super) const ENODATA: i32 = 61;
    pub(super) const EOPNOTSUPP: i32 = 95;
    pub(super) const EHOSTUNREACH: i32 = 113;
    pub(super) const ESTALE: i32 = 116;
    pub(super) const EDQUOT: i32 = 122;
}
