//! Small files beside the stores: identities and keys.

use crate::error::{Error, Result};
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes a small file that is whole or not there, whenever the power fails; nobody but its owner may read it.
pub(crate) fn write_durably(dir: &Path, name: &str, content: &[u8]) -> Result<()> {
    let (new, path) = (dir.join(format!("{name}.new")), dir.join(name));
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        fs::File::open(dir)?.sync_all()
    };
    write().map_err(|e| Error::io(format!("{} can't be written", path.display()), e))
}
