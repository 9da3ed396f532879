//! Where the bytes of a shared bucket are: what is here, what is missing, and how chunks come and go as they are stored.
//!
//! Names arrive before bytes. A version whose chunks have not come is shown like any other; reading it asks a [`ChunkSource`], if one is
//! set. Who brings chunks ahead of any reader walks the manifests with [`Object::missing`]: a node of a manifest is a chunk like any other,
//! and what lies below it is known when it is here. All bytes are compared with their hash before they are stored.

use super::contents::{Contents, LocalNodes};
use super::packs::{Packs, Residence};
use super::pool::received;
use super::reader::Object;
use super::segment::Segment;
use super::session::Session;
use crate::chunk::StoredChunk;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ChunkId;
use crate::manifest::{Manifest, NodeStore, Reference, Root, Source};
use crate::namespace::{Content, LENDERS_MAX, Lender, Whereabouts};
use crate::policy::Compression;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

/// Where chunks come from that are not here.
#[async_trait]
pub trait ChunkSource: Send + Sync {
    /// Brings these chunks here, by [`Segment::import_chunks`] or a [`ChunkImport`], and returns when they are. Whoever waits for one of them
    /// goes on as soon as the import that has it returns, so several small imports serve readers better than one.
    /// [`ErrorKind::Offline`] if nobody who has them can be reached. Dropped half way when the source is taken away.
    async fn fetch(&self, chunks: Vec<ChunkId>) -> Result<()>;
}

/// What is missing of a content, as far as was looked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Missing {
    /// Nodes of the manifest first, then chunks; in the order of the content, each once. Chunks that are known to be damaged are among them.
    pub chunks: Vec<ChunkId>,
    /// How far was looked, as an offset in the content: all before it, from where the look began, is here or listed or below a listed node.
    pub until: u64,
}

impl Segment {
    /// Sets where absent and damaged chunks are brought from. `None`: nowhere; fetches under way end with [`ErrorKind::Offline`].
    ///
    /// A source that holds a [`Segment`] keeps it open until it is taken away, which [`Segment::close`] does too.
    pub fn set_chunk_source(&self, source: Option<Arc<dyn ChunkSource>>) {
        self.contents().fetches.set_source(source);
    }

    /// Those of `ids` that are not here or known to be damaged, in order, without repeats.
    pub async fn absent_chunks(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>> {
        self.contents().absent(ids).await
    }

    /// A chunk as it is stored, verified. `None` if it is not here; [`ErrorKind::Damaged`] if it is damaged. Nothing is brought from elsewhere.
    pub async fn export_chunk(&self, id: &ChunkId) -> Result<Option<StoredChunk>> {
        self.contents().read_stored(id).await
    }

    /// An import whose chunks are kept until it goes, even while nothing that is here refers to them.
    pub fn chunk_import(&self) -> ChunkImport {
        self.chunk_import_as(Residence::Kept)
    }

    /// The same for chunks that need not stay as long.
    pub fn chunk_import_as(&self, residence: Residence) -> ChunkImport {
        let session = Session::new(self.contents(), Compression::None);
        ChunkImport { segment: self.clone(), residence, session }
    }

    /// [`ChunkImport::import`] of chunks that something here refers to already: a committed version, or a node of its manifest.
    pub async fn import_chunks(&self, chunks: Vec<StoredChunk>) -> Result<usize> {
        self.chunk_import().import(chunks).await
    }

    /// What a version has to say of those its bytes are taken from: nothing of those whose bytes are all here. `None`: more than it can say, so that its bytes have to be
    /// brought.
    pub(super) async fn lenders(&self, of: &Content, found: Vec<Lender>) -> Result<Option<Vec<Manifest>>> {
        let mut lenders: Vec<Manifest> = Vec::new();
        if !matches!(of, Content::Manifest(manifest) if matches!(manifest.root(), Root::Tree { .. })) {
            // All that it refers to is in its record.
            return Ok(Some(lenders));
        }
        for Lender { contents, whereabouts } in found {
            for content in contents.into_iter().filter(|_| whereabouts != Whereabouts::Here) {
                // Where it is the same content, that says that not all of it is here.
                if !lenders.contains(&content)
                    && (whereabouts == Whereabouts::Elsewhere || !is_kept(self.contents(), &content).await?)
                {
                    lenders.push(content);
                }
            }
        }
        Ok((lenders.len() <= LENDERS_MAX).then_some(lenders))
    }

    /// What is missing of a manifest's content now, by as much of the manifest as is here; see [`Object::missing_chunks`].
    pub async fn missing_chunks(&self, manifest: &Manifest, max: usize) -> Result<Vec<ChunkId>> {
        Ok(self.missing(manifest, 0..manifest.size(), max).await?.chunks)
    }

    /// What is missing of a range of a manifest's content; see [`Object::missing`].
    pub async fn missing(&self, manifest: &Manifest, range: Range<u64>, max: usize) -> Result<Missing> {
        missing(self.contents(), manifest, range, max, Wanted::All).await
    }

    /// The nodes of a manifest that are missing now; see [`Object::missing_nodes`].
    pub async fn missing_nodes(&self, manifest: &Manifest, max: usize) -> Result<Vec<ChunkId>> {
        Ok(missing(self.contents(), manifest, 0..manifest.size(), max, Wanted::Nodes).await?.chunks)
    }
}

/// Chunks that are in memory at a time while a content is adopted.
const ADOPTED_TOGETHER: usize = 16;
/// Chunks that are asked for together while a content is completed.
const COMPLETED_TOGETHER: usize = 64;
/// How often what is missing of a content is brought.
const COMPLETING_TRIES: u32 = 3;

/// Chunks on their way here from another segment. While it is held no collection drops what it imported.
pub struct ChunkImport {
    segment: Segment,
    residence: Residence,
    /// Keeps the marks of what was imported since it began.
    session: Arc<Session>,
}

impl ChunkImport {
    /// What keeps what it imported from going: for a transaction that refers to it.
    pub(super) fn held(&self) -> Arc<dyn std::any::Any + Send + Sync> {
        self.session.clone()
    }

