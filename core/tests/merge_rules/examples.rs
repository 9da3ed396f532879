//! Pairs of concurrent changes with what must come of them: the rules in examples. The note `docs/notes/0002-merge-rules.md` refers to them by name.

use crate::broken::Broken;
use crate::model::MemorySegment;
use crate::operation::{ContentId, ModelSegment, Operation, Refused, Tree};
use tombolo_core::{ConflictPolicy, SegmentId};

fn put(key: &str, content: ContentId) -> Operation {
    Operation::Put { key: key.into(), content }
}

fn delete(key: &str) -> Operation {
    Operation::Delete { key: key.into() }
}

fn link(from: &str, to: &str) -> Operation {
    Operation::Link { from: from.into(), to: to.into() }
}

fn rename(from: &str, to: &str) -> Operation {
    let (from, to) = (from.to_owned(), to.to_owned());
    if from.ends_with('/') { Operation::RenameDirectory { from, to } } else { Operation::Rename { from, to } }
}

fn mkdir(path: &str) -> Operation {
    Operation::Mkdir { path: path.into() }
}

fn rmdir(path: &str) -> Operation {
    Operation::Rmdir { path: path.into() }
}

/// Two segments that know each other's past.
struct Pair {
    a: MemorySegment,
    b: MemorySegment,
    now_ns: i64,
}

impl Pair {
    fn new(policy: ConflictPolicy, base: &[Operation]) -> Pair {
        let [a, b] = [0xa0, 0xb0].map(|byte| {
            MemorySegment::new(SegmentId([byte; 16]), policy, SegmentId([0xa0; 16]), true, Broken::Nothing)
        });
        let mut pair = Pair { a, b, now_ns: 1_700_000_000_000_000_000 };
        pair.at_a(base);
        pair.meet();
        pair
    }

    fn at_a(&mut self, operations: &[Operation]) {
        for operation in operations {
            self.now_ns += 1_000_000_000;
            self.a.apply(operation, self.now_ns).unwrap_or_else(|why| panic!("{operation:?}: {why:?}"));
        }
    }

    fn at_b(&mut self, operations: &[Operation]) {
        for operation in operations {
            self.now_ns += 1_000_000_000;
            self.b.apply(operation, self.now_ns).unwrap_or_else(|why| panic!("{operation:?}: {why:?}"));
        }
    }

    fn meet(&mut self) -> Tree {
        let (to_a, to_b) = (self.b.changes_since(&self.a.vector()), self.a.changes_since(&self.b.vector()));
        self.a.merge(&to_a);
        self.b.merge(&to_b);
        assert_eq!(self.a.fingerprint(), self.b.fingerprint());
        assert_eq!(self.a.tree(), self.b.tree());
        self.a.tree()
    }
}

/// What shows after `a` and `b` happened at once. `a` has the lower stamps.
fn concurrently(policy: ConflictPolicy, base: &[Operation], a: &[Operation], b: &[Operation]) -> Tree {
    let mut pair = Pair::new(policy, base);
    pair.at_a(a);
    pair.at_b(b);
    pair.meet()
}

#[track_caller]
fn expect(tree: &Tree, files: &[(&str, ContentId)], directories: &[&str], conflicts: usize) {
    let shown: Vec<(&str, ContentId)> = tree.files.iter().map(|(key, content)| (key.as_str(), *content)).collect();
    assert_eq!(shown, files, "{tree:#?}");
    assert_eq!(tree.directories.keys().collect::<Vec<_>>(), directories, "{tree:#?}");
    assert_eq!(tree.conflicts.len(), conflicts, "{tree:#?}");
}

const BOTH: ConflictPolicy = ConflictPolicy::KeepBoth;
const LAST: ConflictPolicy = ConflictPolicy::LastWriterWins;
const ORIGIN: ConflictPolicy = ConflictPolicy::OriginWins;

