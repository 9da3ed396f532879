//! Sites on hosts of their own, joined by cables that are cut without a word (P5, P6, P8, P9, P11): a star, a ring, an edge that gathers, and a
//! transfer whose ends are killed.
//! Network namespaces need root: without it these tests say that they were left out.

use std::net::SocketAddr;
use tombolo_tests::linked::{BUCKET, LinkedSite, noise};
use tombolo_tests::network::{Host, Network};
use tombolo_tests::nfs::Nfs;
use tombolo_tests::s3::{Client, Request};
use tombolo_tests::wait;

const LINK_PORT: u16 = 7000;
const NFS_PORT: u16 = 2049;

fn path(key: &str) -> String {
    format!("{BUCKET}/{key}")
}

/// A new site on a host of its own.
fn site(network: &mut Network, name: &str, cluster: &str) -> (LinkedSite, Host) {
    let host = network.host();
    (LinkedSite::new(name, cluster).on(&host), host)
}

/// Starts the site's server with links and NFS, to this network alone, and `more`.
fn serve(site: &mut LinkedSite, host: &Host, more: &[&str]) {
    let (link, nfs) = (format!("{}:{LINK_PORT}", host.address), format!("{}:{NFS_PORT}", host.address));
    let export = format!("/{BUCKET}:client=10.213.0.0/16,insecure,no_root_squash");
    site.serve_with(&[&["--link", &link, "--nfs", &nfs, "--nfs-export", &export][..], more].concat());
}

/// Makes the bucket at `site`.
fn make_bucket(site: &LinkedSite) {
    site.tombolo(&["tenant", "create", "SanFrancisco/lab"]);
    site.tombolo(&["bucket", "create", BUCKET]);
}

/// Links `to`, which dials, with `from`, and waits until the bucket is there.
fn link(from: &LinkedSite, host: &Host, to: &LinkedSite, accept: &[&str]) {
    let address = format!("{}:{LINK_PORT}", host.address);
    let invite = from.json(&["link", "invite", "--address", &address]);
    let code = invite["code"].as_str().expect("a code");
    to.tombolo(&[&["link", "accept", code], accept].concat());
    wait::until("the bucket at the other site", || (to.run(&["bucket", "show", BUCKET]).code == Some(0)).then_some(()));
}

fn nfs(host: &Host) -> (Nfs, Vec<u8>) {
    let mut client = Nfs::connect(SocketAddr::from((host.address, NFS_PORT)));
    let root = client.mount(&format!("/{BUCKET}")).expect("the export is mounted");
    (client, root)
}

fn get(client: &mut Client, key: &str) -> Option<Vec<u8>> {
    let path = format!("/data/{key}");
    let response =
        client.send(&Request { method: "GET", path: path.as_bytes(), ..Request::default() }).expect("an answer");
    (response.status == 200).then_some(response.body)
}

/// Waits until `site` says whether its link to `peer` is up.
fn link_is(site: &LinkedSite, peer: &str, connected: bool) {
    wait::until("the link to come up or to go down", || {
        (site.json(&["link", "show", peer])["connected"] == connected).then_some(())
    });
}

