//! What the source text itself must hold: layers that point one way, a core that knows no protocol, names that say something.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tombolo_tests::command::{repository, run};

/// The layers of the core from the top down, and what stands beside them: a module may name itself, the modules listed with
/// it, and what is no layer (errors, ids, paths); nothing above it.
const LAYERS: &[(&str, &[&str])] = &[
    ("engine", &["namespace", "catalog", "tree", "register", "manifest", "chunk", "disk", "kv"]),
    ("namespace", &["catalog", "tree", "register", "manifest", "kv"]),
    ("manifest", &["chunk"]),
    ("chunk", &["disk"]),
    ("disk", &[]),
    ("catalog", &["register"]),
    ("tree", &["register"]),
    ("register", &[]),
    ("kv", &[]),
];
/// Nouns that say nothing.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "common", "manager", "misc"];
/// Where a file is to be cut along a noun.
const LINES_MAX: usize = 700;
/// Longer all the same: the file and the reason.
const LONG_FILES: &[(&str, &str)] = &[];
/// Sleeps that wait for nothing: the file and what it does there.
const SAMPLERS: &[(&str, &str)] = &[
    ("tests/src/wait.rs", "the pause between two looks at a condition"),
    ("frontends/s3/tests/s3/chunked.rs", "looks at the memory in use while an upload runs"),
];
/// Words that no identifier or text of the core may have: it knows no protocol.
const PROTOCOL_WORDS: &[&str] = &["s3", "nfs", "fuse", "http", "https", "aws", "amz", "hyper", "tcp", "xml"];

/// Files that git knows, as paths from the root.
fn tracked() -> Vec<String> {
    let mut command = Command::new("git");
    let listed =
        run(command.arg("-C").arg(repository()).args(["ls-files", "--cached", "--others", "--exclude-standard"]));
    let files: Vec<_> =
        listed.success().lines().map(str::to_string).filter(|f| repository().join(f).is_file()).collect();
    assert!(files.len() > 30, "only {} files: is this the repository?", files.len());
    files
}

fn sources(below: &str) -> Vec<(String, String)> {
    let files = tracked().into_iter().filter(|file| file.starts_with(below) && file.ends_with(".rs"));
    files.map(|file| (file.clone(), fs::read_to_string(repository().join(&file)).unwrap())).collect()
}

/// `text` without its comments (doc comments too). A `//` inside a string literal is kept by looking for quotes before it.
fn code(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut quotes = 0;
        let bytes = line.as_bytes();
        let mut end = bytes.len();
        for at in 0..bytes.len() {
            match bytes[at] {
                b'"' if at == 0 || bytes[at - 1] != b'\\' => quotes += 1,
                b'/' if quotes % 2 == 0 && bytes.get(at + 1) == Some(&b'/') => {
                    end = at;
                    break;
                }
                _ => {}
            }
        }
        out.push_str(&line[..end]);
        out.push('\n');
    }
    out
}

/// The modules of the crate that `code` names after `crate::`, in paths and in braces.
fn modules_named(code: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(inside) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let mut depth = 1;
        let mut is_start = true;
        for (at, c) in inside.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ if depth == 1 && is_start && c.is_alphabetic() => found.push(word(&inside[at..])),
                _ => {}
            }
            is_start = depth == 1 && (c == ',' || (is_start && c.is_whitespace()));
            if depth == 0 {
                break;
            }
        }
    }
    found
}

#[test]
fn modules_are_found_in_paths_and_braces() {
    let text =
        "use crate::{chunk::{self, engine}, kv, Error};\nfn f() { crate::disk::open(\"crate\") } // crate::engine";
    assert_eq!(modules_named(&code(text)), ["chunk", "kv", "Error", "disk"]);
}

