//! What the demo prints: where everything is, and lines to paste.

use super::keys::Keys;
use super::site::Site;
use super::{BUCKET, TENANT};
use serde_json::{Value, json};
use std::path::Path;

/// For programs.
pub(super) fn json(sanfrancisco: &Site, newyork: &Site, keys: &Keys, root: &Path) -> Value {
    let site = |site: &Site| {
        json!({
            "name": site.name,
            "cluster": site.cluster,
            "dir": site.dir.display().to_string(),
            "s3": format!("http://{}", site.s3),
            "nfs": site.nfs.to_string(),
            "link": site.links.addresses().first().map(ToString::to_string),
            "mount": site.mounted.as_ref().ok().map(|point| point.display().to_string()),
            "not_mounted": site.mounted.as_ref().err(),
        })
    };
    json!({
        "dir": root.display().to_string(),
        "pid": std::process::id(),
        "sites": [site(sanfrancisco), site(newyork)],
        "tenant": format!("{}/{TENANT}", sanfrancisco.cluster),
        "access_key": keys.access_key,
        "secret_key": keys.secret_key,
    })
}

/// For people.
pub(super) fn text(sf: &Site, ny: &Site, keys: &Keys, is_temporary: bool) -> String {
    let own = program();
    let end = if is_temporary { "and removes what they hold" } else { "; the same command goes on with them" };
    let mut text = format!("Two sites on this host, linked. Ctrl-C ends both {end}.\n");
    for site in [sf, ny] {
        text.push_str(&format!(
            "\n{:<13} cluster {:<13} S3 http://{}  NFS {}",
            site.name, site.cluster, site.s3, site.nfs
        ));
        match &site.mounted {
            Ok(point) => text.push_str(&format!("  mounted on {}", point.display())),
            Err(reason) => text.push_str(&format!("\n{:<13} not mounted: {reason}", "")),
        }
    }
    text.push_str(&format!(
        "\n\n# In another shell. Keys for S3, the same at both sites, and a name for the command at each.\n\
         export AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={} AWS_DEFAULT_REGION=us-east-1\n\
         sf() {{ {own} --dir {} \"$@\"; }}\n\
         ny() {{ {own} --dir {} \"$@\"; }}\n",
        keys.access_key,
        keys.secret_key,
        quoted(&sf.dir),
        quoted(&ny.dir),
    ));
    text.push_str(&format!(
        "\n# Write in San Francisco, read in New York.\n\
         echo 'hello from San Francisco' | aws --endpoint-url http://{} s3 cp - s3://{BUCKET}/hello.txt\n\
         aws --endpoint-url http://{} s3 cp s3://{BUCKET}/hello.txt -\n",
        sf.s3, ny.s3,
    ));
    let of_newyork = format!("{}/{TENANT}/{BUCKET}", ny.cluster);
    let port = ny.nfs.port();
    text.push_str(&format!(
        "\n# Write in New York over NFS (as root), read in San Francisco.\n\
         mount -t nfs -o vers=3,tcp,port={port},mountport={port},nolock 127.0.0.1:/{of_newyork} /mnt\n\
         echo 'hello from New York' > /mnt/hello.txt && umount /mnt\n\
         sf get {of_newyork}/hello.txt -\n",
    ));
    if let (Ok(here), Ok(there)) = (&ny.mounted, &sf.mounted) {
        text.push_str(&format!(
            "\n# The same through the mounts.\n\
             echo 'a note from New York' > {}/{of_newyork}/note.txt\n\
             cat {}/{of_newyork}/note.txt\n",
            quoted(here),
            quoted(there),
        ));
    }
    let shared = format!("{}/{TENANT}/{BUCKET}", sf.cluster);
    text.push_str(&format!(
        "\n# Pull the plug, write one name at both sites, and plug it in again: one content keeps the name, the other is beside it.\n\
         ny link pause {}\n\
         echo 'as San Francisco sees it' | sf put - {shared}/plan.txt\n\
         echo 'as New York sees it' | ny put - {shared}/plan.txt\n\
         ny link resume {} && ny sync wait --timeout 60s && sf sync wait --timeout 60s\n\
         sf ls {shared}/ && ny ls {shared}/\n",
        sf.name, sf.name,
    ));
    text.push_str("\n# How far everything has come, at either site.\nny sync status\nny link list");
    text
}

/// How this program was called.
fn program() -> String {
    let name = std::env::args_os().next().unwrap_or_else(|| "tombolo".into());
    let path = Path::new(&name);
    // A name alone is found through PATH; a path is to work from any directory.
    if path.components().count() == 1 {
        quoted(path)
    } else {
        quoted(&path.canonicalize().unwrap_or_else(|_| path.into()))
    }
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word() {
        assert_eq!(quoted(Path::new("/tmp/tombolo-demo-x1/newyork")), "/tmp/tombolo-demo-x1/newyork");
        assert_eq!(quoted(Path::new("/tmp/my demo")), "'/tmp/my demo'");
        assert_eq!(quoted(Path::new("it's")), "'it'\\''s'");
    }
}