/// Two laboratories and a hub between them that has names only. What one writes over NFS the other reads over S3; with the cable of one cut, both go on
/// writing and deleting, and agree when it is mended.
#[test]
fn a_star_survives_a_cut_cable() {
    let Some(mut network) = Network::new() else { return };
    let (mut hub, hub_host) = site(&mut network, "hub", "Hub");
    let (mut sanfrancisco, sanfrancisco_host) = site(&mut network, "sanfrancisco", "SanFrancisco");
    let (mut newyork, newyork_host) = site(&mut network, "newyork", "NewYork");
    make_bucket(&sanfrancisco);
    serve(&mut hub, &hub_host, &[]);
    serve(&mut sanfrancisco, &sanfrancisco_host, &[]);
    serve(&mut newyork, &newyork_host, &[]);
    link(&sanfrancisco, &sanfrancisco_host, &hub, &["--mode", "metadata"]);
    link(&hub, &hub_host, &newyork, &[]);
    let mut reader = newyork.s3(newyork.user());

    let run = noise(1, 3 << 20);
    let (mut client, root) = nfs(&sanfrancisco_host);
    let directory = client.mkdir(&root, "runs", 0o755).unwrap();
    let file = client.create(&directory, "one", 0o644).unwrap();
    for (number, part) in run.chunks(1 << 20).enumerate() {
        client.write(&file, (number as u64) << 20, part, 0).unwrap();
    }
    client.commit(&file).unwrap();
    wait::until("the file at the other laboratory", || {
        let read = get(&mut reader, "runs/one").filter(|read| read.len() == run.len())?;
        assert!(read == run, "other bytes than were written");
        Some(())
    });

    // Both have these; one is deleted at each side of the cut, and both write.
    for key in ["mine", "yours", "both"] {
        sanfrancisco.put(&path(key), b"before");
    }
    wait::until("all of it at the other laboratory", || {
        newyork.keys(BUCKET).contains(&"yours".to_owned()).then_some(())
    });
    newyork_host.cut();
    // Nobody closes anything: that it is down is found out.
    link_is(&newyork, "hub", false);
    link_is(&hub, "newyork", false);
    sanfrancisco.tombolo(&["rm", &path("mine")]);
    newyork.tombolo(&["rm", &path("yours")]);
    sanfrancisco.put(&path("both"), b"of San Francisco");
    newyork.put(&path("both"), b"of New York, longer");
    sanfrancisco.put(&path("new-here"), &noise(2, 100_000));
    newyork.put(&path("new-there"), &noise(3, 100_000));
    assert_eq!(newyork.run(&["sync", "wait", "--timeout", "1s"]).code, Some(4), "nobody knows what the others have");
    newyork_host.mend();
    wait::until("both to agree", || {
        let keys = sanfrancisco.keys(BUCKET);
        let have_met = keys.iter().any(|key| key == "new-there") && keys == newyork.keys(BUCKET);
        have_met.then_some(())
    });
    let keys = newyork.keys(BUCKET);
    assert!(keys.iter().any(|key| key.starts_with("both (conflict ")), "{keys:?}");
    assert!(!keys.iter().any(|key| key == "mine" || key == "yours"), "{keys:?}");
    for key in keys.iter().filter(|key| !key.ends_with('/')) {
        // The other one's may be on its way.
        let own = sanfrancisco.get(&path(key));
        wait::until("the same bytes at both", || (get(&mut reader, key)? == own).then_some(()));
    }
}

/// Each of three is linked to the two others. Between two of them packets get lost; what they write takes the other way.
#[test]
fn a_ring_goes_on_with_a_link_less() {
    let Some(mut network) = Network::new() else { return };
    let (mut one, one_host) = site(&mut network, "one", "SanFrancisco");
    let (mut two, two_host) = site(&mut network, "two", "NewYork");
    let (mut three, three_host) = site(&mut network, "three", "Geneva");
    make_bucket(&one);
    serve(&mut one, &one_host, &[]);
    serve(&mut two, &two_host, &[]);
    serve(&mut three, &three_host, &[]);
    link(&one, &one_host, &two, &[]);
    link(&two, &two_host, &three, &[]);
    link(&three, &three_host, &one, &[]);
    let (content, back) = (noise(4, 1 << 20), noise(5, 1 << 20));
    one_host.part_from(&two_host);
    one.put(&path("there"), &content);
    two.put(&path("back"), &back);
    let (mut at_one, mut at_two) = (one.s3(one.user()), two.s3(two.user()));
    wait::until("what went the other way round", || (get(&mut at_two, "there")? == content).then_some(()));
    wait::until("what came the other way round", || (get(&mut at_one, "back")? == back).then_some(()));
    link_is(&one, "two", false);
    assert!(one.json(&["link", "show", "three"])["connected"] == true);
}

