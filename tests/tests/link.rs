//! Two segments in processes of their own, linked through the command line as a user would link them (P3, P5, P6, P8, P10).

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use tombolo_tests::command::tombolo;
use tombolo_tests::linked::{BUCKET, LinkedSite, noise, pair};
use tombolo_tests::s3::Request;
use tombolo_tests::signature::Credentials;
use tombolo_tests::wait;

fn path(key: &str) -> String {
    format!("{BUCKET}/{key}")
}

/// Waits until `site` has a working link, or none, as `connected` says.
fn link_is(site: &LinkedSite, connected: bool) {
    wait::until("the link to come up or to go down", || {
        let links = site.json(&["link", "list"]);
        (links[0]["connected"] == connected).then_some(())
    });
}

#[test]
fn what_one_writes_the_other_reads() {
    let (sanfrancisco, newyork) = pair(&[]);
    for (site, peer) in [(&sanfrancisco, "newyork"), (&newyork, "sanfrancisco")] {
        let link = site.json(&["link", "show", peer]);
        assert_eq!(
            (&link["mode"], &link["direction"], &link["paused"]),
            (&"full".into(), &"both".into(), &false.into())
        );
        assert_eq!(site.json(&["link", "invites"]), serde_json::json!([]), "the code is used up");
        let clusters = site.json(&["cluster", "list"]);
        assert_eq!(clusters.as_array().unwrap().len(), 2, "{clusters}");
    }

    let (small, large) = (noise(1, 100), noise(2, 9 << 20));
    sanfrancisco.put(&path("small"), &small);
    sanfrancisco.put(&path("dir/large"), &large);
    newyork.catch_up();
    assert_eq!(newyork.keys(BUCKET), ["dir/large", "small"]);
    assert!(newyork.get(&path("small")) == small && newyork.get(&path("dir/large")) == large);

    let (back, bucket) = (noise(3, 3 << 20), "NewYork/lab/own");
    newyork.put(&path("back"), &back);
    newyork.tombolo(&["tenant", "create", "NewYork/lab"]);
    newyork.tombolo(&["bucket", "create", bucket]);
    newyork.put(&format!("{bucket}/k"), b"of the other cluster");
    sanfrancisco.catch_up();
    assert!(sanfrancisco.get(&path("back")) == back);
    assert_eq!(sanfrancisco.get(&format!("{bucket}/k")), b"of the other cluster");

    sanfrancisco.tombolo(&["rm", &path("back")]);
    newyork.tombolo(&["rm", "-r", &path("dir")]);
    newyork.catch_up();
    sanfrancisco.catch_up();
    assert_eq!((sanfrancisco.keys(BUCKET), newyork.keys(BUCKET)), (vec!["small".into()], vec!["small".into()]));
}

/// The catalog travels, users do not: each site has its own, who may have the same keys.
#[test]
fn one_door_writes_here_and_another_reads_there() {
    let (sanfrancisco, newyork) = pair(&[]);
    let content = noise(4, 1 << 20);
    let put = Request { method: "PUT", path: b"/data/over-s3", body: &content, ..Request::default() };
    let _ = sanfrancisco.s3(sanfrancisco.user()).send(&put).unwrap().expect_success("the upload");
    newyork.catch_up();
    let get = Request { method: "GET", path: b"/data/over-s3", ..Request::default() };
    assert!(newyork.s3(newyork.user()).send(&get).unwrap().expect_success("the download").body == content);
}