    /// Verifies all of `chunks` and stores those that are not here, or damaged, as they came. When it returns they and their rows are durable.
    /// Returns how many it stored.
    ///
    /// [`ErrorKind::Invalid`] if one is not what its id says: then none of this call is stored. [`ErrorKind::NoSpace`] if the disk is
    /// (nearly) full. Calls may run side by side. While verifying, memory for one decompressed chunk per worker is needed.
    pub async fn import(&self, chunks: Vec<StoredChunk>) -> Result<usize> {
        let contents = self.segment.contents().clone();
        let mut seen = HashSet::with_capacity(chunks.len());
        // Two of one name may differ, and both must be what they say.
        let verify = |chunk: &StoredChunk| {
            let chunk = chunk.clone();
            contents.pool.submit(move || chunk.verify().map(drop))
        };
        let verified: Vec<_> = chunks.iter().map(verify).collect();
        for outcome in verified {
            received(outcome.await)??;
        }
        let chunks: Vec<StoredChunk> = chunks.into_iter().filter(|chunk| seen.insert(chunk.id)).collect();
        let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
        // Of its own: rows of calls side by side are committed by the call they belong to.
        let session = Session::with(&contents, Compression::None, self.residence);
        let store = |chunk: StoredChunk| {
            let session = session.clone();
            contents.pool.submit(move || session.store_as_is(&chunk))
        };
        let stored: Vec<_> = chunks.into_iter().map(store).collect();
        let mut count = 0;
        for outcome in stored {
            count += usize::from(received(outcome.await)??);
        }
        if session.len() > 0 {
            self.segment.commit_rows_below(&session).await?;
        }
        contents.fetches.arrived(&ids);
        if self.residence == Residence::Cached {
            self.segment.trim_cache().await?;
        }
        Ok(count)
    }

    /// Has a content stay for as long as what this import brings: what of it is here and would go earlier is copied. Returns a chunk that is not here, if
    /// there is any.
    pub async fn adopt(&self, manifest: &Manifest) -> Result<Option<ChunkId>> {
        let contents = self.segment.contents();
        let nodes = nodes_of(contents, manifest).await?;
        let mut missing = self.adopt_chunks(&nodes).await?;
        let mut walk = Walk::new(contents, manifest, 0..u64::MAX);
        while let Some(step) = walk.next().await? {
            match step {
                Step::Node(id, _) => missing = missing.or(Some(id)),
                Step::Extents(extents) => {
                    let ids: Vec<ChunkId> = extents.into_iter().filter_map(|(id, _)| id).collect();
                    missing = missing.or(self.adopt_chunks(&ids).await?);
                }
            }
        }
        Ok(missing)
    }

