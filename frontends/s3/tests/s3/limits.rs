//! What hostile or clumsy clients can't do.

use crate::client::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tombolo_core::OpenOptions;
use tombolo_s3::S3Limits;

#[tokio::test]
async fn bodies_above_the_limits_are_refused() {
    let door = Door::with(S3Limits { xml_bytes_max: 1000, put_bytes_max: 100_000, ..Default::default() }).await;
    let client = door.client();
    client.put(&path("k")).body(noise(100_001, 1)).send().await.refused(400, "EntityTooLarge");
    client.put(&path("k")).body(noise(100_000, 1)).send().await.ok();
    let long = format!("<Delete><Object><Key>{}</Key></Object></Delete>", "k".repeat(1000));
    client
        .post(&format!("/{BUCKET}"))
        .query("delete", "")
        .body(long)
        .send()
        .await
        .refused(400, "MaxMessageLengthExceeded");
    let framed =
        client.put(&path("big")).body(noise(100_001, 1)).chunked(65_536, &[("x-amz-checksum-crc32", "AAAAAA==")]);
    framed.send().await.refused(400, "EntityTooLarge");
    assert_eq!(door.keys().await, ["k"]);
}

#[tokio::test]
async fn a_client_that_stalls_is_let_go() {
    let limits = S3Limits { body_timeout: std::time::Duration::from_millis(200), ..Default::default() };
    let door = Door::with(limits).await;
    let request = door.client().put(&path("k")).hash("UNSIGNED-PAYLOAD").build();
    let mut head = format!("PUT {} HTTP/1.1\r\ncontent-length: 100\r\n", request.uri());
    for (name, value) in request.headers() {
        head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    stream.write_all(format!("{head}\r\nhalf").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("RequestTimeout"), "{answer}");
}

#[tokio::test]
async fn a_client_that_never_asks_is_let_go() {
    let door =
        Door::with(S3Limits { header_timeout: std::time::Duration::from_millis(200), ..Default::default() }).await;
    // Also who says nothing at all, or begins as HTTP/2 does.
    for start in [&b"GET / HT"[..], b"", b"PRI * HTTP/2.0\r\n"] {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream.write_all(start).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    door.client().get("/").send().await.ok();
}

#[tokio::test]
async fn connections_above_the_limit_wait_for_their_turn() {
    let door = Door::with(S3Limits { connections_max: 2, ..Default::default() }).await;
    let (one, two) = (TcpStream::connect(door.address).await.unwrap(), TcpStream::connect(door.address).await.unwrap());
    // Both slots are taken as soon as a third connection, open but not accepted, gets no answer to its request.
    let waiting = tokio::spawn(door.client().get("/").send());
    drop((one, two));
    assert_eq!(waiting.await.unwrap().status, 200);
}

#[tokio::test]
async fn noise_on_the_socket_is_survived() {
    let door = Door::open().await;
    for seed in 0..20 {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        let _ = stream.write_all(&noise(2000, seed)).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    for uri in [
        "/%ff",
        "/bucket/%ff%fe",
        "/bucket?uploads&uploadId=x&partNumber=99999999999",
        "/bucket/k?versionId=%00",
        "/bucket?list-type=2&max-keys=99999999999999",
    ] {
        let reply = door.client().get(uri).sign(Sign::Not).send().await;
        assert!((400..500).contains(&reply.status), "{uri}: {}", reply.status);
    }
    door.client().get("/").send().await.ok();
}

#[tokio::test]
async fn an_early_refusal_reaches_a_client_that_is_still_sending() {
    let door = Door::open().await;
    for size in [1000, 200_000] {
        let reply = door.client().put("/missing-bucket/k").body(noise(size, 1)).send().await;
        reply.refused(404, "NoSuchBucket");
    }
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    use http_body_util::BodyExt;
    let door = Door::open().await;
    let stream = TcpStream::connect(door.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    for i in 0..50 {
        let body = noise(i * 100, 1);
        let put = sender.send_request(door.client().put(&path("k")).body(body.clone()).build()).await.unwrap();
        assert_eq!(put.status(), 200);
        put.into_body().collect().await.unwrap();
        let get = sender.send_request(door.client().get(&path("k")).build()).await.unwrap();
        assert_eq!(get.into_body().collect().await.unwrap().to_bytes(), body);
        // An error in between must not cost the connection.
        let missing = sender.send_request(door.client().put("/missing-bucket/k").body(body).build()).await.unwrap();
        assert_eq!(missing.status(), 404);
        missing.into_body().collect().await.unwrap();
    }
    driving.abort();
}

/// P13: a client that takes nothing of its answer held its slot for ever.
#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_let_go() {
    let limits =
        S3Limits { connections_max: 1, body_timeout: std::time::Duration::from_millis(300), ..Default::default() };
    let door = Door::with(limits).await;
    let client = door.client();
    // More than the sockets' buffers hold.
    client.put(&path("large")).body(noise(32 << 20, 1)).send().await.ok();
    let stuck = client.get(&path("large")).stuck().await;
    assert_eq!(client.head(&path("large")).send().await.status, 200);
    drop(stuck);
}

/// P12: uploads whose clients stood still kept all memory for contents on their way in, and others waited until they were let go.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stand_still_hold_up_nobody_else() {
    let minutes = std::time::Duration::from_secs(600);
    let open = OpenOptions { write_buffer_bytes: 8 << 20, ..Default::default() };
    let door = Door::over(open, S3Limits { body_timeout: minutes, ..Default::default() }).await;
    let client = door.client();
    let content = noise(3 << 20, 1);
    let (first, rest) = content.split_at(5 << 19);
    let mut standing = Vec::new();
    for n in 0..10 {
        let request = client.put(&path(&format!("standing/{n}"))).hash("UNSIGNED-PAYLOAD").build();
        let length = content.len();
        let mut head = format!("PUT {} HTTP/1.1\r\ncontent-length: {length}\r\nconnection: close\r\n", request.uri());
        for (name, value) in request.headers() {
            head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
        }
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        stream.write_all(first).await.unwrap();
        standing.push(stream);
    }
    let running = client.put(&path("running")).body(noise(16 << 20, 2)).send();
    tokio::time::timeout(minutes / 10, running).await.unwrap().ok();
    for (n, mut stream) in standing.into_iter().enumerate() {
        stream.write_all(rest).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        assert_eq!(client.get(&path(&format!("standing/{n}"))).send().await.ok().body, content);
    }
}
