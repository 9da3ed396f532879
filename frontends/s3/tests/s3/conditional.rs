//! Conditions on reads and writes, and their races.

use crate::client::*;

#[tokio::test]
async fn reads_answer_304_and_412_in_the_order_of_the_reference() {
    let door = Door::open().await;
    let client = door.client();
    client.put(&path("k")).header("cache-control", "max-age=1").body("x").send().await.ok();
    let etag = client.head(&path("k")).send().await.header("etag").unwrap().to_owned();
    let (past, future) = ("Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT");
    for (headers, status) in [
        (&[("if-match", etag.as_str())][..], 200),
        (&[("if-match", "*")], 200),
        (&[("if-match", "\"x\"")], 412),
        (&[("if-none-match", etag.as_str())], 304),
        (&[("if-none-match", "\"x\"")], 200),
        (&[("if-none-match", &format!("\"x\", W/{etag}"))], 304),
        (&[("if-modified-since", past)], 200),
        (&[("if-modified-since", future)], 304),
        (&[("if-modified-since", "not a date")], 200),
        (&[("if-unmodified-since", past)], 412),
        (&[("if-unmodified-since", future)], 200),
        (&[("if-match", etag.as_str()), ("if-unmodified-since", past)], 200),
        (&[("if-none-match", etag.as_str()), ("if-modified-since", past)], 304),
        (&[("if-none-match", "\"x\""), ("if-modified-since", future)], 200),
    ] {
        for verb in [Client::get, Client::head] {
            let request = headers.iter().fold(verb(&client, &path("k")), |request, (k, v)| request.header(k, v));
            let reply = request.send().await;
            assert_eq!(reply.status, status, "{headers:?}");
            if status == 304 {
                assert!(reply.body.is_empty());
                assert_eq!(reply.header("etag"), Some(etag.as_str()));
                assert_eq!(reply.header("cache-control"), Some("max-age=1"));
            }
        }
    }
}

#[tokio::test]
async fn writes_happen_only_when_their_condition_holds() {
    let door = Door::open().await;
    let client = door.client();
    let put =
        |body: &'static str, name: &str, value: &str| client.put(&path("k")).header(name, value).body(body).send();
    put("a", "if-match", "\"x\"").await.refused(404, "NoSuchKey");
    put("a", "if-none-match", "*").await.ok();
    put("b", "if-none-match", "*").await.refused(412, "PreconditionFailed");
    let etag = format!("\"{}\"", hex(&md5(b"a")));
    put("b", "if-match", "\"0123\"").await.refused(412, "PreconditionFailed");
    assert_eq!(client.get(&path("k")).send().await.body, "a", "a refused write changes nothing");
    put("b", "if-match", &etag).await.ok();
    put("c", "if-match", &etag).await.refused(412, "PreconditionFailed");

    let delete = |name: &str, value: &str| client.delete(&path("k")).header(name, value).send();
    delete("if-match", &etag).await.refused(412, "PreconditionFailed");
    delete("x-amz-if-match-size", "2").await.refused(412, "PreconditionFailed");
    delete("x-amz-if-match-last-modified-time", "Thu, 01 Jan 1970 00:00:00 GMT")
        .await
        .refused(412, "PreconditionFailed");
    assert_eq!(client.get(&path("k")).send().await.body, "b");
    assert_eq!(delete("x-amz-if-match-size", "1").await.status, 204);

    // Large enough to take the streaming path.
    let large = noise(200_000, 1);
    client.put(&path("k")).header("if-none-match", "*").body(large.clone()).send().await.ok();
    client
        .put(&path("k"))
        .header("if-none-match", "*")
        .body(noise(200_000, 2))
        .send()
        .await
        .refused(412, "PreconditionFailed");
    assert_eq!(client.get(&path("k")).send().await.body, large);

    let copy = |name: &str, value: &str| {
        client.put(&path("copy")).header("x-amz-copy-source", "bucket/k").header(name, value).send()
    };
    copy("if-match", "*").await.refused(404, "NoSuchKey");
    copy("if-none-match", "*").await.ok();
    copy("if-none-match", "*").await.refused(412, "PreconditionFailed");
}