#[test]
fn status_and_metrics_say_how_far_it_is() {
    let (sanfrancisco, newyork) = pair(&[]);
    sanfrancisco.put(&path("k"), &noise(5, 2 << 20));
    newyork.catch_up();
    // What the peer has acknowledged comes a moment after it has it.
    let status = wait::until("complete status", || {
        let status = newyork.json(&["sync", "status"]);
        (status["complete"] == true).then_some(status)
    });
    let bucket = &status["buckets"][0];
    assert_eq!((&bucket["bucket"], &bucket["data_complete"]), (&BUCKET.into(), &true.into()), "{status}");
    assert_eq!((&bucket["missing_objects"], &bucket["names_complete"]), (&0.into(), &true.into()), "{status}");
    assert!(newyork.tombolo(&["sync", "status"]).contains(BUCKET));
    assert_eq!(newyork.json(&["sync", "status", "NewYork"])["buckets"], serde_json::json!([]));
    assert_eq!(newyork.metric("tombolo_link_connected{peer=\"sanfrancisco\"}"), Some(1.0));
    assert!(newyork.metric("tombolo_link_received_bytes_total{peer=\"sanfrancisco\"}").unwrap() > 2e6);
    wait::until("figures that say that all is here", || {
        let data = newyork.metric(&format!("tombolo_sync_data_complete{{bucket=\"{BUCKET}\"}}"));
        let names = format!("tombolo_sync_names_complete{{bucket=\"{BUCKET}\",peer=\"sanfrancisco\"}}");
        (data == Some(1.0) && newyork.metric(&names) == Some(1.0)).then_some(())
    });

    drop(sanfrancisco);
    link_is(&newyork, false);
    assert_eq!(newyork.json(&["sync", "status"])["complete"], false, "nobody knows what the other one has now");
    let late = newyork.run(&["sync", "wait", "--timeout", "1s"]).exits(4);
    assert!(late.stderr.contains("sanfrancisco"), "{}", late.stderr);
    assert_eq!(newyork.metric("tombolo_link_connected{peer=\"sanfrancisco\"}"), Some(0.0));
}

/// P6: of two edits of one name, made apart, both are there at both sites afterwards.
#[test]
fn a_paused_link_goes_on_where_it_was_and_nothing_is_lost() {
    let (sanfrancisco, newyork) = pair(&[]);
    newyork.tombolo(&["link", "pause", "sanfrancisco"]);
    link_is(&newyork, false);
    assert_eq!(newyork.json(&["link", "show", "sanfrancisco"])["paused"], true);
    sanfrancisco.put(&path("plan.txt"), b"as San Francisco sees it");
    newyork.put(&path("plan.txt"), b"as New York sees it");
    newyork.put(&path("other"), b"x");
    assert_eq!(newyork.run(&["sync", "wait", "--timeout", "1s"]).code, Some(4));
    assert_eq!(sanfrancisco.keys(BUCKET), ["plan.txt"]);

    newyork.tombolo(&["link", "resume", "sanfrancisco"]);
    newyork.catch_up();
    sanfrancisco.catch_up();
    let keys = newyork.keys(BUCKET);
    assert_eq!(keys, sanfrancisco.keys(BUCKET));
    let plans: Vec<_> = keys.iter().filter(|key| key.starts_with("plan")).collect();
    assert_eq!(plans.len(), 2, "{keys:?}");
    assert!(keys.iter().any(|key| key.starts_with("plan (conflict ") && key.ends_with(").txt")), "{keys:?}");
    for site in [&sanfrancisco, &newyork] {
        let mut contents: Vec<_> = plans.iter().map(|key| site.get(&path(key))).collect();
        contents.sort();
        assert_eq!(contents, [b"as New York sees it".to_vec(), b"as San Francisco sees it".to_vec()]);
    }
}

#[test]
fn links_survive_the_death_of_both() {
    let (mut sanfrancisco, mut newyork) = pair(&[]);
    sanfrancisco.put(&path("before"), b"1");
    newyork.catch_up();
    let address = sanfrancisco.said()["link"].as_str().unwrap().to_owned();
    sanfrancisco.kill();
    newyork.kill();
    // Without daemons the commands that concern the list alone work on the directory; the others say what they need.
    assert_eq!(newyork.json(&["link", "list"])[0]["name"], "sanfrancisco");
    assert!(newyork.run(&["sync", "status"]).exits(1).stderr.contains("tombolo serve"));
    assert!(newyork.run(&["link", "accept", "tombolo1-x"]).exits(1).stderr.contains("tombolo serve"));
    newyork.put(&path("alone"), b"2");

    sanfrancisco.serve_with(&["--link", &address]);
    // It has no address of its own to listen on, and dials all the same.
    newyork.serve_with(&[]);
    sanfrancisco.catch_up();
    newyork.catch_up();
    assert_eq!(sanfrancisco.keys(BUCKET), ["alone", "before"]);
    assert_eq!((sanfrancisco.get(&path("alone")), newyork.get(&path("before"))), (b"2".to_vec(), b"1".to_vec()));
    sanfrancisco.stop();
    newyork.stop();
}

