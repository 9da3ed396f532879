//! `mount.tombolo`: under that name the command is what mount(8) calls for lines of fstab with the type `tombolo`.
//!
//! `mount.tombolo SOURCE POINT [-sfnv] [-o OPTIONS]` becomes `tombolo mount --background SOURCE POINT -o OPTIONS`; the data directory is the
//! option `dir=`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

const NAME: &str = "mount.tombolo";

/// The command line, rewritten if mount(8) made it.
pub(crate) fn arguments(line: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let line: Vec<OsString> = line.collect();
    match line.first() {
        Some(own) if Path::new(own).file_name() == Some(OsStr::new(NAME)) => rewritten(line.into_iter().skip(1)),
        _ => line,
    }
}

fn rewritten(line: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut places = Vec::new();
    let mut options = Vec::new();
    let mut dir = None;
    let mut line = line.peekable();
    while let Some(argument) = line.next() {
        match argument.as_bytes() {
            b"-o" => {
                for option in line.next().unwrap_or_default().as_bytes().split(|byte| *byte == b',') {
                    match option.strip_prefix(b"dir=") {
                        Some(value) => dir = Some(OsString::from_vec(value.to_vec())),
                        None => options.push(option.to_vec()),
                    }
                }
            }
            // A type and a namespace, each with a value; the value says nothing new.
            b"-t" | b"-N" => drop(line.next()),
            // Sloppy, fake, no mtab, verbose.
            [b'-', ..] => {}
            _ => places.push(argument),
        }
    }
    let mut command: Vec<OsString> = vec!["tombolo".into(), "mount".into(), "--background".into()];
    if let Some(dir) = dir {
        command.extend(["--dir".into(), dir]);
    }
    if !options.is_empty() {
        command.extend(["-o".into(), OsString::from_vec(options.join(&b','))]);
    }
    command.push("--".into());
    command.extend(places);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(line: &[&str]) -> Vec<String> {
        let line = arguments(line.iter().map(OsString::from));
        line.into_iter().map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn mount_8_is_understood() {
        let line = [
            "/sbin/mount.tombolo",
            "NewYork/lab/results",
            "/mnt",
            "-n",
            "-o",
            "rw,dir=/srv/t,noatime",
            "-t",
            "tombolo",
        ];
        let expected = "tombolo mount --background --dir /srv/t -o rw,noatime -- NewYork/lab/results /mnt";
        assert_eq!(rewritten(&line).join(" "), expected);
    }

    #[test]
    fn other_names_change_nothing() {
        assert_eq!(rewritten(&["/usr/bin/tombolo", "ls", "-o"]), ["/usr/bin/tombolo", "ls", "-o"]);
    }
}