#[test]
fn layers_point_one_way() {
    let mut wrong = Vec::new();
    for (layer, below) in LAYERS {
        let files: Vec<_> = ["/", ".rs"].iter().flat_map(|end| sources(&format!("core/src/{layer}{end}"))).collect();
        assert!(!files.is_empty(), "core/src/{layer} is gone: has the layer another name?");
        for (file, text) in files {
            for named in modules_named(&code(&text)) {
                let is_layer = LAYERS.iter().any(|(name, _)| *name == named);
                if is_layer && named != *layer && !below.contains(&named.as_str()) {
                    wrong.push(format!("{file} names crate::{named}"));
                }
            }
        }
    }
    for (door, forbidden) in [("frontends/s3/", &["tombolo_cli"][..]), ("core/", &["tombolo_s3", "tombolo_cli"])] {
        for (file, text) in sources(door) {
            let code = code(&text);
            wrong.extend(
                forbidden.iter().filter(|name| code.contains(**name)).map(|name| format!("{file} names {name}")),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Doors talk to the engine: what lies below it is not theirs.
#[test]
fn doors_use_the_engine_only() {
    let mut wrong = Vec::new();
    for (file, text) in sources("frontends/") {
        let code = code(&text);
        for module in ["chunk", "disk", "manifest", "namespace", "register", "kv"] {
            if code.contains(&format!("tombolo_core::{module}")) {
                wrong.push(format!("{file} reaches over the engine to {module}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_core_names_no_protocol() {
    let mut wrong = Vec::new();
    let words =
        |text: &str| text.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_lowercase).collect::<Vec<_>>();
    for (file, text) in sources("core/src/") {
        let code = code(&text);
        // Behind s1 and s2 it is the third of a row of variables.
        let counts = ["s1", "s2"].iter().all(|name| words(&code).iter().any(|word| word == name));
        let is_protocol = |word: &String| PROTOCOL_WORDS.contains(&word.as_str()) && !(counts && word == "s3");
        for (number, line) in code.lines().enumerate() {
            for word in words(line).iter().filter(|word| is_protocol(word)) {
                wrong.push(format!("{file}:{}: {word}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_named_after_nouns_and_cut_along_them() {
    let mut wrong = Vec::new();
    for (file, text) in sources("") {
        let path = Path::new(&file);
        let parts = path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect::<Vec<_>>();
        if parts.iter().any(|part| part.split(['_', '-']).any(|word| EMPTY_NAMES.contains(&word))) {
            wrong.push(format!("{file}: named after nothing in particular"));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX && !LONG_FILES.iter().any(|(long, _)| *long == file) {
            wrong.push(format!("{file}: {lines} lines; is there a noun to cut along?"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Nothing of the machine it was written on, and no unfinished work.
#[test]
fn the_repository_holds_nothing_that_is_not_its_own() {
    // Put together here, so that this file does not hold them itself.
    let foreign = [
        ["/wo", "rk/"],
        ["/ho", "me/"],
        ["/ro", "ot/"],
        ["index.", "crates.io"],
        ["static.", "crates.io"],
        ["arti", "factory"],
        ["py", "pi.org"],
        ["registry.", "npmjs"],
        ["files.python", "hosted"],
        ["deb.", "debian.org"],
    ];
    let unfinished = [["to", "do!("], ["unimple", "mented!("], ["FIX", "ME"], ["XX", "X:"], ["#[ig", "nore]"]];
    let mut wrong = Vec::new();
    for file in tracked() {
        let Ok(text) = fs::read_to_string(repository().join(&file)) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            let words = foreign.iter().filter(|_| !file.ends_with("Cargo.lock"));
            let words = words.chain(unfinished.iter().filter(|_| file.ends_with(".rs")));
            for word in words.map(|halves| halves.concat()).filter(|word| line.contains(word.as_str())) {
                wrong.push(format!("{file}:{}: {word}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Tests wait on a condition, never for a time.
#[test]
fn tests_wait_on_conditions_only() {
    let mut wrong = Vec::new();
    for (file, text) in sources("") {
        let is_test = file.split('/').any(|part| part == "tests") || text.contains("#[cfg(test)]");
        if !is_test || SAMPLERS.iter().any(|(sampler, _)| *sampler == file) {
            continue;
        }
        let text = if file.split('/').any(|part| part == "tests") {
            code(&text)
        } else {
            code(text.split("#[cfg(test)]").nth(1).unwrap_or_default())
        };
        for (number, _) in text.lines().enumerate().filter(|(_, line)| line.contains(concat!("sle", "ep("))) {
            wrong.push(format!("{file}: line {} of its tests", number + 1));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every crate of the workspace forbids or denies unsafe code; in the core one file maps packs.
#[test]
fn unsafe_code_is_where_it_is_argued_for() {
    let files = sources("").into_iter().filter(|(file, _)| !file.starts_with("fuzz/"));
    let found: Vec<PathBuf> = files
        .filter(|(_, text)| code(text).lines().any(|line| line.contains(concat!("unsa", "fe {"))))
        .map(|(file, _)| file.into())
        .collect();
    assert!(found.len() <= 1 && found.iter().all(|file| file.starts_with("core/src/")), "{found:?}");
}