/// P10: names without data, data when it is read, and an error of its own when nobody has it.
#[test]
fn metadata_brings_names_and_reads_bring_data() {
    let (mut sanfrancisco, newyork) = pair(&["--mode", "metadata"]);
    let (read, unread) = (noise(6, 5 << 20), noise(7, 5 << 20));
    sanfrancisco.put(&path("read"), &read);
    sanfrancisco.put(&path("unread"), &unread);
    newyork.catch_up();
    assert_eq!(newyork.keys(BUCKET), ["read", "unread"]);
    let stored = |site: &LinkedSite| site.json(&["status"])["stored_bytes"].as_u64().unwrap();
    assert!(stored(&newyork) < 5 << 20, "no data came by itself");
    let status = newyork.json(&["sync", "status"]);
    assert_eq!(status["buckets"][0]["data_complete"], serde_json::Value::Null, "{status}");
    assert!(newyork.get(&path("read")) == read);

    sanfrancisco.stop();
    link_is(&newyork, false);
    assert!(newyork.get(&path("read")) == read, "what was read once is here");
    let _ = newyork.run(&["get", &path("unread"), "-"]).exits(4);
    assert_eq!(newyork.keys(BUCKET), ["read", "unread"], "a name is not gone for that");
}

#[test]
fn a_code_counts_once_and_can_be_withdrawn() {
    let (sanfrancisco, newyork) = pair(&["--scope", "SanFrancisco/lab"]);
    let mut boston = LinkedSite::new("boston", "Boston");
    boston.serve_with(&[]);
    let refused = boston.run(&["link", "invite"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("--link"), "{refused:?}");
    let invite = || sanfrancisco.json(&["link", "invite", "--scope", BUCKET])["code"].as_str().unwrap().to_owned();

    let withdrawn = invite();
    let id = sanfrancisco.json(&["link", "invites"])[0]["id"].as_str().unwrap().to_owned();
    sanfrancisco.tombolo(&["link", "cancel", &id]);
    assert_eq!(boston.run(&["link", "accept", &withdrawn]).code, Some(1));
    let used = invite();
    boston.tombolo(&["link", "accept", &used, "--direction", "receive"]);
    let twice = newyork.run(&["link", "accept", &used]);
    assert_eq!(twice.code, Some(1), "{}", twice.stderr);
    assert_eq!(boston.run(&["link", "accept", "tombolo1-aaaa"]).code, Some(2));

    sanfrancisco.tombolo(&["link", "set", "boston", "rate=10M"]);
    assert_eq!(sanfrancisco.json(&["link", "show", "boston"])["rate_bytes_per_second"], 10 << 20);
    assert_eq!(sanfrancisco.run(&["link", "set", "boston", "rate=fast"]).code, Some(2));
    sanfrancisco.tombolo(&["link", "delete", "boston"]);
    assert_eq!(sanfrancisco.run(&["link", "show", "boston"]).code, Some(3));
    assert_eq!(sanfrancisco.json(&["link", "list"]).as_array().unwrap().len(), 1);
}

/// A process that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Already gone is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The demo is what it says: what is written at one site is read at the other, also after it was started a second time.
#[test]
fn the_demo_links_two_sites() {
    let root = tempfile::tempdir().unwrap();
    for start in ["first", "second"] {
        let mut command = tombolo(["demo", "--json", "--port-base", "0", "--no-mount", "--dir"]);
        let mut demo = Killed(command.arg(root.path()).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(demo.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let client = |site: usize| {
            let keys = Credentials { access_key: text(&said["access_key"]), secret_key: text(&said["secret_key"]) };
            let url = text(&said["sites"][site]["s3"]);
            tombolo_tests::s3::Client::new(url.strip_prefix("http://").unwrap().parse().unwrap(), keys)
        };
        let key = format!("/data/{start}");
        let put = Request { method: "PUT", path: key.as_bytes(), body: b"across", ..Request::default() };
        let _ = client(0).send(&put).unwrap().expect_success("the upload");
        let newyork = text(&said["sites"][1]["dir"]);
        tombolo_tests::command::run(&mut tombolo(["--dir", &newyork, "sync", "wait"])).success();
        let get = Request { method: "GET", path: key.as_bytes(), ..Request::default() };
        assert_eq!(client(1).send(&get).unwrap().expect_success("the download").body, b"across");
        let process = rustix::process::Pid::from_child(&demo.0);
        rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
        let status = wait::until("the demo to end", || demo.0.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}
