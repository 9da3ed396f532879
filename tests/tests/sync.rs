//! What an operator or a program asks of linked segments: which conflicts there are and who stays, and to see what was written elsewhere (P5, P6, P7).

use serde_json::Value;
use tombolo_tests::content::Content;
use tombolo_tests::linked::{BUCKET, LinkedSite, pair};
use tombolo_tests::s3::Request;
use tombolo_tests::wait;

fn path(key: &str) -> String {
    format!("{BUCKET}/{key}")
}

/// Both write `keys` without having seen each other; then they have.
fn disagree(sanfrancisco: &LinkedSite, newyork: &LinkedSite, keys: &[&str]) {
    newyork.tombolo(&["link", "pause", "sanfrancisco"]);
    for key in keys {
        sanfrancisco.put(&path(key), b"of sanfrancisco");
        newyork.put(&path(key), b"of newyork");
    }
    newyork.tombolo(&["link", "resume", "sanfrancisco"]);
    agree(sanfrancisco, newyork);
}

fn agree(sanfrancisco: &LinkedSite, newyork: &LinkedSite) {
    newyork.catch_up();
    sanfrancisco.catch_up();
}

fn conflicts(site: &LinkedSite, below: &str) -> Vec<Value> {
    site.json(&["sync", "conflicts", "list", below]).as_array().unwrap().clone()
}

/// Each way to decide, at one site through its daemon, holds at both.
#[test]
fn conflicts_are_listed_and_decided_for_both_sites() {
    let (sanfrancisco, mut newyork) = pair(&[]);
    assert_eq!(conflicts(&newyork, ""), Vec::<Value>::new());
    let keys = ["dir/mine", "dir/theirs", "both", "later"];
    disagree(&sanfrancisco, &newyork, &keys);
    let listed = conflicts(&newyork, "");
    assert_eq!(listed, conflicts(&sanfrancisco, ""));
    assert_eq!(listed.len(), keys.len(), "{listed:?}");
    assert_eq!(conflicts(&newyork, &path("dir/")).len(), 2);
    assert!(newyork.tombolo(&["sync", "conflicts", "list"]).contains("(of dir/mine)"));
    assert_eq!(conflicts(&newyork, "NewYork").len(), 0);
    let find = |key: &str| listed.iter().find(|conflict| conflict["key"] == key).unwrap();

    let losing = find("dir/theirs");
    assert_eq!((&losing["bucket"], &losing["kind"]), (&BUCKET.into(), &"file".into()));
    for (key, take) in [("dir/mine", "mine"), ("dir/theirs", "theirs"), ("both", "both")] {
        let loser = find(key)["path"].as_str().unwrap();
        let (winning, losing) = (newyork.get(&path(key)), newyork.get(loser));
        assert_ne!(winning, losing);
        newyork.tombolo(&["sync", "conflicts", "resolve", loser, "--take", take]);
        agree(&sanfrancisco, &newyork);
        for site in [&sanfrancisco, &newyork] {
            let (kept, copies) = match take {
                "mine" => (&winning, false),
                "theirs" => (&losing, false),
                _ => (&winning, true),
            };
            assert_eq!(&site.get(&path(key)), kept, "{take}");
            let copy = loser.strip_prefix(&path("")).unwrap();
            assert_eq!(site.keys(BUCKET).iter().any(|key| key == copy), copies, "{take}");
            assert!(conflicts(site, &path(key)).is_empty(), "{take}");
        }
        assert_eq!(newyork.run(&["sync", "conflicts", "resolve", loser, "--take", take]).code, Some(3));
    }

    // Without its daemon a site decides just as well.
    newyork.stop();
    let loser = find("later")["path"].as_str().unwrap();
    assert_eq!(conflicts(&newyork, "").len(), 1);
    newyork.tombolo(&["sync", "conflicts", "resolve", loser, "--take", "mine"]);
    assert_eq!(conflicts(&newyork, "").len(), 0);
    newyork.serve();
    agree(&sanfrancisco, &newyork);
    assert_eq!(conflicts(&sanfrancisco, "").len(), 0);
    assert_eq!(sanfrancisco.keys(BUCKET), newyork.keys(BUCKET));

    // Where one winner is kept, who lost is an older version of the key, which is what is resolved.
    sanfrancisco.tombolo(&["bucket", "set", BUCKET, "conflicts=last-writer-wins"]);
    newyork.catch_up();
    disagree(&sanfrancisco, &newyork, &["one"]);
    let listed = conflicts(&newyork, "");
    assert_eq!((listed.len(), &listed[0]["copy"], &listed[0]["path"]), (1, &Value::Null, &path("one").into()));
    assert!(newyork.tombolo(&["sync", "conflicts", "list"]).contains("/one  (an older version)"));
    let before = newyork.get(&path("one"));
    newyork.tombolo(&["sync", "conflicts", "resolve", &path("one"), "--take", "theirs"]);
    sanfrancisco.catch_up();
    assert_ne!(sanfrancisco.get(&path("one")), before);
    assert_eq!(conflicts(&sanfrancisco, ""), Vec::<Value>::new());
}