/// An edge writes through a mount and gathers: its data goes to the centre, which only receives. What the edge reads again comes back, and nothing that is made
/// at the centre goes to the edge.
#[test]
fn an_edge_gathers_and_its_centre_only_receives() {
    let Some(mut network) = Network::new() else { return };
    let (mut edge, edge_host) = site(&mut network, "edge", "SanFrancisco");
    let (mut centre, centre_host) = site(&mut network, "centre", "NewYork");
    make_bucket(&edge);
    let point = edge.beside("mnt");
    std::fs::create_dir(&point).unwrap();
    serve(&mut edge, &edge_host, &["--mount", &format!("{BUCKET}={}", point.display())]);
    serve(&mut centre, &centre_host, &[]);
    let address = format!("{}:{LINK_PORT}", centre_host.address);
    let invite = centre.json(&["link", "invite", "--address", &address]);
    let accept = ["--mode", "gather", "--direction", "send"];
    edge.tombolo(&[&["link", "accept", invite["code"].as_str().unwrap()], &accept[..]].concat());
    edge.tombolo(&["link", "set", "centre", "gather-delay=0s"]);

    let frames: Vec<Vec<u8>> = (0..3).map(|n| noise(10 + n, 2 << 20)).collect();
    for (number, frame) in frames.iter().enumerate() {
        std::fs::write(point.join(format!("frame-{number}")), frame).unwrap();
    }
    wait::until("the data at the centre", || {
        let all = (0..3).all(|n| centre.run(&["stat", &path(&format!("frame-{n}"))]).code == Some(0));
        (all && centre.json(&["sync", "status"])["buckets"][0]["data_complete"] == true).then_some(())
    });
    wait::until("the edge to give its data up", || {
        let shown = edge.json(&["stat", &path("frame-0")]);
        (shown["local_bytes"] == 0).then_some(())
    });
    assert!(std::fs::read(point.join("frame-0")).unwrap() == frames[0], "it comes back when it is read");
    centre.put(&path("of-the-centre"), b"stays there");
    for (number, frame) in frames.iter().enumerate() {
        assert!(centre.get(&path(&format!("frame-{number}"))) == *frame);
    }
    assert!(!edge.keys(BUCKET).contains(&"of-the-centre".to_owned()), "the edge only sends");
    edge.stop();
}

/// Both ends of a slow transfer are killed in the middle of it, one after the other. It goes on where it was: about what there is crosses the cable, not
/// a multiple of it.
#[test]
fn a_transfer_goes_on_after_both_ends_were_killed() {
    const FILE_BYTES: usize = 24 << 20;
    let Some(mut network) = Network::new() else { return };
    let (mut sanfrancisco, sanfrancisco_host) = site(&mut network, "sanfrancisco", "SanFrancisco");
    let (mut newyork, newyork_host) = site(&mut network, "newyork", "NewYork");
    make_bucket(&sanfrancisco);
    serve(&mut sanfrancisco, &sanfrancisco_host, &[]);
    serve(&mut newyork, &newyork_host, &[]);
    link(&sanfrancisco, &sanfrancisco_host, &newyork, &[]);
    newyork_host.limit(40);
    let before = newyork_host.received_bytes();
    let content = noise(20, FILE_BYTES);
    sanfrancisco.put(&path("large"), &content);
    let has_come = |quarters: u64| {
        wait::until("a part of it", || {
            (newyork_host.received_bytes() - before > quarters * (FILE_BYTES as u64 / 4)).then_some(())
        });
    };
    has_come(1);
    newyork.kill();
    serve(&mut newyork, &newyork_host, &[]);
    assert_ne!(newyork.json(&["sync", "status"])["complete"], true, "most of it is not here");
    has_come(2);
    sanfrancisco.kill();
    serve(&mut sanfrancisco, &sanfrancisco_host, &[]);
    newyork.catch_up();
    let crossed = newyork_host.received_bytes() - before;
    assert!(newyork.get(&path("large")) == content);
    // What was under way or not yet on disk when they died comes twice: some windows of chunks at most.
    assert!(crossed < (FILE_BYTES as u64) * 8 / 5, "{crossed} bytes crossed the cable for {FILE_BYTES}");
}
