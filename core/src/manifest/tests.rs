//! Manifests against contents in memory, and the cost of changes in nodes.

use super::*;
use parking_lot::Mutex;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::ops::Range;

/// Nodes in memory, and how many were read and written.
#[derive(Default)]
struct Nodes(Mutex<Counted>);

#[derive(Default)]
struct Counted {
    nodes: HashMap<ChunkId, Bytes>,
    reads: usize,
    writes: usize,
    written_bytes: usize,
}

#[async_trait]
impl NodeStore for Nodes {
    async fn read_node(&self, id: &ChunkId) -> Result<Bytes> {
        let mut state = self.0.lock();
        state.reads += 1;
        state.nodes.get(id).cloned().ok_or_else(|| Error::damaged(format!("no node {id}")))
    }

    async fn write_node(&self, data: Bytes) -> Result<ChunkId> {
        assert!(data.len() <= NODE_BYTES_MAX);
        let id = ChunkId::of(&data);
        let mut state = self.0.lock();
        state.writes += 1;
        state.written_bytes += data.len();
        state.nodes.insert(id, data);
        Ok(id)
    }
}

impl Nodes {
    /// Reads, writes and written bytes since the last call.
    fn cost(&self) -> (usize, usize, usize) {
        let mut state = self.0.lock();
        let cost = (state.reads, state.writes, state.written_bytes);
        (state.reads, state.writes, state.written_bytes) = (0, 0, 0);
        cost
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn id(n: u64) -> ChunkId {
    ChunkId::of(&n.to_le_bytes())
}

/// Byte `at` of the chunk `id`, as these tests define it.
fn byte(id: &ChunkId, at: u64) -> u8 {
    1 + (u64::from(id.0[0]) + at) as u8 % 255
}

fn bytes_of(extent: &Extent) -> Vec<u8> {
    match extent.source {
        Source::Hole => vec![0; extent.length as usize],
        Source::Chunk { id, offset, .. } => (0..extent.length).map(|at| byte(&id, at + u64::from(offset))).collect(),
    }
}

async fn build(nodes: &Nodes, extents: impl IntoIterator<Item = Extent>) -> Manifest {
    let mut builder = Builder::new();
    for extent in extents {
        builder.push(nodes, extent).await.unwrap();
    }
    builder.finish(nodes).await.unwrap()
}

async fn list(nodes: &Nodes, manifest: &Manifest, range: Range<u64>) -> Vec<(u64, Extent)> {
    let mut cursor = manifest.extents(nodes, range);
    let mut all = Vec::new();
    while let Some(found) = cursor.next().await.unwrap() {
        all.push(found);
    }
    all
}

async fn render(nodes: &Nodes, manifest: &Manifest, range: Range<u64>) -> Vec<u8> {
    let mut content = Vec::new();
    for (start, extent) in list(nodes, manifest, range.clone()).await {
        assert_eq!(start, range.start + content.len() as u64, "no gap, no overlap");
        content.extend(bytes_of(&extent));
    }
    content
}

/// A million chunks of 100 KiB.
fn million() -> impl Iterator<Item = Extent> {
    (0..1_000_000).map(|n| Extent::chunk(id(n), 102_400))
}

#[test]
fn a_small_overwrite_in_a_large_file_writes_one_path() {
    run(async {
        let nodes = Nodes::default();
        let old = build(&nodes, million()).await;
        let (_, writes, written_bytes) = nodes.cost();
        assert_eq!(old.size(), 102_400_000_000);
        assert!((4_000..12_000).contains(&writes), "{writes} nodes");
        assert!(written_bytes < 45_000_000, "{written_bytes} bytes for a million extents");
        let mut manifest = old.clone();
        for n in 0..200u64 {
            let at = n * 511_999_488 / 4096 * 4096;
            let with = vec![Extent::chunk(id(1 << 40 | n), 4096)];
            manifest = manifest.overwrite(&nodes, at..at + 4096, with).await.unwrap();
            let (reads, writes, written_bytes) = nodes.cost();
            assert!(writes <= 9 && reads <= 18 && written_bytes < 100_000, "{n}: {reads} {writes} {written_bytes}");
            let found = list(&nodes, &manifest, at..at + 4096).await;
            assert_eq!(found, [(at, Extent::chunk(id(1 << 40 | n), 4096))]);
            let (reads, _, _) = nodes.cost();
            assert!(reads <= 5, "{n}: {reads} reads");
        }
        assert_eq!(manifest.size(), old.size());
    });
}

#[test]
fn the_same_chunk_over_and_over_is_no_trap() {
    run(async {
        // One id that ends nodes wherever it may, one that never does.
        let ending = (0..).map(id).find(|id| id.0[31] & 0x7f == 0).unwrap();
        let other = (0..).map(id).find(|id| id.0[31] & 0x7f != 0).unwrap();
        for id_of_all in [ending, other] {
            let nodes = Nodes::default();
            let mut manifest = build(&nodes, (0..200_000).map(|_| Extent::chunk(id_of_all, 65_536))).await;
            nodes.cost();
            for n in 0..50u64 {
                let at = n * 200_000_000 + 4096;
                let with = vec![Extent::chunk(id(n), 4096)];
                manifest = manifest.overwrite(&nodes, at..at + 4096, with).await.unwrap();
                let (reads, writes, _) = nodes.cost();
                assert!(writes <= 12 && reads <= 20, "{reads} reads, {writes} writes");
            }
        }
    });
}

#[test]
fn appending_over_and_over_keeps_nodes_large() {
    run(async {
        let nodes = Nodes::default();
        let mut manifest = Manifest::empty();
        for n in 0..20_000u64 {
            let end = manifest.size();
            manifest = manifest.overwrite(&nodes, end..end + 4096, vec![Extent::chunk(id(n), 4096)]).await.unwrap();
            let (reads, writes, _) = nodes.cost();
            assert!(reads <= 8 && writes <= 6, "{reads} reads, {writes} writes");
        }
        let (mut leaves, mut chunks) = (0, 0);
        let mut count = |reference| {
            match reference {
                Reference::Node(_) => leaves += 1,
                Reference::Chunk(_) => chunks += 1,
            }
            Ok(())
        };
        manifest.for_each_reference(&nodes, &mut |_| false, &mut count).await.unwrap();
        assert_eq!(chunks, 20_000);
        assert!(leaves < 20_000 / 80, "{leaves} nodes");
        assert_eq!(manifest, build(&nodes, (0..20_000).map(|n| Extent::chunk(id(n), 4096))).await);
    });
}

#[test]
fn an_insertion_shares_most_nodes() {
    run(async {
        let nodes = Nodes::default();
        let old = build(&nodes, million().take(100_000)).await;
        let extra = [Extent::chunk(id(1 << 50), 777)];
        let new = build(&nodes, million().take(50_000).chain(extra).chain(million().skip(50_000).take(50_000))).await;
        let mut seen = BTreeSet::new();
        let mut mark = |reference| {
            seen.insert(reference);
            Ok(())
        };
        old.for_each_reference(&nodes, &mut |_| false, &mut mark).await.unwrap();
        let seen = Mutex::new(seen);
        let mut fresh = Vec::new();
        let mut is_seen = |id: &ChunkId| seen.lock().contains(&Reference::Node(*id));
        let mut each = |reference| {
            fresh.push(reference);
            Ok(())
        };
        new.for_each_reference(&nodes, &mut is_seen, &mut each).await.unwrap();
        let fresh_nodes = fresh.iter().filter(|reference| matches!(reference, Reference::Node(_))).count();
        assert!(fresh_nodes <= 6, "{fresh_nodes} nodes are new");
        assert!(fresh.contains(&Reference::Chunk(id(1 << 50))));
        // Changing the old one in place comes to the very same tree.
        let at = 50_000 * 102_400;
        let (head, tail) = (old.slice(&nodes, 0..at).await.unwrap(), old.slice(&nodes, at..old.size()).await.unwrap());
        let middle = build(&nodes, extra).await;
        assert_eq!(Manifest::concat_all(&nodes, &[&head, &middle, &tail]).await.unwrap(), new);
    });
}

#[test]
fn joining_parts_reads_few_nodes() {
    run(async {
        let nodes = Nodes::default();
        let mut parts = Vec::new();
        for part in 0..1_000u64 {
            parts.push(build(&nodes, (0..400).map(|n| Extent::chunk(id(part << 20 | n), 65_536))).await);
        }
        nodes.cost();
        let whole = Manifest::concat_all(&nodes, &parts.iter().collect::<Vec<_>>()).await.unwrap();
        let (reads, writes, _) = nodes.cost();
        assert_eq!(whole.size(), 400_000 * 65_536);
        assert!(reads <= 3_500 && writes <= 2_500, "{reads} reads, {writes} writes for 1,000 parts of 4 nodes");
        for (n, part) in parts.iter().enumerate().step_by(333) {
            let start = n as u64 * 400 * 65_536;
            let found = list(&nodes, &whole, start..start + part.size()).await;
            let expected = list(&nodes, part, 0..part.size()).await;
            let shifted: Vec<_> = found.into_iter().map(|(at, extent)| (at - start, extent)).collect();
            assert_eq!(shifted, expected);
        }
    });
}

#[test]
fn huge_holes_cost_nothing() {
    run(async {
        let nodes = Nodes::default();
        let sparse = Manifest::empty().truncate(&nodes, 100 << 30).await.unwrap();
        assert_eq!(*sparse.root(), Root::Extents(vec![Extent::hole(100 << 30)]));
        let at = 50 << 30;
        let sparse = sparse.overwrite(&nodes, at..at + 4096, vec![Extent::chunk(id(1), 4096)]).await.unwrap();
        assert_eq!(list(&nodes, &sparse, 0..u64::MAX).await.len(), 3);
        assert_eq!(nodes.cost(), (0, 0, 0));
        let largest = Manifest::empty().truncate(&nodes, CONTENT_BYTES_MAX).await.unwrap();
        let end = largest.size();
        let error = largest.overwrite(&nodes, end..end + 1, vec![Extent::hole(1)]).await.unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Invalid);
        assert!(sparse.overwrite(&nodes, 0..5, vec![Extent::hole(4)]).await.is_err());
        assert!(sparse.slice(&nodes, 0..sparse.size() + 1).await.is_err());
    });
}

#[test]
fn a_tree_that_shrinks_stands_in_the_record_again() {
    run(async {
        let nodes = Nodes::default();
        let big = build(&nodes, million().take(100_000)).await;
        let Root::Tree { depth, .. } = big.root() else { panic!("{:?}", big.root()) };
        assert!(*depth >= 3);
        let small = big.slice(&nodes, 5_000_000_000..5_000_900_000).await.unwrap();
        assert!(matches!(small.root(), Root::Extents(extents) if extents.len() == 9), "{:?}", small.root());
        assert_eq!(*big.truncate(&nodes, 0).await.unwrap().root(), Root::Empty);
        for size in [1, 102_400 * 40, 102_400 * 3_000 + 7] {
            let cut = big.truncate(&nodes, size).await.unwrap();
            let count = size.div_ceil(102_400);
            let mut expected: Vec<_> = million().take(count as usize).collect();
            let last = expected.pop().unwrap();
            expected.push(last.part(0, size - (count - 1) * 102_400).unwrap());
            assert_eq!(cut, build(&nodes, expected).await, "the same as if built at once");
        }
    });
}

#[test]
fn damaged_nodes_are_named() {
    run(async {
        let nodes = Nodes::default();
        let manifest = build(&nodes, million().take(5_000)).await;
        let Root::Tree { id: top, depth } = *manifest.root() else { panic!() };
        let wrong = Manifest { size: manifest.size() - 1, root: Root::Tree { id: top, depth } };
        let error = wrong.extents(&nodes, 0..10).next().await.unwrap_err();
        assert!(error.to_string().contains(&top.to_string()), "{error}");
        let wrong = Manifest { size: manifest.size(), root: Root::Tree { id: top, depth: depth + 1 } };
        assert!(wrong.extents(&nodes, 0..10).next().await.is_err());
        nodes.0.lock().nodes.insert(top, Bytes::from_static(b"\x01\x00nonsense"));
        assert!(manifest.extents(&nodes, 0..10).next().await.unwrap_err().to_string().contains(&top.to_string()));
    });
}

fn nodes_to_encode() -> Vec<Node> {
    let part = Source::Chunk { id: id(4), offset: 1, raw: 300 };
    let leaf = vec![Extent::hole(5), Extent::chunk(id(3), 70_000), Extent { length: 299, source: part }];
    let children = (1..=512).map(|n| Child { length: n << 20, id: id(n) }).collect();
    vec![Node::Leaf(leaf), Node::Inner { level: 3, children }]
}

#[test]
fn nodes_survive_their_bytes_and_bad_ones_are_refused() {
    for node in nodes_to_encode() {
        let bytes = node.encode();
        assert_eq!(Node::decode(&bytes).unwrap(), node);
        assert!((0..bytes.len()).all(|cut| Node::decode(&bytes[..cut]).is_err()));
        assert!(Node::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
    let good = nodes_to_encode().remove(0);
    let Node::Leaf(extents) = good else { panic!() };
    let part = |length, offset, raw| Extent { length, source: Source::Chunk { id: id(1), offset, raw } };
    for bad in [
        vec![],
        vec![Extent::hole(0)],
        vec![Extent::hole(3), Extent::hole(4)],
        vec![Extent::hole(CONTENT_BYTES_MAX), Extent::chunk(id(1), 1)],
        vec![part(10, 0, 20), part(10, 10, 20)],
        vec![part(10, 11, 20)],
        vec![part(10, 1, (16 << 20) + 1)],
        extents.iter().copied().cycle().take(513).collect(),
    ] {
        assert!(Node::decode(&Node::Leaf(bad.clone()).encode()).is_err(), "{bad:?}");
    }
    for (level, children) in [
        (1, vec![]),
        (1, vec![Child { length: 0, id: id(1) }]),
        (1, vec![Child { length: CONTENT_BYTES_MAX, id: id(1) }; 2]),
        (DEPTH_MAX, vec![Child { length: 1, id: id(1) }]),
    ] {
        assert!(Node::decode(&Node::Inner { level, children }.encode()).is_err());
    }
    assert!(Node::decode(&[2, 0, 1, 0, 1]).unwrap_err().to_string().contains("version 2"));
}

#[test]
fn manifests_survive_their_bytes_and_bad_ones_are_refused() {
    let inline = Root::Extents(vec![Extent::chunk(id(1), 10), Extent::hole(5)]);
    let tree = Root::Tree { id: id(2), depth: 2 };
    for manifest in [Manifest::empty(), Manifest { size: 15, root: inline.clone() }, Manifest { size: 9, root: tree }] {
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
        assert!((0..bytes.len()).all(|cut| Manifest::decode(&bytes[..cut]).is_err()));
        assert!(Manifest::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
    for bad in [
        Manifest { size: 1, root: Root::Empty },
        Manifest { size: 14, root: inline },
        Manifest { size: 0, root: Root::Tree { id: id(2), depth: 1 } },
        Manifest { size: u64::MAX, root: Root::Tree { id: id(2), depth: 1 } },
        Manifest { size: 1, root: Root::Tree { id: id(2), depth: 0 } },
        Manifest { size: 33, root: Root::Extents((0..33).map(|n| Extent::chunk(id(n), 1)).collect()) },
    ] {
        assert!(Manifest::decode(&bad.encode()).is_err(), "{bad:?}");
    }
    assert!(Manifest::decode(&[9, 0, 0]).unwrap_err().to_string().contains("version 9"));
}

/// A change of a content; numbers are taken modulo what is possible.
#[derive(Debug, Clone)]
enum Change {
    Overwrite { at: u64, beyond: bool, extents: Vec<(u64, u32, u32)> },
    Truncate(u64),
    Slice(u64, u64),
    ConcatSelf,
    ConcatNew { count: u64, seed: u64 },
}

fn change() -> impl Strategy<Value = Change> {
    let extent = (0u64..50, 0u32..20, 1u32..40);
    prop_oneof![
        6 => (any::<u64>(), prop::bool::weighted(0.1), prop::collection::vec(extent, 0..60))
            .prop_map(|(at, beyond, extents)| Change::Overwrite { at, beyond, extents }),
        1 => any::<u64>().prop_map(Change::Truncate),
        1 => any::<(u64, u64)>().prop_map(|(from, to)| Change::Slice(from, to)),
        1 => Just(Change::ConcatSelf),
        1 => (0u64..300, any::<u64>()).prop_map(|(count, seed)| Change::ConcatNew { count, seed }),
    ]
}

fn small_extent((chunk, offset, length): (u64, u32, u32)) -> Extent {
    match chunk {
        0..5 => Extent::hole(length.into()),
        _ => Extent { length: length.into(), source: Source::Chunk { id: id(chunk), offset, raw: 64 } },
    }
}

fn seeded(seed: u64, count: u64) -> impl Iterator<Item = Extent> {
    (0..count).map(move |n| {
        let pick = id(seed.wrapping_add(n)).0;
        small_extent((u64::from(pick[0]), u32::from(pick[1]) % 20, 1 + u32::from(pick[2]) % 8))
    })
}

async fn apply(nodes: &Nodes, manifest: &Manifest, model: &mut Vec<u8>, change: Change) -> Manifest {
    let size = manifest.size();
    match change {
        Change::Overwrite { at, beyond, extents } => {
            let extents: Vec<_> = extents.into_iter().map(small_extent).collect();
            let with: Vec<u8> = extents.iter().flat_map(bytes_of).collect();
            let start = at % (size + 1) + if beyond { size } else { 0 };
            let end = start + with.len() as u64;
            if !with.is_empty() {
                model.resize(model.len().max(end as usize), 0);
                model[start as usize..end as usize].copy_from_slice(&with);
            }
            manifest.overwrite(nodes, start..end, extents).await.unwrap()
        }
        Change::Truncate(to) => {
            let to = to % (size + size / 8 + 10);
            model.resize(to as usize, 0);
            manifest.truncate(nodes, to).await.unwrap()
        }
        Change::Slice(from, to) => {
            // Mostly a large part of it.
            let from = from % (size / 4 + 1);
            let to = size - to % (size / 4 + 1);
            *model = model[from as usize..to as usize].to_vec();
            manifest.slice(nodes, from..to).await.unwrap()
        }
        Change::ConcatSelf if size < 200_000 => {
            model.extend_from_within(..);
            manifest.concat(nodes, manifest).await.unwrap()
        }
        Change::ConcatSelf => manifest.clone(),
        Change::ConcatNew { count, seed } => {
            let other = build(nodes, seeded(seed, count)).await;
            model.extend(render(nodes, &other, 0..other.size()).await);
            manifest.concat(nodes, &other).await.unwrap()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn manifests_do_what_a_vector_of_bytes_does(
        count in prop_oneof![0u64..40, 0u64..12_000],
        seed in any::<u64>(),
        changes in prop::collection::vec(change(), 1..12),
        windows in prop::collection::vec(any::<(u64, u64)>(), 4),
    ) {
        run(async {
            let nodes = Nodes::default();
            let mut model: Vec<u8> = seeded(seed, count).flat_map(|extent| bytes_of(&extent)).collect();
            let mut manifest = build(&nodes, seeded(seed, count)).await;
            for change in changes {
                let old = (manifest.clone(), model.clone());
                manifest = apply(&nodes, &manifest, &mut model, change).await;
                prop_assert_eq!(manifest.size(), model.len() as u64);
                prop_assert!(render(&nodes, &manifest, 0..u64::MAX).await == model);
                prop_assert!(render(&nodes, &old.0, 0..u64::MAX).await == old.1, "the old version stays");
                prop_assert_eq!(&Manifest::decode(&manifest.encode()).unwrap(), &manifest);
            }
            for (from, to) in windows {
                let from = from % (manifest.size() + 1);
                let to = from + to % (manifest.size() - from + 1);
                let expected = &model[from as usize..to as usize];
                prop_assert!(render(&nodes, &manifest, from..to).await == expected);
            }
            Ok(())
        })?;
    }

    #[test]
    fn trees_do_not_depend_on_how_runs_are_split(seed in any::<u64>(), count in 0u64..3_000, splits in 1u64..5) {
        run(async {
            let nodes = Nodes::default();
            let whole = build(&nodes, seeded(seed, count)).await;
            let split = seeded(seed, count).flat_map(|extent| {
                let middle = extent.length.min(splits);
                [extent.part(0, middle), extent.part(middle, extent.length)].into_iter().flatten()
            });
            prop_assert_eq!(build(&nodes, split).await, whole);
            Ok(())
        })?;
    }

    #[test]
    fn decoders_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), level in 0u8..3, count in 0u8..4) {
        let framed = [&[1, level, count][..], &bytes].concat();
        for bytes in [&bytes, &framed] {
            if let Ok(node) = Node::decode(bytes) {
                prop_assert_eq!(&node.encode(), bytes);
            }
            if let Ok(manifest) = Manifest::decode(bytes) {
                prop_assert_eq!(&manifest.encode(), bytes);
            }
        }
    }
}