/// A token is of its bucket alone: what happens in others neither has to come nor holds it up. The bucket itself may have to come first.
#[test]
fn a_token_brings_the_reader_to_what_was_written() {
    let (sanfrancisco, newyork) = pair(&[]);
    sanfrancisco.tombolo(&["bucket", "create", "SanFrancisco/lab/other"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let put = |site: &LinkedSite, path: &str| {
        let token = site.tombolo(&["put", file.path().to_str().unwrap(), path, "--token"]);
        token.trim_end().to_owned()
    };
    for round in 0..10 {
        let key = path(&format!("k{round}"));
        let token = put(&sanfrancisco, &key);
        let read = newyork.run(&["get", &key, "-", "--after", &token]);
        assert_eq!(read.code, Some(0), "{}", read.stderr);
        put(&sanfrancisco, "SanFrancisco/lab/other/k");
        // It is the way back, too.
        let token = put(&newyork, &key);
        assert_eq!(
            sanfrancisco.json(&["stat", &key, "--after", &token])["segment"],
            newyork.json(&["status"])["segment"]
        );
    }
    sanfrancisco.tombolo(&["bucket", "create", "SanFrancisco/lab/new"]);
    let token = put(&sanfrancisco, "SanFrancisco/lab/new/first");
    assert!(newyork.tombolo(&["ls", "SanFrancisco/lab/new", "--after", &token]).contains("first"));

    newyork.tombolo(&["link", "pause", "sanfrancisco"]);
    let token = put(&sanfrancisco, &path("unseen"));
    let late = newyork.run(&["ls", BUCKET, "--after", &token, "--timeout", "1s"]);
    assert_eq!(late.code, Some(4), "{}", late.stderr);
    assert_eq!(newyork.run(&["ls", BUCKET, "--after", "nonsense"]).code, Some(2));
    assert_eq!(newyork.run(&["ls", "SanFrancisco/lab", "--after", &token]).code, Some(2));
    let wrong = sanfrancisco.run(&["ls", "SanFrancisco/lab/other", "--after", &token]);
    assert!(wrong.code == Some(2) && wrong.stderr.contains(BUCKET), "{}", wrong.stderr);
}

/// The same over S3: each write says what to wait for.
#[test]
fn a_header_brings_the_reader_to_what_was_written() {
    let (sanfrancisco, newyork) = pair(&[]);
    let (mut here, mut there) = (sanfrancisco.s3(sanfrancisco.user()), newyork.s3(newyork.user()));
    let mut write = |method: &'static str, body: &[u8]| {
        let request = Request { method, path: b"/data/k", body, ..Request::default() };
        let response = here.send(&request).unwrap().expect_success(method);
        response.header("x-tombolo-token").expect("a token").to_owned()
    };
    for round in 0..5 {
        let body = format!("round {round}");
        let token = write("PUT", body.as_bytes());
        let get =
            Request { method: "GET", headers: &[("x-tombolo-after", &token)], path: b"/data/k", ..Request::default() };
        assert_eq!(there.send(&get).unwrap().expect_success("the download").body, body.as_bytes());
        let token = write("DELETE", b"");
        let get =
            Request { method: "GET", headers: &[("x-tombolo-after", &token)], path: b"/data/k", ..Request::default() };
        assert_eq!(there.send(&get).unwrap().status, 404);
    }
    newyork.tombolo(&["link", "pause", "sanfrancisco"]);
    let token = write("PUT", b"unseen");
    let mut after = |token: &str| {
        let headers = [("x-tombolo-after", token), ("x-tombolo-timeout", "1")];
        there.send(&Request { method: "GET", headers: &headers, path: b"/data/k", ..Request::default() }).unwrap()
    };
    let late = after(&token);
    assert!(late.status == 503 && late.text().contains("AfterNotReached"), "{}", late.text());
    assert_eq!(after("nonsense").status, 400);
}

/// A byte of a row of metadata, changed beneath the engine while its site was down, is found by the other site at the cost of a few short messages.
#[test]
fn a_comparison_names_what_differs_and_tells_little() {
    let (sanfrancisco, mut newyork) = pair(&[]);
    let files = tempfile::tempdir().unwrap();
    for n in 0..600 {
        std::fs::write(files.path().join(format!("file-{n}")), format!("content {n}")).unwrap();
    }
    sanfrancisco.tombolo(&["import", files.path().to_str().unwrap(), &path("tree")]);
    let file = files.path().join("file-7");
    sanfrancisco.tombolo(&["put", file.to_str().unwrap(), &path("seven"), "--metadata", "colour=the-colour-red"]);
    newyork.put(&path("other"), b"of the other site");
    agree(&sanfrancisco, &newyork);
    let told = |verified: &Value| {
        let bytes = |name: &str| verified["buckets"][0][name].as_u64().unwrap();
        bytes("sent_bytes") + bytes("received_bytes")
    };
    for site in [&sanfrancisco, &newyork] {
        let verified = site.json(&["sync", "verify", BUCKET]);
        assert_eq!((&verified["equal"], &verified["buckets"][0]["outcome"]), (&true.into(), &"equal".into()));
        assert!(verified["buckets"][0]["rows"].as_u64().unwrap() > 1200, "{verified}");
        assert!(told(&verified) < 1000, "one hash stands for all: {verified}");
    }

    newyork.stop();
    let alone = sanfrancisco.run(&["sync", "verify"]).exits(4);
    assert!(alone.stdout.contains("not connected"), "{}", alone.stdout);
    damage(&newyork.dir(), b"the-colour-red");
    newyork.serve();
    sanfrancisco.catch_up();
    let verified = sanfrancisco.run(&["sync", "verify", BUCKET, "--json"]).exits(5);
    let verified: Value = serde_json::from_str(&verified.stdout).unwrap();
    let differences = verified["buckets"][0]["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 1, "{verified}");
    assert_eq!((&differences[0]["key"], &differences[0]["held"]), (&"seven".into(), &"both".into()));
    assert!(told(&verified) < 10_000, "{verified}");
    assert!(sanfrancisco.run(&["sync", "verify"]).exits(5).stdout.contains(&format!("{BUCKET}/seven: ")));

    // A link that brings nothing there leaves changes under way, which are named.
    sanfrancisco.tombolo(&["link", "set", "newyork", "direction=receive"]);
    sanfrancisco.put(&path("kept"), b"here");
    let late = newyork.run(&["sync", "verify", BUCKET, "--timeout", "0"]).exits(4);
    assert!(late.stdout.contains("unknown") && late.stdout.contains("refuses"), "{}", late.stdout);
    let late = sanfrancisco.run(&["sync", "verify", BUCKET, "--timeout", "0", "--json"]).exits(4);
    let late: Value = serde_json::from_str(&late.stdout).unwrap();
    assert_eq!(late["buckets"][0]["outcome"], "under-way", "{late}");
    assert_eq!(late["buckets"][0]["lacking_there"].as_array().unwrap().len(), 1, "{late}");
}

/// A typing error must not look like a bucket that is all here: what is not there, and what no link covers, is neither complete nor equal.
#[test]
fn nothing_is_said_of_what_nobody_carries() {
    let (_sanfrancisco, newyork) = pair(&[]);
    let verbs: [&[&str]; 3] = [&["sync", "wait", "--timeout", "60s"], &["sync", "verify"], &["sync", "status"]];
    let refused = |place: &str, words: &str| {
        for verb in verbs {
            let refused = newyork.run(&[verb, &[place, "--json"]].concat()).exits(3);
            assert!(
                refused.stdout.is_empty() && refused.stderr.contains(words),
                "{verb:?} {place}: {}",
                refused.stderr
            );
        }
    };
    for place in ["SanFrancisco/lab/dta", "SanFrancisco/lap", "SanFransisco"] {
        refused(place, "not-found");
    }
    for place in [BUCKET, "SanFrancisco/lab", "SanFrancisco"] {
        for verb in verbs {
            newyork.tombolo(&[verb, &[place]].concat());
        }
    }
    newyork.tombolo(&["link", "set", "sanfrancisco", "scope=SanFrancisco/lab/later"]);
    for place in [BUCKET, "NewYork"] {
        refused(place, "no link covers");
    }
    let nothing = newyork.run(&["sync", "verify", "--json"]).exits(3);
    assert!(nothing.stdout.contains("\"equal\":false"), "{}", nothing.stdout);
}

/// Changes one byte of the first row of metadata that has `text`.
fn damage(dir: &std::path::Path, text: &[u8]) {
    use tombolo_core::kv::{Batch, Durability, KeyRange, Space, Store, fjall::FjallStore};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = FjallStore::open(&dir.join("metadata"), 16 << 20).unwrap();
        let snapshot = store.snapshot().await.unwrap();
        let rows = snapshot.scan(Space::Nodes, KeyRange::prefix(b""), 10_000, false).await.unwrap().rows;
        let at = |row: &[u8]| row.windows(text.len()).position(|part| part == text);
        let (key, row, at) = rows.into_iter().find_map(|(key, row)| Some((key, row.to_vec(), at(&row)?))).unwrap();
        let mut damaged = row;
        damaged[at] ^= 1;
        let writes = vec![(Space::Nodes, key, Some(damaged.into()))];
        store.commit(Batch { guards: Vec::new(), writes }, Durability::Sync).await.unwrap();
    });
}

