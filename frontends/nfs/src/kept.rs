//! Small files that the door keeps in the data directory.

use std::io::{Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Puts `content` in the place of the file `name`, for its owner alone; on disk when this returns. After a crash there is the old file or the new one.
pub(crate) fn replace(dir: &Path, name: &str, content: &[u8]) -> Result<()> {
    let draft = dir.join(format!("{name}.new"));
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&draft, dir.join(name))?;
    std::fs::File::open(dir)?.sync_all()
}