#[tokio::test]
async fn of_many_writers_of_one_new_key_one_wins() {
    let door = Door::open().await;
    for round in 0..5 {
        let key = path(&format!("log/{round}.json"));
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let request = door.client().put(&key).header("if-none-match", "*").body(format!("writer {writer}"));
                tokio::spawn(request.send())
            })
            .collect();
        let mut won = Vec::new();
        for (writer, reply) in writers.into_iter().enumerate() {
            let reply = reply.await.unwrap();
            match reply.status {
                200 => won.push(writer),
                412 | 409 => {}
                other => panic!("{other}: {}", reply.text()),
            }
        }
        assert_eq!(won.len(), 1, "{won:?}");
        assert_eq!(door.client().get(&key).send().await.ok().body, format!("writer {}", won[0]));
    }
}

#[tokio::test]
async fn compare_and_swap_loses_no_update() {
    let door = Door::open().await;
    door.client().put(&path("counter")).body("0").send().await.ok();
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let client = door.client();
            tokio::spawn(async move {
                let mut done = 0;
                while done < 5 {
                    let now = client.get(&path("counter")).send().await.ok();
                    let value: u32 = now.text().parse().unwrap();
                    let etag = now.header("etag").unwrap().to_owned();
                    let put = client
                        .put(&path("counter"))
                        .header("if-match", &etag)
                        .body((value + 1).to_string())
                        .send()
                        .await;
                    match put.status {
                        200 => done += 1,
                        412 | 409 => {}
                        other => panic!("{other}: {}", put.text()),
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(door.client().get(&path("counter")).send().await.text(), "20");
}

#[tokio::test]
async fn of_many_completed_uploads_of_one_new_key_one_wins() {
    let door = Door::open().await;
    let mut completing = Vec::new();
    for writer in 0..4 {
        let client = door.client();
        let id = client.post(&path("k")).query("uploads", "").send().await.ok().xml("UploadId");
        let part =
            client.put(&path("k")).query("partNumber", "1").query("uploadId", &id).body(format!("writer {writer}"));
        let etag = part.send().await.ok().header("etag").unwrap().to_owned();
        let xml = format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
        );
        completing.push(client.post(&path("k")).query("uploadId", &id).header("if-none-match", "*").body(xml));
    }
    let completing: Vec<_> = completing.into_iter().map(|request| tokio::spawn(request.send())).collect();
    let mut won = Vec::new();
    for (writer, reply) in completing.into_iter().enumerate() {
        let reply = reply.await.unwrap();
        match reply.status {
            200 => won.push(writer),
            412 | 409 => {}
            other => panic!("{other}: {}", reply.text()),
        }
    }
    assert_eq!(won.len(), 1);
    assert_eq!(door.client().get(&path("k")).send().await.ok().body, format!("writer {}", won[0]));
}

#[tokio::test]
async fn readers_see_whole_versions_while_a_key_is_overwritten() {
    let door = Door::open().await;
    fn version(seed: u8) -> bytes::Bytes {
        vec![seed; 300_000 + usize::from(seed)].into()
    }
    let put = |client: Client, seed: u8| async move {
        client.put(&path("k")).header("x-amz-meta-seed", &seed.to_string()).body(version(seed)).send().await.ok();
    };
    put(door.client(), 0).await;
    let client = door.client();
    let writing = tokio::spawn(async move {
        for seed in 1..20 {
            put(client.clone(), seed).await;
        }
    });
    let mut seen = 0;
    while !writing.is_finished() || seen == 0 {
        let get = door.client().get(&path("k")).send().await.ok();
        let seed: u8 = get.header("x-amz-meta-seed").unwrap().parse().unwrap();
        assert_eq!(get.body, version(seed), "content and metadata belong together");
        seen += 1;
    }
    writing.await.unwrap();
}