/// P8: what is on its way says how fast, and how long it will take; what is here says neither.
#[test]
fn status_says_how_fast_and_how_long() {
    let (sanfrancisco, newyork) = pair(&[]);
    sanfrancisco.tombolo(&["link", "set", "newyork", "rate=1M"]);
    let content: Vec<u8> =
        (0..12u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 31).to_le_bytes()).collect();
    sanfrancisco.put(&path("large"), &content);
    let (bucket, peer) = wait::until("a rate, and the time that is left", || {
        let status = newyork.json(&["sync", "status"]);
        let bucket = status["buckets"][0].clone();
        let peer = bucket["peers"][0].clone();
        (bucket["data_eta_s"].is_number() && peer["bytes_per_second"].is_number()).then_some((bucket, peer))
    });
    assert!(bucket["data_eta_s"].as_f64().unwrap() > 0.0, "{bucket}");
    assert!(peer["bytes_per_second"].as_f64().unwrap() > 0.0, "{peer}");
    wait::until("the same in words", || newyork.tombolo(&["sync", "status"]).contains(" left").then_some(()));
    let labels = format!("bucket=\"{BUCKET}\",peer=\"sanfrancisco\"");
    wait::until("the same as figures", || {
        newyork.metric(&format!("tombolo_sync_data_bytes_per_second{{{labels}}}")).filter(|rate| *rate > 0.0)
    });
    sanfrancisco.tombolo(&["link", "set", "newyork", "rate=none"]);
    newyork.catch_up();
    let status = newyork.json(&["sync", "status"]);
    assert!(status["buckets"][0]["data_eta_s"].is_null(), "{status}");
}

