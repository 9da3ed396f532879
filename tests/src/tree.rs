//! Directory trees to hand to client programs, and their comparison afterwards.

use crate::content::Content;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes `files` files of mixed sizes (empty, small, some hundred KiB, a few MiB) in nested directories below `root`. The
/// contents follow from `seed`; some repeat others.
pub fn write(root: &Path, seed: u64, files: usize) {
    let odd_names = ["plain.txt", "with space.txt", "Ünïcödé.dat", "plus+and&.bin", "percent%41.txt", "q?uestion=1"];
    for number in 0..files {
        let size = match number % 6 {
            0 => 0,
            1 => 100 + number,
            2 => 4096,
            3 => 70_000 + number * 13,
            4 => 300_000 + number * 101,
            _ if number < 12 => (3 << 20) + number,
            _ => 20_000 + number,
        };
        let content = Content::new(seed + (number as u64 % 40), size);
        let dir = root.join(format!("level-{}", number % 3)).join(format!("deeper {}", number % 5));
        std::fs::create_dir_all(&dir).expect("a directory");
        let name = odd_names[number % odd_names.len()];
        std::fs::write(dir.join(format!("{number:03}-{name}")), content.bytes()).expect("a file");
    }
}

/// Relative path and content of every file below `root`.
pub fn read(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display())) {
            let path = entry.expect("a directory entry").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let name = path.strip_prefix(root).expect("a path below the root").to_string_lossy().into_owned();
                files.insert(name, std::fs::read(&path).expect("a readable file"));
            }
        }
    }
    files
}

/// Panics, naming the first difference, unless both trees hold the same files with the same contents.
pub fn assert_same(left: &Path, right: &Path) {
    let (left, right) = (read(left), read(right));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&left), names(&right), "the names differ");
    for (name, content) in &left {
        assert!(right[name] == *content, "{name} differs");
    }
}
