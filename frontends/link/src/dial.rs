//! Making connections: dialling, taking, saying hello, getting to know each other by a code.

use crate::hub::{Hub, Input, Peer};
use crate::invite::{Code, InviteOptions};
use crate::links::{self, Direction, Link, Mode, Passes, Visible};
use crate::outbox::Outbox;
use crate::scope::Scope;
use crate::wire::{self, Hello, Role};
use crate::{Fingerprint, fetch, rotate, session, tls};
use bytes::Bytes;
use rand::Rng;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tokio_util::io::InspectReader;
use tombolo_core::{Error, ErrorKind, Result, SegmentId};

/// Deltas for one peer that may be in memory, cut and not written.
const CUTS_MAX: usize = 4;
const REDIAL_MIN: Duration = Duration::from_millis(100);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection whose keys are proven.
struct Proven {
    stream: Box<dyn Stream>,
    fingerprint: Fingerprint,
    /// The key that this side has proved.
    own: Fingerprint,
    address: SocketAddr,
}

pub(crate) fn unix_time() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "codes expire by the wall clock; the core's own clock is for stamps")]
    let now = SystemTime::now();
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn hello(hub: &Hub, role: Role) -> Hello {
    Hello {
        version_min: *wire::VERSIONS.start(),
        version_max: *wire::VERSIONS.end(),
        segment: Bytes::copy_from_slice(&hub.segment.id().0),
        name: hub.segment.name().to_owned(),
        role: role.into(),
        run: hub.run,
        ..Hello::default()
    }
}

/// Reads the other side's hello, and holds it against what this build speaks.
async fn greeting(stream: &mut (impl AsyncRead + Unpin)) -> Result<Hello> {
    let (hello, _) = wire::read::<Hello>(stream, wire::HELLO_BYTES_MAX)
        .await?
        .ok_or_else(|| Error::new(ErrorKind::Offline, "the other side has closed the connection"))?;
    if !hello.refusal.is_empty() {
        let reason: String = hello.refusal.chars().take(500).collect();
        return Err(Error::new(ErrorKind::Denied, format!("the other side refuses: {reason}")));
    }
    if hello.version_max < *wire::VERSIONS.start() || hello.version_min > *wire::VERSIONS.end() {
        let message = format!(
            "the other side speaks versions {} to {} of the link protocol, this build {} to {}",
            hello.version_min,
            hello.version_max,
            wire::VERSIONS.start(),
            wire::VERSIONS.end()
        );
        return Err(Error::invalid(message));
    }
    Ok(hello)
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), hello: &Hello) -> Result<()> {
    stream.write_all(&wire::encode(hello)).await.map_err(wire::broken)?;
    stream.flush().await.map_err(wire::broken)
}

async fn refuse(hub: &Hub, stream: &mut (impl AsyncWrite + Unpin), reason: &str) -> Result<()> {
    let refusal = Hello { refusal: reason.into(), ..hello(hub, Role::Control) };
    say(stream, &refusal).await?;
    // The refusal is what counts.
    let _ = stream.shutdown().await;
    Err(Error::new(ErrorKind::Denied, reason.to_owned()))
}

async fn connect(hub: &Hub, address: &str, expected: Fingerprint) -> Result<Proven> {
    let unreachable =
        |e: std::io::Error| Error::new(ErrorKind::Offline, format!("{address} can't be reached")).because(e);
    let identity = hub.identity();
    let connector = tls::connector(&identity, expected)?;
    let connecting = async {
        let mut failure = None;
        for target in lookup_host(address).await.map_err(unreachable)? {
            match TcpStream::connect(target).await {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(unreachable)?;
                    let stream = connector.connect(tls::server_name()?, stream).await.map_err(unreachable)?;
                    let fingerprint = tls::fingerprint_of(stream.get_ref().1.peer_certificates())
                        .ok_or_else(|| Error::new(ErrorKind::Denied, format!("{address} proves no key")))?;
                    return Ok(Proven {
                        stream: Box::new(stream),
                        fingerprint,
                        own: identity.fingerprint(),
                        address: target,
                    });
                }
                Err(error) => failure = Some(unreachable(error)),
            }
        }
        Err(failure.unwrap_or_else(|| Error::new(ErrorKind::Offline, format!("{address} is no address"))))
    };
    timeout(hub.limits.greeting_timeout, connecting)
        .await
        .map_err(|_| Error::new(ErrorKind::Offline, format!("{address} does not answer")))?
}