/// One pass brings what there was, and says that it is over; what comes then stays away, while what is written here goes there.
#[test]
fn an_initial_pass_ends() {
    let (sanfrancisco, newyork) = pair(&[]);
    newyork.tombolo(&["link", "pause", "sanfrancisco"]);
    sanfrancisco.put(&path("before"), &[1; 100_000]);
    newyork.tombolo(&["link", "set", "sanfrancisco", "passes=initial"]);
    newyork.tombolo(&["link", "resume", "sanfrancisco"]);
    let is_over = || (newyork.json(&["link", "show", "sanfrancisco"])["passed"] == true).then_some(());
    wait::until("the pass to be over", is_over);
    assert_eq!(newyork.get(&path("before")), [1; 100_000]);
    sanfrancisco.put(&path("after"), b"2");
    newyork.put(&path("back"), b"3");
    sanfrancisco.catch_up();
    assert_eq!(sanfrancisco.get(&path("back")), b"3");
    newyork.catch_up();
    assert_eq!(newyork.keys(BUCKET), ["back", "before"], "nothing more comes");
    assert!(newyork.tombolo(&["sync", "status"]).contains("has made its one pass"));
    // Another one.
    newyork.tombolo(&["link", "set", "sanfrancisco", "passes=initial"]);
    wait::until("the pass to be over", is_over);
    assert_eq!(newyork.keys(BUCKET), ["after", "back", "before"]);
}