    /// Brings what is missing of a content here, to stay for as long as what this import brings. [`ErrorKind::Offline`] if nobody who has it can be reached.
    pub(crate) async fn complete(&self, manifest: &Manifest) -> Result<()> {
        let mut tries = 0;
        // What was brought for it may be evicted before it is adopted.
        while let Some(missing) = self.adopt(manifest).await? {
            tries += 1;
            if tries > COMPLETING_TRIES {
                return Err(Error::new(ErrorKind::Offline, format!("chunk {missing} was brought and is not here")));
            }
            loop {
                let nodes = self.segment.missing_nodes(manifest, COMPLETED_TOGETHER).await?;
                if nodes.is_empty() {
                    break;
                }
                self.bring(&nodes).await?;
            }
            let mut from = 0;
            while from < manifest.size() {
                let found = self.segment.missing(manifest, from..manifest.size(), COMPLETED_TOGETHER).await?;
                self.bring(&found.chunks).await?;
                if found.until <= from && found.chunks.is_empty() {
                    break;
                }
                from = found.until.max(from);
            }
        }
        Ok(())
    }

    async fn bring(&self, ids: &[ChunkId]) -> Result<()> {
        let contents = self.segment.contents();
        contents.ask(ids).await?;
        for id in ids {
            contents.read_chunk(id, false).await?;
        }
        self.adopt_chunks(ids).await?;
        Ok(())
    }

    async fn adopt_chunks(&self, ids: &[ChunkId]) -> Result<Option<ChunkId>> {
        let contents = self.segment.contents();
        let mut missing = None;
        let mut batch = Vec::new();
        for (at, is_here) in contents.are_here(ids).await?.into_iter().enumerate() {
            let Some(id) = ids.get(at) else { break };
            match contents.locate(id).await?.filter(|_| is_here) {
                Some(location) if Packs::residence(location.pack) >= self.residence => {}
                Some(_) => match contents.read_stored(id).await? {
                    Some(chunk) => batch.push(chunk),
                    None => missing = Some(*id),
                },
                None => missing = Some(*id),
            }
            if batch.len() >= ADOPTED_TOGETHER {
                self.import(std::mem::take(&mut batch)).await?;
            }
        }
        self.import(batch).await?;
        Ok(missing)
    }
}

impl Object {
    /// What is missing of `range` (cut to the size) now, at most `max` chunks: look again from [`Missing::until`] for more, or from the
    /// start when nodes were listed and have come. Costs one look-up for each chunk of the range; brings nothing here.
    pub async fn missing(&self, range: Range<u64>, max: usize) -> Result<Missing> {
        self.look(range, max, Wanted::All).await
    }

    /// The chunks of [`Object::missing`]: empty means that every byte of the range is here.
    pub async fn missing_chunks(&self, range: Range<u64>, max: usize) -> Result<Vec<ChunkId>> {
        Ok(self.missing(range, max).await?.chunks)
    }

    /// The nodes of the manifest that are missing now, at most `max`; empty means that the manifest is here, whole.
    pub async fn missing_nodes(&self, max: usize) -> Result<Vec<ChunkId>> {
        Ok(self.look(0..u64::MAX, max, Wanted::Nodes).await?.chunks)
    }

    async fn look(&self, range: Range<u64>, max: usize, wanted: Wanted) -> Result<Missing> {
        match self.content() {
            Content::Manifest(manifest) => missing(self.contents(), manifest, range, max, wanted).await,
            Content::Inline(bytes) => Ok(Missing { chunks: Vec::new(), until: range.end.min(bytes.len() as u64) }),
        }
    }

