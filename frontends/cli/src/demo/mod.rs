//! `demo`: two linked segments in one process, and what to type to see that they are.
//!
//! Everything is made the way a user would make it: two daemons, an invite, its acceptance over loopback, a bucket of each site's own. Nothing in them
//! knows that it is a demonstration, so what is printed works as well from any other shell, and with `--dir` the two segments can be served one by
//! one later.

mod keys;
mod site;
mod text;

use crate::arguments::DemoArgs;
use crate::failure::Outcome;
use crate::output::Output;
use crate::serve::{Signals, end_at_once};
use keys::Keys;
use site::Site;
use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tombolo_core::{Error, Result, Segment, SegmentId, TenantPath};
use tombolo_link::{AcceptOptions, Direction, InviteOptions, Mode, Scope, Visible};

const TENANT: &str = "lab";
const BUCKET: &str = "data";
/// How long the code that joins the two may wait. It is used at once.
const CODE_VALID_FOR: Duration = Duration::from_secs(600);
/// How long each may take to have what the other has, which is little.
const LINK_TIMEOUT: Duration = Duration::from_secs(60);

/// The two sites, serving.
struct Demo {
    sanfrancisco: Site,
    newyork: Site,
}

pub(crate) async fn demo(output: &mut Output, dir: Option<&Path>, args: DemoArgs) -> Outcome {
    let mut signals = Signals::new()?;
    let root = Root::open(dir)?;
    let outcome = run(output, &root, &args, &mut signals).await;
    let removed = root.close();
    outcome?;
    Ok(removed?)
}

async fn run(output: &mut Output, root: &Root, args: &DemoArgs, signals: &mut Signals) -> Outcome {
    let sanfrancisco = Site::open(&root.path, "sanfrancisco", "SanFrancisco", 0, args).await?;
    let newyork = match Site::open(&root.path, "newyork", "NewYork", 1, args).await {
        Ok(newyork) => newyork,
        Err(error) => {
            sanfrancisco.stop().await?;
            return Err(error.into());
        }
    };
    let mut demo = Demo { sanfrancisco, newyork };
    // Whatever comes of it, what is mounted is unmounted and both segments are closed.
    let outcome = demo.show(output, root, args, signals).await;
    let stopped = async { tokio::join!(demo.sanfrancisco.stop(), demo.newyork.stop()) };
    let (sanfrancisco, newyork) = tokio::select! {
        stopped = stopped => stopped,
        () = signals.next() => end_at_once(),
    };
    outcome?;
    sanfrancisco?;
    Ok(newyork?)
}

impl Demo {
    /// Sets everything up, says where it is, and returns when there is a reason to end.
    async fn show(&mut self, output: &mut Output, root: &Root, args: &DemoArgs, signals: &mut Signals) -> Outcome {
        let keys = tokio::select! {
            keys = self.set_up(&root.path, args) => keys?,
            () = signals.next() => return Ok(()),
        };
        let (sanfrancisco, newyork) = (&self.sanfrancisco, &self.newyork);
        let json = text::json(sanfrancisco, newyork, &keys, &root.path);
        output.answer(json, &text::text(sanfrancisco, newyork, &keys, root.is_temporary()))?;
        output.flush()?;
        let ended = tokio::select! {
            () = signals.next() => Ok(()),
            ended = self.sanfrancisco.running.ended() => ended,
            ended = self.newyork.running.ended() => ended,
        };
        Ok(ended?)
    }

    async fn set_up(&mut self, root: &Path, args: &DemoArgs) -> Result<Keys> {
        for site in [&mut self.sanfrancisco, &mut self.newyork] {
            site.ensure_bucket().await?;
            if !args.no_mount {
                site.mount(root).await;
            }
        }
        ensure_link(&self.sanfrancisco, &self.newyork).await?;
        let tenant = self.sanfrancisco.tenant()?;
        keys::ensure(root, &tenant, &self.sanfrancisco.segment, &self.newyork.segment).await
    }
}

/// Links the two if they are not, and sees to it that New York dials where San Francisco listens this time.
async fn ensure_link(sanfrancisco: &Site, newyork: &Site) -> Result<()> {
    let addresses: Vec<_> = sanfrancisco.links.addresses().iter().map(ToString::to_string).collect();
    let known = |site: &Site, peer: SegmentId| site.links.links().list().into_iter().any(|link| link.peer == peer);
    let at_sanfrancisco = known(sanfrancisco, newyork.segment.id());
    let at_newyork = known(newyork, sanfrancisco.segment.id());
    if at_sanfrancisco && at_newyork {
        let name = sanfrancisco.segment.id().to_string();
        let link = newyork.links.set(&name, move |link| link.addresses = addresses).await?;
        if link.paused {
            // As the user left it.
            return Ok(());
        }
    } else {
        // A start that was cut off while it linked them left one half.
        if at_sanfrancisco {
            sanfrancisco.links.delete(&newyork.segment.id().to_string()).await?;
        }
        if at_newyork {
            newyork.links.delete(&sanfrancisco.segment.id().to_string()).await?;
        }
        let code = sanfrancisco
            .links
            .invite(InviteOptions {
                addresses,
                scope: Scope::everything(),
                mode: Mode::Full,
                visible: Visible::Early,
                direction: Direction::Both,
                valid_for: CODE_VALID_FOR,
            })
            .await?;
        newyork.links.accept(code, AcceptOptions::default()).await?;
    }
    for site in [newyork, sanfrancisco] {
        site.links.wait(&Scope::everything(), Some(LINK_TIMEOUT)).await?;
    }
    Ok(())
}

/// The directory that the two data directories are in.
struct Root {
    path: PathBuf,
    temporary: Option<TempDir>,
}

impl Root {
    /// `dir`, made if it is not there, or a temporary directory.
    fn open(dir: Option<&Path>) -> Result<Root> {
        let Some(dir) = dir else {
            let made = tempfile::Builder::new().prefix("tombolo-demo-").permissions(private()).tempdir();
            let temporary = made.map_err(|e| Error::io("a temporary directory cannot be made", e))?;
            return Ok(Root { path: temporary.path().to_path_buf(), temporary: Some(temporary) });
        };
        if Segment::exists(dir) {
            return Err(Error::invalid(format!(
                "{} is the data directory of a segment; give the demo a directory of its own: --dir DIR",
                dir.display()
            )));
        }
        let failed = |e| Error::io(format!("the directory {} cannot be used", dir.display()), e);
        DirBuilder::new().recursive(true).mode(private().mode()).create(dir).map_err(failed)?;
        // What is printed is to work from any directory.
        Ok(Root { path: dir.canonicalize().map_err(failed)?, temporary: None })
    }

    fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// Removes a temporary directory.
    fn close(self) -> Result<()> {
        let Some(temporary) = self.temporary else { return Ok(()) };
        temporary
            .close()
            .map_err(|e| Error::io(format!("the temporary directory {} cannot be removed", self.path.display()), e))
    }
}

/// The directory has the mounts in it, too, and everybody on this host could look into those.
fn private() -> Permissions {
    Permissions::from_mode(0o700)
}

fn tenant(cluster: &str) -> Result<TenantPath> {
    TenantPath::new(cluster, TENANT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_directory_is_private_and_goes() {
        let root = Root::open(None).unwrap();
        let path = root.path.clone();
        assert!(root.is_temporary());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0);
        root.close().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_given_directory_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(Some(&dir.path().join("new"))).unwrap();
        assert!(!root.is_temporary() && root.path.is_absolute());
        root.close().unwrap();
        assert!(dir.path().join("new").is_dir());
    }
}