#[test]
fn two_creates_of_one_name() {
    let tree = concurrently(BOTH, &[], &[put("x.txt", 1)], &[put("x.txt", 2)]);
    expect(&tree, &[("x (conflict a0a0a0a0 2).txt", 1), ("x.txt", 2)], &[], 1);
    let tree = concurrently(LAST, &[], &[put("x.txt", 1)], &[put("x.txt", 2)]);
    expect(&tree, &[("x.txt", 2)], &[], 1);
    assert_eq!(tree.contents_at("x.txt"), [1, 2].into());
    let tree = concurrently(ORIGIN, &[], &[put("x.txt", 1)], &[put("x.txt", 2)]);
    expect(&tree, &[("x.txt", 1)], &[], 1);
    assert_eq!(tree.contents_at("x.txt"), [1, 2].into());
}

#[test]
fn two_edits_of_one_file() {
    let tree = concurrently(BOTH, &[put("x", 1)], &[put("x", 2)], &[put("x", 3)]);
    expect(&tree, &[("x", 3), ("x (conflict a0a0a0a0 3)", 2)], &[], 1);
    let tree = concurrently(ORIGIN, &[put("x", 1)], &[put("x", 2)], &[put("x", 3)]);
    expect(&tree, &[("x", 2)], &[], 1);
    assert_eq!(tree.contents_at("x"), [2, 3].into());
}

/// A write settles what it saw: under keep-both just the name it is made to, else the whole conflict.
#[test]
fn settling_a_conflict_is_an_ordinary_change() {
    for (policy, files) in [(BOTH, vec![("x", 4), ("x (conflict a0a0a0a0 2)", 1)]), (LAST, vec![("x", 4)])] {
        let mut pair = Pair::new(policy, &[]);
        pair.at_a(&[put("x", 1)]);
        pair.at_b(&[put("x", 2)]);
        pair.meet();
        pair.at_a(&[put("x", 4)]);
        let tree = pair.meet();
        expect(&tree, &files, &[], files.len() - 1);
    }
    // Take theirs: rename the copy over the original. Keep both: rename the copy.
    for (to, files) in [("x", vec![("x", 1)]), ("y", vec![("x", 2), ("y", 1)])] {
        let mut pair = Pair::new(BOTH, &[]);
        pair.at_a(&[put("x", 1)]);
        pair.at_b(&[put("x", 2)]);
        pair.meet();
        pair.at_b(&[rename("x (conflict a0a0a0a0 2)", to)]);
        expect(&pair.meet(), &files, &[], 0);
    }
}

#[test]
fn editing_a_conflict_copy_does_not_rename_it() {
    let mut pair = Pair::new(BOTH, &[]);
    pair.at_a(&[put("x", 1)]);
    pair.at_b(&[put("x", 2)]);
    pair.meet();
    pair.at_b(&[put("x (conflict a0a0a0a0 2)", 3)]);
    expect(&pair.meet(), &[("x", 2), ("x (conflict a0a0a0a0 2)", 3)], &[], 1);
    // The loser of two edits becomes a file of its own by that, and the conflict is settled.
    let mut pair = Pair::new(BOTH, &[put("x", 1)]);
    pair.at_a(&[put("x", 2)]);
    pair.at_b(&[put("x", 3)]);
    pair.meet();
    pair.at_b(&[put("x (conflict a0a0a0a0 3)", 4)]);
    expect(&pair.meet(), &[("x", 3), ("x (conflict a0a0a0a0 3)", 4)], &[], 0);
}

#[test]
fn an_edit_beats_a_concurrent_delete() {
    for policy in [BOTH, LAST, ORIGIN] {
        let tree = concurrently(policy, &[put("a/x", 1)], &[put("a/x", 2)], &[delete("a/x")]);
        expect(&tree, &[("a/x", 2)], &["a/"], 1);
    }
}

