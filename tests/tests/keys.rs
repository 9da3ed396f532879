//! A segment's key can be changed without linking anew: who is told takes both, then the new one alone (P13).

use serde_json::Value;
use tombolo_tests::linked::{BUCKET, LinkedSite, pair};
use tombolo_tests::wait;

fn fingerprint_of(peer: &str, at: &LinkedSite) -> String {
    at.json(&["link", "show", peer])["fingerprint"].as_str().unwrap().to_owned()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

/// Writes at one site and reads at the other, over a link that is up.
fn is_linked(from: &LinkedSite, to: &LinkedSite, key: &str) {
    let path = format!("{BUCKET}/{key}");
    from.put(&path, key.as_bytes());
    to.catch_up();
    assert_eq!(to.get(&path), key.as_bytes());
}

/// One of three is down when the key is to change: it does when that one has come back, although the segment was killed in between. The old key opens nothing then.
#[test]
fn a_key_changes_when_all_know_the_next_one() {
    let (mut sanfrancisco, newyork) = pair(&[]);
    let address = sanfrancisco.said()["link"].as_str().unwrap().to_owned();
    let mut boston = LinkedSite::new("boston", "Boston");
    boston.serve();
    let code = sanfrancisco.json(&["link", "invite"])["code"].as_str().unwrap().to_owned();
    boston.tombolo(&["link", "accept", &code]);
    boston.catch_up();
    boston.stop();
    let before = fingerprint_of("sanfrancisco", &newyork);
    let key_file = sanfrancisco.dir().join("link/key.pem");
    let old_key = std::fs::read(&key_file).unwrap();

    let unused = sanfrancisco.json(&["link", "invite"])["code"].as_str().unwrap().to_owned();
    let rotate = |site: &LinkedSite| -> Value {
        let told = site.run(&["link", "rotate-key", "--timeout", "0", "--json"]).exits(4);
        serde_json::from_str(&told.stdout).unwrap()
    };
    let next = wait::until("newyork to be told", || {
        let rotation = rotate(&sanfrancisco);
        assert_eq!(rotation["fingerprint"], before.as_str());
        (names(&rotation["told"]) == ["newyork"]).then(|| rotation["next"].as_str().unwrap().to_owned())
    });
    assert_eq!(names(&rotate(&sanfrancisco)["waiting"]), ["boston"]);
    assert_eq!(newyork.json(&["link", "show", "sanfrancisco"])["next_fingerprint"], next.as_str());

    sanfrancisco.kill();
    sanfrancisco.serve_with(&["--link", &address]);
    is_linked(&sanfrancisco, &newyork, "in between");
    assert_eq!(
        (rotate(&sanfrancisco)["next"].as_str(), fingerprint_of("sanfrancisco", &newyork)),
        (Some(&*next), before)
    );

    boston.serve();
    for site in [&newyork, &boston] {
        wait::until("the next key to be the key", || (fingerprint_of("sanfrancisco", site) == next).then_some(()));
        assert_eq!(site.json(&["link", "show", "sanfrancisco"])["next_fingerprint"], Value::Null);
    }
    is_linked(&sanfrancisco, &newyork, "after");
    is_linked(&boston, &sanfrancisco, "and back");
    assert_eq!(sanfrancisco.json(&["link", "invites"]), serde_json::json!([]), "a code names the key that is gone");
    assert_eq!(boston.run(&["link", "accept", &unused]).code, Some(4));

    // Whoever has the old key is nobody.
    sanfrancisco.stop();
    let new_key = std::fs::read(&key_file).unwrap();
    std::fs::write(&key_file, &old_key).unwrap();
    sanfrancisco.serve_with(&["--link", &address]);
    assert_eq!(newyork.run(&["sync", "wait", "--timeout", "2s"]).code, Some(4));
    assert_eq!(newyork.json(&["link", "list"])[0]["connected"], false);
    sanfrancisco.stop();
    std::fs::write(&key_file, &new_key).unwrap();
    sanfrancisco.serve_with(&["--link", &address]);
    is_linked(&sanfrancisco, &newyork, "again");

    // At once: who has not heard of it has to be linked anew.
    boston.stop();
    let now = sanfrancisco.json(&["link", "rotate-key", "--now"]);
    assert_eq!(now["next"], Value::Null);
    boston.serve();
    assert_eq!(boston.run(&["sync", "wait", "--timeout", "2s"]).code, Some(4));
}