/// Keeps the link to one peer up for as long as it has addresses to dial. Ends when the link is gone.
pub(crate) async fn keep(hub: Arc<Hub>, peer: SegmentId) {
    let mut wait = REDIAL_MIN;
    let mut links = hub.links.watch();
    loop {
        let Some(link) = hub.links.list().into_iter().find(|link| link.peer == peer) else { return };
        let is_idle = link.paused || link.addresses.is_empty();
        if is_idle || hub.peer(&peer).is_some() {
            tokio::select! {
                _ = links.changed() => wait = REDIAL_MIN,
                // Whoever dialled us may be gone again.
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
            continue;
        }
        let mut failure = None;
        for address in &link.addresses {
            match dial(&hub, &link, address).await {
                Ok(lasted) => {
                    if lasted > Duration::from_secs(5) {
                        wait = REDIAL_MIN;
                    }
                    failure = None;
                    break;
                }
                Err(error) => {
                    failure.get_or_insert(error.to_string());
                }
            }
        }
        if let Some(failure) = failure {
            tracing::debug!(peer = link.name, failure, "not connected");
            hub.trouble(&peer, failure);
        }
        let jitter = rand::rng().random_range(0.5..1.0);
        tokio::select! {
            _ = links.changed() => {}
            () = tokio::time::sleep(wait.mul_f64(jitter)) => {}
        }
        wait = (wait * 2).min(hub.limits.redial_max);
    }
}

/// Connects and stays so; says how long it lasted.
async fn dial(hub: &Arc<Hub>, link: &Link, address: &str) -> Result<Duration> {
    let mut proven = match (connect(hub, address, link.fingerprint).await, link.next_fingerprint) {
        // It may have the key by now that it said it would have.
        (Err(_), Some(next)) => connect(hub, address, next).await?,
        (proven, _) => proven?,
    };
    let link = &rotate::proved(hub, link.clone(), proven.fingerprint).await?;
    let answer = timeout(hub.limits.greeting_timeout, async {
        say(&mut proven.stream, &hello(hub, Role::Control)).await?;
        greeting(&mut proven.stream).await
    });
    let answer = answer.await.map_err(|_| Error::new(ErrorKind::Offline, "no greeting came"))??;
    let peer = admit(hub, link, &answer, true, (proven.address, proven.own), hub.run)?;
    let started = tokio::time::Instant::now();
    let mut bulk = JoinSet::new();
    for _ in 0..hub.limits.bulk_connections {
        let (hub, link, peer, address) = (hub.clone(), link.clone(), peer.0.clone(), address.to_owned());
        bulk.spawn(async move { keep_bulk(&hub, &link, &peer, &address).await });
    }
    serve(hub, peer, proven.stream, true).await;
    bulk.shutdown().await;
    Ok(started.elapsed())
}

async fn keep_bulk(hub: &Arc<Hub>, link: &Link, peer: &Arc<Peer>, address: &str) {
    let mut wait = REDIAL_MIN;
    while !peer.control.is_closed() {
        let opened = async {
            let mut proven = connect(hub, address, link.fingerprint).await?;
            say(&mut proven.stream, &hello(hub, Role::Bulk)).await?;
            timeout(hub.limits.greeting_timeout, greeting(&mut proven.stream))
                .await
                .map_err(|_| Error::new(ErrorKind::Offline, "no greeting came"))??;
            Ok::<_, Error>(proven)
        };
        match opened.await {
            Ok(proven) => {
                let (outbox, queues) = Outbox::new();
                peer.bulk.lock().push(outbox.clone());
                serve(hub, (peer.clone(), outbox, queues), proven.stream, false).await;
            }
            Err(error) => tracing::debug!(peer = link.name, %error, "no connection for bulk"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(hub.limits.redial_max);
    }
}

/// Takes a connection: finds out who it is and what for, and serves it.
pub(crate) async fn take(hub: Arc<Hub>, stream: TcpStream, address: SocketAddr, strangers: Arc<Semaphore>) {
    let Ok(permit) = strangers.try_acquire_owned() else {
        tracing::warn!(%address, "too many connections that have not said who they are; this one is dropped");
        return;
    };
    let outcome = async {
        let identity = hub.identity();
        let acceptor = tls::acceptor(&identity)?;
        stream.set_nodelay(true).map_err(wire::broken)?;
        let greeted = timeout(hub.limits.greeting_timeout, async {
            let mut stream = acceptor.accept(stream).await.map_err(wire::broken)?;
            let connection = stream.get_ref().1;
            if connection.alpn_protocol() != Some(tls::ALPN) {
                return Err(Error::new(ErrorKind::Denied, "it does not speak the link protocol"));
            }
            let fingerprint = tls::fingerprint_of(connection.peer_certificates())
                .ok_or_else(|| Error::new(ErrorKind::Denied, "it proves no key"))?;
            let greeting = greeting(&mut stream).await?;
            Ok((stream, fingerprint, greeting))
        });
        let (mut stream, fingerprint, greeting) =
            greeted.await.map_err(|_| Error::new(ErrorKind::Offline, "it did not say who it is in time"))??;
        if greeting.role == i32::from(Role::Pair) {
            return pair_in(&hub, &mut stream, fingerprint, &greeting).await;
        }
        let link = hub.links.by_fingerprint(&fingerprint).filter(|link| !link.paused);
        let Some(link) = link else {
            return refuse(&hub, &mut stream, "there is no link to this segment's key, or it is paused").await;
        };
        let link = rotate::proved(&hub, link, fingerprint).await?;
        if greeting.role == i32::from(Role::Bulk) {
            let current = hub.peer(&link.peer).filter(|peer| peer.run == greeting.run && !peer.is_dialled);
            let Some(peer) = current else {
                return refuse(&hub, &mut stream, "the segments are not connected").await;
            };
            let (outbox, queues) = Outbox::new();
            {
                let mut bulk = peer.bulk.lock();
                bulk.retain(|outbox| !outbox.is_closed());
                if bulk.len() >= hub.limits.bulk_connections.max(16) {
                    return Err(Error::new(ErrorKind::Denied, "it opens too many connections"));
                }
                bulk.push(outbox.clone());
            }
            say(&mut stream, &hello(&hub, Role::Bulk)).await?;
            drop(permit);
            serve(&hub, (peer, outbox, queues), Box::new(stream), false).await;
            return Ok(());
        }
        match admit(&hub, &link, &greeting, false, (address, identity.fingerprint()), greeting.run) {
            Ok(peer) => {
                if let Err(error) = say(&mut stream, &hello(&hub, Role::Control)).await {
                    peer.0.close(error.message());
                    hub.unregister(&peer.0);
                    // The one whose place it took may be gone already.
                    let _ = hub.tell(Input::Disconnected(peer.0)).await;
                    return Err(error);
                }
                drop(permit);
                serve(&hub, peer, Box::new(stream), true).await;
                Ok(())
            }
            Err(error) => refuse(&hub, &mut stream, error.message()).await,
        }
    };
    if let Err(error) = outcome.await {
        tracing::debug!(%address, %error, "a connection was not taken");
    }
}

type Admitted = (Arc<Peer>, Outbox, crate::outbox::Queues);

fn admit(
    hub: &Arc<Hub>,
    link: &Link,
    greeting: &Hello,
    is_dialled: bool,
    (address, own): (SocketAddr, Fingerprint),
    run: u64,
) -> Result<Admitted> {
    let id = wire::segment(&greeting.segment)?;
    if id != link.peer {
        let message = format!("the key of '{}' is used by another segment, {id}", link.name);
        return Err(Error::new(ErrorKind::Denied, message));
    }
    let (control, queues) = Outbox::new();
    let peer = Arc::new(Peer {
        id,
        name: link.name.clone(),
        control: control.clone(),
        bulk: Default::default(),
        run,
        is_dialled,
        address,
        traffic: hub.traffic(&id),
        cuts: Arc::new(Semaphore::new(CUTS_MAX)),
        deltas: Arc::new(Semaphore::new(hub.limits.delta_bytes)),
        arrivals: Arc::new(Semaphore::new(session::ARRIVED_BYTES)),
        is_catalog_here: AtomicBool::new(true),
        version: greeting.version_max.min(*wire::VERSIONS.end()),
        comparing: Default::default(),
        questions: Default::default(),
        paced: Default::default(),
    });
    hub.register(&peer)?;
    // Whoever is connected when the key changes is let go; this one may have come a moment later.
    if hub.identity().fingerprint() != own {
        hub.unregister(&peer);
        let input = hub.input.clone();
        tokio::spawn(async move {
            // The door may be closing.
            let _ = input.send((Input::Disconnected(peer), None)).await;
        });
        return Err(Error::new(ErrorKind::Offline, "the key of this segment has changed"));
    }
    Ok((peer, control, queues))
}

/// Serves a connection until it ends.
async fn serve(hub: &Arc<Hub>, (peer, outbox, queues): Admitted, stream: Box<dyn Stream>, is_control: bool) {
    // What counts is that bytes move, however long a frame takes on a slow link.
    let mut stream = TimeoutStream::new(stream);
    stream.set_read_timeout(Some(hub.limits.silence_timeout));
    stream.set_write_timeout(Some(hub.limits.transfer_timeout));
    let (reader, writer): (ReadHalf<_>, WriteHalf<_>) = split(Box::pin(stream));
    let heard = outbox.clone();
    let reader = InspectReader::new(reader, move |bytes| heard.heard(bytes.len()));
    let mut tasks = JoinSet::new();
    if is_control {
        tracing::info!(peer = peer.name, address = %peer.address, "connected");
        if hub.tell(Input::Connected(peer.clone())).await.is_err() {
            return;
        }
        rotate::tell(hub, &peer);
    }
    let workers = if is_control { 1 } else { fetch::REQUESTS_PER_CONNECTION };
    for _ in 0..workers {
        tasks.spawn(fetch::work(hub.clone(), peer.clone(), outbox.clone()));
    }
    let writing = outbox.write(queues, writer, peer.traffic.clone());
    let reading = session::read(hub, &peer, &outbox, reader, is_control);
    tokio::pin!(writing);
    let (ended, is_writing) = tokio::select! {
        ended = reading => (ended, true),
        ended = &mut writing => (ended, false),
    };
    let reason = ended.err().map(|error| error.to_string()).unwrap_or_default();
    outbox.close(&reason);
    if is_writing {
        // Whatever is still to be said, if the other side listens.
        let _ = timeout(Duration::from_secs(1), writing).await;
    }
    if is_control {
        tracing::info!(peer = peer.name, reason, "disconnected");
        peer.close(&reason);
        hub.unregister(&peer);
        hub.trouble(&peer.id, reason);
        // The driver may have ended before.
        let _ = hub.tell(Input::Disconnected(peer.clone())).await;
    } else {
        peer.bulk.lock().retain(|other| !other.is(&outbox));
    }
    while tasks.join_next().await.is_some() {}
}

/// The inviting side of pairing.
async fn pair_in(
    hub: &Arc<Hub>,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    fingerprint: Fingerprint,
    greeting: &Hello,
) -> Result<()> {
    let granted = match <[u8; 16]>::try_from(greeting.secret.as_ref()) {
        Ok(secret) => blocking(hub, move |hub| hub.invites.redeem(&secret, unix_time().as_secs())).await?,
        Err(_) => None,
    };
    let Some(granted) = granted else {
        return refuse(hub, stream, "the code is not known: it was used, has expired, or was cancelled").await;
    };
    let peer = wire::segment(&greeting.segment)?;
    if peer == hub.segment.id() {
        return refuse(hub, stream, "a segment can't be linked with itself").await;
    }
    if let Err(error) = hub.links.check_key(&peer, &fingerprint) {
        return refuse(hub, stream, error.message()).await;
    }
    let link = Link {
        peer,
        name: greeting.name.clone(),
        fingerprint,
        addresses: Vec::new(),
        scope: granted.scope.clone(),
        mode: Mode::Full,
        direction: granted.direction,
        passes: Passes::Both,
        is_passed: false,
        visible: Visible::Early,
        whole_patience_s: links::whole_patience_s(),
        next_fingerprint: None,
        told_key: None,
        paused: false,
        rate_bytes_per_second: None,
        gather_delay_s: links::gather_delay_s(),
        gather_receipts: links::gather_receipts(),
        gather_names: false,
        created_unix_ms: u64::try_from(unix_time().as_millis()).unwrap_or_default(),
    };
    if let Err(error) = blocking(hub, move |hub| hub.links.put(link)).await {
        return refuse(hub, stream, error.message()).await;
    }
    let InviteOptions { scope, mode, visible, direction, .. } = granted;
    let welcome = Hello {
        scope: scope.places().to_vec(),
        mode: mode.as_str().into(),
        visible: visible.as_str().into(),
        direction: direction.reversed().as_str().into(),
        ..hello(hub, Role::Pair)
    };
    say(stream, &welcome).await?;
    // The other side has what it wants, or has gone.
    let _ = stream.shutdown().await;
    Ok(())
}

/// What the side that accepts a code wants otherwise than the code says.
#[derive(Debug, Clone, Default)]
pub struct AcceptOptions {
    /// How much of what the peer has is to come here. `None`: as the code says.
    pub mode: Option<Mode>,
    /// When versions show here. `None`: as the code says.
    pub visible: Option<Visible>,
    /// Which way changes go, seen from here. `None`: as the code says.
    pub direction: Option<Direction>,
    /// Less than what the code covers. `None`: all of it.
    pub scope: Option<Scope>,
}

/// The accepting side of pairing.
pub(crate) async fn pair_out(hub: &Arc<Hub>, code: Code, options: AcceptOptions) -> Result<Link> {
    if code.expires_unix_s <= unix_time().as_secs() {
        return Err(Error::new(ErrorKind::Denied, "the code has expired; ask for another"));
    }
    let mut failure = None;
    for address in &code.addresses {
        match connect(hub, address, code.fingerprint).await {
            Ok(proven) => return pair_with(hub, proven, &code, options).await,
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    Err(failure.unwrap_or_else(|| Error::invalid("the code names no address to dial")))
}

async fn pair_with(hub: &Arc<Hub>, proven: Proven, code: &Code, options: AcceptOptions) -> Result<Link> {
    let mut stream = proven.stream;
    let asking = Hello { secret: Bytes::copy_from_slice(&code.secret), ..hello(hub, Role::Pair) };
    let welcome = timeout(hub.limits.greeting_timeout, async {
        say(&mut stream, &asking).await?;
        greeting(&mut stream).await
    });
    let welcome = welcome.await.map_err(|_| Error::new(ErrorKind::Offline, "the other side does not answer"))??;
    let granted = Scope::parse(&welcome.scope)?;
    let link = Link {
        peer: wire::segment(&welcome.segment)?,
        name: welcome.name,
        fingerprint: proven.fingerprint,
        addresses: code.addresses.clone(),
        scope: match &options.scope {
            Some(scope) => granted.intersect(scope),
            None => granted,
        },
        mode: match options.mode {
            Some(mode) => mode,
            None => welcome.mode.parse()?,
        },
        direction: match options.direction {
            Some(direction) => direction,
            None => welcome.direction.parse()?,
        },
        passes: Passes::Both,
        is_passed: false,
        visible: match options.visible {
            Some(visible) => visible,
            // A peer of a time when links did not say.
            None if welcome.visible.is_empty() => Visible::Early,
            None => welcome.visible.parse()?,
        },
        whole_patience_s: links::whole_patience_s(),
        next_fingerprint: None,
        told_key: None,
        paused: false,
        rate_bytes_per_second: None,
        gather_delay_s: links::gather_delay_s(),
        gather_receipts: links::gather_receipts(),
        gather_names: false,
        created_unix_ms: u64::try_from(unix_time().as_millis()).unwrap_or_default(),
    };
    let stored = link.clone();
    hub.links.check_key(&stored.peer, &stored.fingerprint)?;
    blocking(hub, move |hub| hub.links.put(stored)).await?;
    Ok(link)
}

/// Runs what waits for the disk beside the network threads.
pub(crate) async fn blocking<T: Send + 'static>(
    hub: &Arc<Hub>,
    work: impl FnOnce(&Hub) -> Result<T> + Send + 'static,
) -> Result<T> {
    let hub = hub.clone();
    let done = tokio::task::spawn_blocking(move || work(&hub)).await;
    done.map_err(|error| Error::new(ErrorKind::Failed, "a task of the link door broke off").because(error))?
}