/// Counter-example to rule 5 as it was: the delete tombstoned the content under a name that somebody had just given.
#[test]
fn a_rename_or_link_beats_a_concurrent_delete() {
    for policy in [BOTH, LAST, ORIGIN] {
        let tree = concurrently(policy, &[put("x", 1)], &[link("x", "y")], &[delete("x")]);
        expect(&tree, &[("y", 1)], &[], 0);
        let tree = concurrently(policy, &[put("x", 1)], &[rename("x", "y")], &[delete("x")]);
        expect(&tree, &[("y", 1)], &[], 0);
        // And what comes back is not a content that had been overwritten.
        let tree = concurrently(policy, &[put("x", 1)], &[link("x", "y")], &[put("x", 2), delete("x")]);
        expect(&tree, &[("y", 2)], &[], 0);
    }
}

/// Counter-example to "a name is one write": both rename to the same name, then somebody deletes it, and it must go.
#[test]
fn a_name_given_twice_goes_at_once() {
    let mut pair = Pair::new(BOTH, &[put("x", 1)]);
    pair.at_a(&[rename("x", "y")]);
    pair.at_b(&[rename("x", "y")]);
    expect(&pair.meet(), &[("y", 1)], &[], 0);
    pair.at_a(&[delete("y")]);
    expect(&pair.meet(), &[], &[], 0);
}

#[test]
fn two_renames_of_one_file_are_two_names() {
    let tree = concurrently(BOTH, &[put("x", 1)], &[rename("x", "y")], &[rename("x", "z")]);
    expect(&tree, &[("y", 1), ("z", 1)], &[], 0);
}

#[test]
fn a_conflict_copy_survives_the_deletion_of_its_rival() {
    let mut pair = Pair::new(BOTH, &[]);
    pair.at_a(&[put("x", 1)]);
    pair.at_b(&[put("x", 2)]);
    pair.meet();
    pair.at_a(&[delete("x")]);
    expect(&pair.meet(), &[("x", 1)], &[], 0);
}

#[test]
fn directories_that_are_made_twice_merge() {
    let tree = concurrently(BOTH, &[], &[mkdir("a/")], &[put("a/b/x", 1)]);
    expect(&tree, &[("a/b/x", 1)], &["a/", "a/b/"], 0);
    assert!(tree.directories["a/"], "made by itself once is enough");
    let tree = concurrently(BOTH, &[], &[put("a/b/x", 1)], &[put("a/b/y", 2)]);
    expect(&tree, &[("a/b/x", 1), ("a/b/y", 2)], &["a/", "a/b/"], 0);
}

#[test]
fn a_create_beats_a_concurrent_rmdir() {
    let mut pair = Pair::new(BOTH, &[mkdir("a/")]);
    pair.at_a(&[put("a/b/x", 1)]);
    pair.at_b(&[rmdir("a/")]);
    expect(&pair.meet(), &[("a/b/x", 1)], &["a/", "a/b/"], 0);
    // It was removed all the same: it goes with its last entry.
    pair.at_b(&[delete("a/b/x")]);
    expect(&pair.meet(), &[], &[], 0);
}

/// Counter-example to rule 2 as it was, with an id that depends on the tombstones: S3 software that empties a prefix and uses it again would have got
/// `a (conflict …)/` as soon as anybody wrote below the prefix at the same time.
#[test]
fn a_directory_made_again_is_the_same_directory() {
    for remake in [put("a/y", 2), mkdir("a/")] {
        let is_put = matches!(remake, Operation::Put { .. });
        let tree = concurrently(BOTH, &[put("a/x", 1)], &[delete("a/x"), remake], &[put("a/z", 3)]);
        let files: &[(&str, ContentId)] = if is_put { &[("a/y", 2), ("a/z", 3)] } else { &[("a/z", 3)] };
        expect(&tree, files, &["a/"], 0);
    }
    let tree = concurrently(BOTH, &[mkdir("a/")], &[rmdir("a/"), mkdir("a/")], &[put("a/z", 3)]);
    expect(&tree, &[("a/z", 3)], &["a/"], 0);
}

