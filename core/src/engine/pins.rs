//! Pinning and persisting: what is to be here, and stay, where data comes only when it is read.

use super::bucket::Bucket;
use super::transact;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::namespace::{self, Pin, Stay};
use crate::object::{ListItem, ListOptions};
use crate::path::KEY_BYTES_MAX;
use bytes::Bytes;

/// Keys that one commit of a pass looks at.
const PASS_KEYS: usize = 1000;

impl Bucket {
    /// Has all data below `path` brought here, now and as it changes, and stay: the object of that key, and all that is below it as if it were a directory;
    /// with a `/` at the end what is in the directory; empty: all of the bucket. What may not be here is listed by [`Bucket::wanted`] when this returns.
    /// What is below `path` need not exist (yet); names that are away ([`Bucket::recall`]) come back. A matter of this segment alone.
    pub async fn pin(&self, path: impl AsRef<[u8]>) -> Result<()> {
        let path = checked_path(path)?;
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            namespace::pin(&mut txn, self.state().number, &path).await?
        })?;
        // From now on nothing below it is put away.
        self.bring_back(&path, None).await?;
        self.list_pins().await
    }

    /// Takes the pin of just this path back: what no other pin covers may be given up again. [`ErrorKind::NotFound`] if it is not pinned.
    pub async fn unpin(&self, path: impl AsRef<[u8]>) -> Result<()> {
        let path = checked_path(path)?;
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            namespace::unpin(&mut txn, self.state().number, &path).await?
        })?;
        Ok(())
    }

    /// Has the data that shows below `path` now brought here, to stay as long as anything refers to it; what is written there later is not meant. Paths are
    /// those of [`Bucket::pin`]. Returns how many versions are now listed by [`Bucket::wanted`]; [`ErrorKind::NotFound`] if nothing shows there.
    pub async fn persist(&self, path: impl AsRef<[u8]>) -> Result<u64> {
        let path = checked_path(path)?;
        self.recall(&path).await?;
        let (met, listed) = self.list_below(&path, Stay::ForGood).await?;
        if met == 0 && !path.is_empty() {
            let name = String::from_utf8_lossy(&path);
            return Err(Error::not_found(Subject::Key, format!("there is nothing at '{name}' in {}", self.path())));
        }
        Ok(listed)
    }

    /// What is pinned.
    pub async fn pins(&self) -> Result<Vec<Pin>> {
        self.alive()?;
        namespace::pins(&self.segment().store().snapshot().await?, self.state().number).await
    }

    /// Lists what may be missing below pins that are not [`Pin::is_listed`]: what came there with a directory, or was not listed when the process ended.
    pub async fn list_pins(&self) -> Result<()> {
        // Of two passes side by side the one that ends first would vouch for the other.
        let _turn = self.state().pass().await;
        let number = self.state().number;
        for Pin { path, .. } in self.pins().await?.into_iter().filter(|pin| !pin.is_listed()) {
            let (is_there, _) =
                transact!(self.segment(), txn, { namespace::note_pass(&mut txn, number, &path, false).await? })?;
            if is_there {
                self.list_below(&path, Stay::AsLongAsPinned).await?;
                transact!(self.segment(), txn, { namespace::note_pass(&mut txn, number, &path, true).await? })?;
            }
        }
        Ok(())
    }

    /// Lists what shows below a path; how many keys there are, and how many have something to bring.
    async fn list_below(&self, path: &Bytes, stay: Stay) -> Result<(u64, u64)> {
        let mut prefix = path.clone();
        let (mut met, mut listed) = (0, 0);
        if !path.is_empty() && !path.ends_with(b"/") {
            prefix = [path.as_ref(), b"/"].concat().into();
            let here = self.head(path, Default::default()).await;
            match here {
                Ok(_) => {
                    met += 1;
                    listed += self.list_page_of(std::slice::from_ref(path), stay).await?;
                }
                Err(error) if error.kind() == ErrorKind::NotFound && error.subject() == Subject::Key => {}
                Err(error) => return Err(error),
            }
        }
        let mut after = None;
        loop {
            let options = ListOptions { prefix: prefix.clone(), after, limit: PASS_KEYS, ..ListOptions::default() };
            let page = self.list(options).await?;
            let key = |item: ListItem| match item {
                ListItem::Object(object) => Some(object.key),
                ListItem::Prefix(_) => None,
            };
            let keys: Vec<Bytes> = page.items.into_iter().filter_map(key).collect();
            met += keys.len() as u64;
            listed += self.list_page_of(&keys, stay).await?;
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok((met, listed)),
            }
        }
    }

    async fn list_page_of(&self, keys: &[Bytes], stay: Stay) -> Result<u64> {
        let (listed, _) = transact!(self.segment(), txn, {
            namespace::list_keys(&mut txn, self.segment().ledger(), self.state(), keys, stay).await?
        })?;
        Ok(listed as u64)
    }
}

pub(super) fn checked_path(path: impl AsRef<[u8]>) -> Result<Bytes> {
    let path = path.as_ref();
    if path.len() > KEY_BYTES_MAX {
        return Err(Error::invalid(format!("a path of {} bytes; keys have at most {KEY_BYTES_MAX}", path.len())));
    }
    Ok(Bytes::copy_from_slice(path))
}