    /// How many bytes of the content are here, and of how many. Holes are here. What lies below an absent node counts as not here, though parts of
    /// it may be. Costs one look-up for each chunk.
    pub async fn local_bytes(&self) -> Result<(u64, u64)> {
        let size = self.info().size;
        let manifest = match self.content() {
            // Nothing has ever come from elsewhere.
            Content::Manifest(manifest) if self.contents().was_shared() => manifest,
            Content::Manifest(_) | Content::Inline(_) => return Ok((size, size)),
        };
        let mut walk = Walk::new(self.contents(), manifest, 0..u64::MAX);
        let mut here = 0;
        while let Some(step) = walk.next().await? {
            match step {
                Step::Extents(extents) => {
                    let (holes, chunks): (Vec<_>, Vec<_>) = extents.into_iter().partition(|(id, _)| id.is_none());
                    let ids: Vec<ChunkId> = chunks.iter().filter_map(|(id, _)| *id).collect();
                    let are_here = self.contents().are_here(&ids).await?;
                    here += holes.iter().map(|(_, range)| range.end - range.start).sum::<u64>();
                    let present = chunks.iter().zip(are_here).filter(|(_, is_here)| *is_here);
                    here += present.map(|((_, range), _)| range.end - range.start).sum::<u64>();
                }
                Step::Node(..) => {}
            }
        }
        Ok((here, size))
    }
}

/// What is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Nodes,
    All,
}

/// Whether every byte of a content is here, to stay as long as anything refers to it. Ends with the first that is not.
async fn is_kept(contents: &Arc<Contents>, manifest: &Manifest) -> Result<bool> {
    let mut walk = Walk::new(contents, manifest, 0..u64::MAX);
    while let Some(step) = walk.next().await? {
        let Step::Extents(extents) = step else { return Ok(false) };
        let ids: Vec<ChunkId> = extents.into_iter().filter_map(|(id, _)| id).collect();
        if !are_kept(contents, &ids).await? {
            return Ok(false);
        }
    }
    let nodes = nodes_of(contents, manifest).await?;
    are_kept(contents, &nodes).await
}