#[test]
fn a_directory_made_where_one_was_moved_away_is_another() {
    let mut pair = Pair::new(BOTH, &[put("a/x", 1)]);
    pair.at_a(&[rename("a/", "b/"), put("a/y", 2), rename("a/", "c/"), put("a/z", 3)]);
    expect(&pair.meet(), &[("a/z", 3), ("b/x", 1), ("c/y", 2)], &["a/", "b/", "c/"], 0);
}

#[test]
fn implied_creates_follow_a_renamed_directory() {
    let tree = concurrently(BOTH, &[put("a/x", 1)], &[rename("a/", "z/")], &[put("a/b/c", 2)]);
    expect(&tree, &[("z/b/c", 2), ("z/x", 1)], &["z/", "z/b/"], 0);
}

#[test]
fn the_last_of_two_moves_of_a_directory_counts() {
    let tree = concurrently(BOTH, &[put("a/x", 1)], &[rename("a/", "y/")], &[rename("a/", "z/")]);
    expect(&tree, &[("z/x", 1)], &["z/"], 0);
    // The name that lost can be used again.
    let mut pair = Pair::new(BOTH, &[put("a/x", 1)]);
    pair.at_a(&[rename("a/", "y/")]);
    pair.at_b(&[rename("a/", "z/")]);
    pair.meet();
    pair.at_a(&[mkdir("y/"), put("a/q", 2)]);
    expect(&pair.meet(), &[("a/q", 2), ("z/x", 1)], &["a/", "y/", "z/"], 0);
}

#[test]
fn directories_moved_into_each_other_are_cut_at_the_later_move() {
    let base = [put("a/x", 1), put("b/y", 2)];
    let mut pair = Pair::new(BOTH, &base);
    pair.at_a(&[rename("a/", "b/a/")]);
    pair.at_b(&[rename("b/", "a/b/")]);
    let tree = pair.meet();
    let (cut, below) = ("b (conflict b0b0b0b0 3)/", "b (conflict b0b0b0b0 3)/a/");
    expect(&tree, &[(&format!("{below}x"), 1), (&format!("{cut}y"), 2)], &[cut, below], 1);
    // Moving it anywhere settles it.
    pair.at_a(&[rename(cut, "c/")]);
    expect(&pair.meet(), &[("c/a/x", 1), ("c/y", 2)], &["c/", "c/a/"], 0);
}

#[test]
fn two_directories_under_one_name() {
    let base = [put("a/x", 1), put("b/x", 2)];
    let tree = concurrently(BOTH, &base, &[rename("a/", "c/")], &[rename("b/", "c/")]);
    expect(&tree, &[("c (conflict a0a0a0a0 11)/x", 1), ("c/x", 2)], &["c (conflict a0a0a0a0 11)/", "c/"], 1);
}

#[test]
fn a_name_that_looks_derived_is_left_alone() {
    let mut pair = Pair::new(BOTH, &[put("x (conflict a0a0a0a0 4)", 9)]);
    pair.at_a(&[put("x", 1)]);
    pair.at_b(&[put("x", 2)]);
    let files = [("x", 2), ("x (conflict a0a0a0a0 4 2)", 1), ("x (conflict a0a0a0a0 4)", 9)];
    expect(&pair.meet(), &files, &[], 1);
}

#[test]
fn refused_operations_change_nothing() {
    let mut pair = Pair::new(BOTH, &[put("a/x", 1), mkdir("b/")]);
    let before = pair.a.fingerprint();
    for (operation, why) in [
        (delete("a/y"), Refused::NotFound),
        (delete("c/y"), Refused::NotFound),
        (link("a/x", "a/x"), Refused::Exists),
        (rename("a/x", "a/x"), Refused::Pointless),
        (mkdir("b/"), Refused::Exists),
        (rmdir("a/"), Refused::NotEmpty),
        (rename("a/", "b/"), Refused::Exists),
        (rename("a/", "a/b/"), Refused::Pointless),
    ] {
        assert_eq!(pair.a.apply(&operation, pair.now_ns), Err(why), "{operation:?}");
        assert_eq!(pair.a.fingerprint(), before, "{operation:?}");
    }
}
