//! Every package that the workspace (and the fuzz workspace) can pull in, on any platform, has a licence on the list below.

use serde_json::Value;
use std::process::Command;
use tombolo_tests::command::{repository, run};

/// SPDX names that go with Apache-2.0. No copyleft beyond a file: AGPL and GPL are not here, and an unknown name fails.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "NCSA",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "bzip2-1.0.6",
];

/// Whether an SPDX expression can be met with [`ALLOWED`] licences: one side of every OR, both sides of every AND.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<_> = spaced.split_whitespace().collect();
    let mut rest = &tokens[..];
    let allowed = any_of(&mut rest);
    allowed && rest.is_empty()
}

fn any_of(tokens: &mut &[&str]) -> bool {
    let mut allowed = all_of(tokens);
    while let ["OR", rest @ ..] = *tokens {
        *tokens = rest;
        allowed |= all_of(tokens);
    }
    allowed
}

fn all_of(tokens: &mut &[&str]) -> bool {
    let mut allowed = one(tokens);
    while let ["AND", rest @ ..] = *tokens {
        *tokens = rest;
        allowed &= one(tokens);
    }
    allowed
}

fn one(tokens: &mut &[&str]) -> bool {
    match *tokens {
        ["(", rest @ ..] => {
            *tokens = rest;
            let allowed = any_of(tokens);
            let [")", rest @ ..] = *tokens else {
                return false;
            };
            *tokens = rest;
            allowed
        }
        [name, "WITH", exception, rest @ ..] => {
            *tokens = rest;
            ALLOWED.contains(&format!("{name} WITH {exception}").as_str())
        }
        [name, rest @ ..] => {
            *tokens = rest;
            ALLOWED.contains(name)
        }
        [] => false,
    }
}

#[test]
fn expressions_are_understood() {
    for fine in
        ["MIT", "MIT/Apache-2.0", "MIT OR GPL-3.0", "(MIT OR Apache-2.0) AND Unicode-3.0", "GPL-2.0 OR (MIT AND ISC)"]
    {
        assert!(is_allowed(fine), "{fine}");
    }
    for refused in
        ["", "GPL-3.0", "AGPL-3.0-only", "MIT AND GPL-3.0", "(MIT", "Apache-2.0 WITH Surprise", "MIT Apache-2.0"]
    {
        assert!(!is_allowed(refused), "{refused}");
    }
}

#[test]
fn all_dependencies_have_allowed_licences() {
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        let mut command = Command::new(env!("CARGO"));
        command.args(["metadata", "--format-version", "1", "--locked", "--manifest-path"]);
        let text = run(command.arg(repository().join(manifest))).success();
        let metadata: Value = serde_json::from_str(&text).unwrap();
        let packages = metadata["packages"].as_array().expect("a list of packages");
        assert!(packages.len() > 50, "{manifest}: only {} packages", packages.len());
        let refused: Vec<_> = packages
            .iter()
            .filter(|package| !is_allowed(package["license"].as_str().unwrap_or_default()))
            .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
            .collect();
        assert!(refused.is_empty(), "{manifest}: not on the list of licences:\n{}", refused.join("\n"));
    }
}
