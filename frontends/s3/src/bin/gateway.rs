//! An S3 endpoint over one data directory and nothing else: the whole of Tombolo is in the `tombolo` binary.

use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tombolo_core::{CreateOptions, Error, Housekeeping, OpenOptions, Result, Secret, Segment, TenantPath};
use tombolo_s3::{S3Door, S3Options};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Serves a data directory over S3. Creates the directory, a tenant and a key pair when there are none.
#[derive(Parser)]
#[command(name = "tombolo-s3-gateway", version)]
struct Arguments {
    /// The data directory.
    #[arg(long, env = "TOMBOLO_DIR")]
    dir: PathBuf,
    /// Where to listen; may be given more than once.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: Vec<SocketAddr>,
    /// The name of a segment that is created.
    #[arg(long, default_value = "local")]
    segment: String,
    /// The tenant to make sure of, inside the segment's cluster.
    #[arg(long, default_value = "default")]
    tenant: String,
    /// The access key of a user that is created; generated when absent.
    #[arg(long, env = "TOMBOLO_ACCESS_KEY", requires = "secret_key")]
    access_key: Option<String>,
    /// The secret key of a user that is created.
    #[arg(long, env = "TOMBOLO_SECRET_KEY", requires = "access_key", hide_env_values = true)]
    secret_key: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    // s3s takes every request that is refused for an error of the server.
    let targets = Targets::new().with_default(LevelFilter::INFO).with_target("s3s", LevelFilter::OFF);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(lines.with_filter(targets)).init();
    tombolo_core::raise_descriptor_limit();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tombolo-s3-gateway: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let segment = if Segment::exists(&arguments.dir) {
        Segment::open(&arguments.dir, OpenOptions::default()).await?
    } else {
        let create = CreateOptions { name: arguments.segment.clone(), cluster: arguments.segment.clone() };
        Segment::create(&arguments.dir, create, OpenOptions::default()).await?
    };
    let (catalog, tenant) = (segment.catalog(), TenantPath::new(segment.cluster(), &arguments.tenant)?);
    if !catalog.tenants(segment.cluster()).await?.contains(&tenant) {
        catalog.create_tenant(&tenant).await?;
    }
    if catalog.users(&tenant).await?.is_empty() {
        let keys = arguments.access_key.zip(arguments.secret_key.map(Secret));
        let is_generated = keys.is_none();
        let (user, secret) = catalog.create_user(&tenant, "gateway", keys).await?;
        if is_generated {
            // Shown once; the segment does not give secrets out again.
            println!("AWS_ACCESS_KEY_ID={}\nAWS_SECRET_ACCESS_KEY={}", user.access_key, secret.0);
        }
    }
    let keeper = segment.clone();
    let keeping = tokio::spawn(async move { keeper.keep_house(Housekeeping::default()).await });
    let signals = |kind| signal(kind).map_err(|e| Error::io("signals can't be received", e));
    let (mut terminate, mut interrupt) = (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    let door = S3Door::bind(segment.clone(), &arguments.listen, S3Options::default()).await?;
    for address in door.addresses()? {
        println!("listening on http://{address}");
    }
    door.serve(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await;
    keeping.abort();
    segment.close().await
}