/// From now on: names of all there is, and the data of what changes.
#[test]
fn a_continuous_link_leaves_out_the_data_of_the_past() {
    let (sanfrancisco, newyork) = pair(&[]);
    newyork.tombolo(&["link", "pause", "sanfrancisco"]);
    let noise = |seed: u32| -> Vec<u8> {
        (0..1u32 << 18).flat_map(|n| (n ^ seed).wrapping_mul(2_654_435_761).rotate_left(n % 31).to_le_bytes()).collect()
    };
    let (old, new) = (noise(1), noise(1 << 20));
    sanfrancisco.put(&path("old"), &old);
    newyork.tombolo(&["link", "set", "sanfrancisco", "passes=continuous"]);
    newyork.tombolo(&["link", "resume", "sanfrancisco"]);
    wait::until("the names to be here", || {
        (newyork.json(&["link", "show", "sanfrancisco"])["passed"] == true).then_some(())
    });
    let stored = || newyork.json(&["status"])["stored_bytes"].as_u64().unwrap();
    assert_eq!(newyork.keys(BUCKET), ["old"]);
    assert!(stored() < 1 << 19, "the data of the past came");
    sanfrancisco.put(&path("new"), &new);
    newyork.catch_up();
    assert!(stored() > 1 << 19, "the data of what is new did not come");
    assert!(stored() < 3 << 19, "the data of the past came");
    assert_eq!(newyork.json(&["sync", "status"])["buckets"][0]["data_complete"], Value::Null);
    assert!(newyork.get(&path("old")) == old && newyork.get(&path("new")) == new);
    // All after all.
    newyork.tombolo(&["link", "set", "sanfrancisco", "passes=both"]);
    newyork.catch_up();
    assert_eq!(newyork.json(&["sync", "status"])["buckets"][0]["data_complete"], true);
}

/// P3, P7, P8: where versions show with their data, a reader finds every byte of every name that it sees, and no later change without the earlier one; also when
/// both sides are killed half way. What waits is said.
#[test]
fn versions_show_with_their_data() {
    let (mut sanfrancisco, mut newyork) = pair(&["--visible", "whole"]);
    let link = newyork.json(&["link", "show", "sanfrancisco"]);
    assert_eq!((&link["visible"], &link["whole_patience_s"]), (&"whole".into(), &300.into()));
    assert!(newyork.tombolo(&["link", "show", "sanfrancisco"]).contains("versions show with their data"));
    assert_eq!(sanfrancisco.json(&["link", "show", "newyork"])["visible"], "early");
    sanfrancisco.tombolo(&["link", "set", "newyork", "rate=2M"]);
    let content = Content::new(1, 16 << 20).bytes();
    sanfrancisco.put(&path("large"), &content);
    sanfrancisco.put(&path("word"), b"large is there");
    let seen = |newyork: &LinkedSite| {
        let listed = newyork.json(&["ls", "-r", "-l", BUCKET]);
        let items = listed.as_array().unwrap();
        assert!(items.iter().all(|item| item["local"] == "yes"), "{listed}");
        let keys: Vec<String> = items.iter().map(|item| item["key"].as_str().unwrap().to_owned()).collect();
        assert!(keys.is_empty() || keys.contains(&"large".into()), "{keys:?}");
        keys
    };
    let waits = |newyork: &LinkedSite| {
        wait::until("the version to wait", || {
            seen(newyork);
            let status = newyork.json(&["sync", "status"]);
            (status["buckets"][0]["waiting_objects"] == 1)
                .then(|| (status["complete"].clone(), status["buckets"][0].clone()))
        })
    };
    let (complete, bucket) = waits(&newyork);
    assert_eq!((&complete, &bucket["names_complete"], &bucket["whole"]), (&false.into(), &false.into(), &true.into()));
    assert_eq!((&bucket["missing_objects"], &bucket["waiting_bytes"]), (&0.into(), &(16 << 20).into()), "{bucket}");
    assert_eq!(bucket["waiting"][0]["key"], "large");
    assert!(newyork.tombolo(&["sync", "status"]).contains("large (16.0 MiB) waits until its data is here: on its way"));
    assert_eq!(newyork.metric(&format!("tombolo_sync_waiting_objects{{bucket=\"{BUCKET}\"}}")), Some(1.0));

    newyork.kill();
    newyork.serve();
    assert!(seen(&newyork).is_empty());
    waits(&newyork);
    let address = sanfrancisco.said()["link"].as_str().unwrap().to_owned();
    sanfrancisco.kill();
    assert!(seen(&newyork).is_empty());
    assert_eq!(newyork.run(&["sync", "wait", "--timeout", "1s"]).code, Some(4));
    sanfrancisco.serve_with(&["--link", &address]);
    waits(&newyork);
    sanfrancisco.tombolo(&["link", "set", "newyork", "rate=none"]);
    let all = ["large", "word"];
    wait::until("all of it to show", || (seen(&newyork) == all).then_some(()));
    newyork.catch_up();
    assert!(newyork.get(&path("large")) == content);
    let status = newyork.json(&["sync", "status"]);
    assert_eq!(status["buckets"][0]["data_complete"], true, "{status}");
    // As it was before there was a choice.
    newyork.tombolo(&["link", "set", "sanfrancisco", "visible=early"]);
    assert_eq!(newyork.json(&["sync", "status"])["buckets"][0]["whole"], false);
}