async fn are_kept(contents: &Arc<Contents>, ids: &[ChunkId]) -> Result<bool> {
    for (id, is_here) in ids.iter().zip(contents.are_here(ids).await?) {
        let location = contents.locate(id).await?.filter(|_| is_here);
        if location.is_none_or(|location| Packs::residence(location.pack) != Residence::Kept) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The nodes of a manifest, as far as those above them are here.
async fn nodes_of(contents: &Arc<Contents>, manifest: &Manifest) -> Result<Vec<ChunkId>> {
    let mut nodes = Vec::new();
    manifest
        .for_each_reference(&LocalNodes(contents.clone()), &mut |_| false, &mut |reference| {
            if let Reference::Node(id) = reference {
                nodes.push(id);
            }
            Ok(())
        })
        .await?;
    Ok(nodes)
}

async fn missing(
    contents: &Arc<Contents>,
    manifest: &Manifest,
    range: Range<u64>,
    max: usize,
    wanted: Wanted,
) -> Result<Missing> {
    let mut seen = HashSet::new();
    let (mut nodes, mut chunks) = (Vec::new(), Vec::new());
    let mut walk = Walk::new(contents, manifest, range.clone());
    let mut until = range.start;
    while nodes.len() + chunks.len() < max
        && let Some(step) = walk.next().await?
    {
        match step {
            Step::Node(id, part) => {
                until = part.end;
                if seen.insert(id) {
                    nodes.push(id);
                }
            }
            Step::Extents(extents) if wanted == Wanted::All => {
                let ids: Vec<ChunkId> = extents.iter().filter_map(|(id, _)| *id).collect();
                let absent: HashSet<ChunkId> = contents.absent(&ids).await?.into_iter().collect();
                for (id, part) in extents {
                    if nodes.len() + chunks.len() >= max {
                        break;
                    }
                    until = part.end;
                    chunks.extend(id.filter(|id| absent.contains(id) && seen.insert(*id)));
                }
            }
            Step::Extents(extents) => until = extents.last().map_or(until, |(_, part)| part.end),
        }
    }
    if nodes.len() + chunks.len() < max {
        until = range.end.min(manifest.size());
    }
    nodes.append(&mut chunks);
    Ok(Missing { chunks: nodes, until })
}

/// The most extents of a [`Step`].
const STEP_EXTENTS_MAX: usize = 64;

/// Extents of a manifest as far as its nodes are here.
struct Walk {
    contents: Arc<Contents>,
    cursor: crate::manifest::Cursor<HeldNodes>,
}

enum Step {
    /// Extents that follow each other: the chunk (`None`: a hole) and the part of the content.
    Extents(Vec<(Option<ChunkId>, Range<u64>)>),
    /// A node that is not here, and the part of the content that it stands for.
    Node(ChunkId, Range<u64>),
}

impl Walk {
    fn new(contents: &Arc<Contents>, manifest: &Manifest, range: Range<u64>) -> Walk {
        Walk { contents: contents.clone(), cursor: manifest.extents(HeldNodes(contents.clone()), range) }
    }

    async fn next(&mut self) -> Result<Option<Step>> {
        let mut extents = Vec::new();
        while extents.len() < STEP_EXTENTS_MAX {
            match self.cursor.next().await {
                Ok(None) => break,
                Ok(Some((start, extent))) => {
                    let id = match extent.source {
                        Source::Hole => None,
                        Source::Chunk { id, .. } => Some(id),
                    };
                    extents.push((id, start..start + extent.length));
                }
                Err(error) if !matches!(error.kind(), ErrorKind::Offline | ErrorKind::Damaged) => return Err(error),
                // The cursor comes back to the node.
                Err(_) if !extents.is_empty() => break,
                Err(error) => {
                    let Some((node, part)) = self.cursor.skip_node() else { return Err(error) };
                    // A node that is what its id says and makes no sense is not missing.
                    if self.contents.absent(&[node]).await?.is_empty() {
                        return Err(error);
                    }
                    return Ok(Some(Step::Node(node, part)));
                }
            }
        }
        Ok((!extents.is_empty()).then_some(Step::Extents(extents)))
    }
}

/// Reads nodes that have rows, which a collection under way then spares. Without that it might drop, for want of a node that came too late
/// for it, what was just found to be here.
struct HeldNodes(Arc<Contents>);

#[async_trait]
impl NodeStore for HeldNodes {
    async fn read_node(&self, id: &ChunkId) -> Result<Bytes> {
        if !self.0.absent(std::slice::from_ref(id)).await?.is_empty() {
            return Err(Error::new(ErrorKind::Offline, format!("the manifest node {id} is not here")));
        }
        LocalNodes(self.0.clone()).read_node(id).await
    }

    async fn write_node(&self, data: Bytes) -> Result<ChunkId> {
        LocalNodes(self.0.clone()).write_node(data).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Codec;
    use crate::engine::{CreateOptions, OpenOptions};

    /// A collection marks what it can reach when it begins. A node that comes after that brings chunks into reach that were here before, unmarked. Whoever
    /// walks the node and finds them here reports them as here, so the collection must not drop them any more.
    #[tokio::test]
    async fn what_is_found_here_during_a_collection_is_spared_by_it() {
        let dir = tempfile::tempdir().unwrap();
        let create = CreateOptions { name: "here".into(), cluster: "Here".into() };
        let segment = Segment::create(dir.path().join("s"), create, OpenOptions::default()).await.unwrap();
        let payload = Bytes::from_static(b"came before the node that refers to it");
        let id = ChunkId::of(&payload);
        let chunk = StoredChunk { id, codec: Codec::Raw, raw_bytes: 38, payload };
        segment.import_chunks(vec![chunk]).await.unwrap();
        let contents = segment.contents().clone();
        contents.touched.next_era();

        let condemned = |contents: &Arc<Contents>| {
            let dead = contents.condemn(&[id]);
            contents.buried(&dead);
            dead
        };
        assert_eq!(segment.absent_chunks(&[id]).await.unwrap(), []);
        assert_eq!(condemned(&contents), [id], "without a collection nothing is noted");
        let collecting = contents.collecting();
        contents.touched.next_era();
        assert_eq!(condemned(&contents), [id]);
        assert_eq!(segment.absent_chunks(&[id]).await.unwrap(), []);
        assert_eq!(condemned(&contents), []);
        drop(collecting);

        contents.touched.next_era();
        let _collecting = contents.collecting();
        let dead = contents.condemn(&[id]);
        assert_eq!(segment.absent_chunks(&[id]).await.unwrap(), [id], "what is being dropped is not here");
        contents.buried(&dead);
    }
}
