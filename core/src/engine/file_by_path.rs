//! File handles for programs that think in paths.

use super::Bucket;
use super::bucket::checked;
use super::fs::{Caller, FileSystem, OpenFile, OpenFlags};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::object::{Attributes, Condition, EtagMatch, FileType, PutOptions};
use bytes::Bytes;

/// How to open a file by its path; like [`std::fs::OpenOptions`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Make it if it is not there, directories on the way included.
    pub create: bool,
    /// It must not be there yet ([`ErrorKind::Exists`]), and is made.
    pub create_new: bool,
    /// Cut it to nothing.
    pub truncate: bool,
    /// Attributes of a file that is made.
    pub attributes: Attributes,
}

impl FileOptions {
    /// For reading a file that exists.
    pub fn read() -> FileOptions {
        FileOptions { read: true, ..FileOptions::default() }
    }

    /// For reading and writing a file that is made if it does not exist.
    pub fn create() -> FileOptions {
        FileOptions { read: true, write: true, create: true, ..FileOptions::default() }
    }
}

impl Bucket {
    /// Opens the file at `path`, as its owner could. Symbolic links are not followed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tombolo_core::Result<()> {
    /// # use tombolo_core::{BucketPath, BucketPolicy, CreateOptions, OpenOptions, Segment};
    /// use tombolo_core::{FileOptions, GetOptions};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let create = CreateOptions { name: "newyork".into(), cluster: "NewYork".into() };
    /// # let segment = Segment::create(dir.path().join("segment"), create, OpenOptions::default()).await?;
    /// # let path: BucketPath = "NewYork/lab/results".parse()?;
    /// # segment.catalog().create_tenant(&path.tenant).await?;
    /// # let bucket = segment.catalog().create_bucket(&path, BucketPolicy::default()).await?;
    /// let file = bucket.open_file("run-1/log", FileOptions::create()).await?;
    /// file.write_at(0, "it works".into()).await?;
    /// file.write_at(7, "ed".into()).await?;
    /// file.fsync().await?;
    /// assert_eq!(file.read_at(3, 100).await?, "worked");
    /// file.close().await?;
    ///
    /// let object = bucket.get("run-1/log", GetOptions::default()).await?;
    /// assert_eq!(object.bytes(0..100).await?, "it worked");
    /// # segment.close().await
    /// # }
    /// ```
    pub async fn open_file(&self, path: impl AsRef<[u8]>, options: FileOptions) -> Result<OpenFile> {
        let path = checked(path)?;
        if path.last() == Some(&b'/') {
            return Err(Error::invalid("a path that ends with a slash names a directory"));
        }
        if !options.write && (!options.read || options.truncate) {
            return Err(Error::invalid("a file is opened for reading or for writing, and truncated for writing only"));
        }
        let is_created = options.create_new || options.create && !self.is_there(&path).await?;
        let node = if is_created {
            let condition = Condition { if_none_match: Some(EtagMatch::Any), ..Condition::default() };
            let put = PutOptions { attributes: Some(options.attributes.clone()), condition, ..PutOptions::default() };
            match self.put(&path, Bytes::new(), put).await {
                Ok(info) => info.node,
                Err(error) if error.kind() == ErrorKind::Precondition && options.create_new => {
                    let text = format!("'{}' exists", String::from_utf8_lossy(&path));
                    return Err(Error::exists(Subject::Key, text));
                }
                // Somebody else was faster.
                Err(error) if error.kind() == ErrorKind::Precondition => {
                    // Or it is away.
                    self.recall(&path).await?;
                    self.stat(&path).await?.node
                }
                Err(error) => return Err(error),
            }
        } else {
            let info = self.stat(&path).await?;
            if info.file_type != FileType::Regular {
                let text = format!("'{}' is not a regular file", String::from_utf8_lossy(&path));
                return Err(Error::invalid(text));
            }
            info.node
        };
        let flags = OpenFlags {
            read: options.read,
            write: options.write,
            truncate: options.truncate && !is_created,
            is_granted: true,
        };
        FileSystem::new(self.clone()).open(&Caller::root(), &node, flags).await
    }

    async fn is_there(&self, path: &Bytes) -> Result<bool> {
        match self.stat(path).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
