//! `put` and `get`

use super::{Session, named, place};
use crate::arguments::{GetArgs, PutArgs};
use crate::backend::{Call, Piece};
use crate::failure::Outcome;
use crate::output::object_json;
use crate::path::base_name;
use crate::progress::Progress;
use crate::tree::{Draft, Sink, Source};
use crate::wire::{Frame, Named, ObjectRecord, Operation, PutRequest, Raw, decode};
use bytes::BytesMut;
use std::ffi::OsStr;
use std::io::ErrorKind as IoKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tombolo_core::{Error, ErrorKind, Result, Subject};

const PIECE_BYTES: usize = 256 << 10;
const ZEROS: &[u8] = &[0; 64 << 10];

pub(super) async fn put(session: &mut Session, args: PutArgs) -> Outcome {
    let is_stdin = args.file.as_os_str() == "-";
    let name = if is_stdin { None } else { args.file.file_name().map(OsStr::as_bytes) };
    let target = place(&args.path)?.target(name)?;
    let file = if is_stdin { None } else { Some(open(&args.file)?) };
    session.refuse_directory(&target).await?;
    let total = file.as_ref().and_then(|file| file.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len());
    let lower = |pairs: Vec<(String, String)>| pairs.into_iter().map(|(k, v)| (k.to_ascii_lowercase(), v)).collect();
    let request = PutRequest {
        bucket: target.bucket.to_string(),
        key: Raw(target.key.clone()),
        headers: lower(args.header),
        user: lower(args.metadata),
        tags: args.tag.into_iter().collect(),
        if_absent: args.if_absent,
        ..PutRequest::default()
    };
    let progress = Progress::start(session.output.is_json(), total);
    let call = session.begin(Operation::Put(Box::new(request))).await?;
    let stored = match file {
        Some(file) => send_file(call, file, &args.file, &progress).await,
        None => send_stdin(call, &progress).await,
    };
    progress.finish();
    let record = stored.map_err(|error| match error.kind() {
        // It is the one condition that there is.
        ErrorKind::Precondition => Error::exists(Subject::Key, format!("'{target}' exists")),
        _ => error,
    })?;
    let mut json = object_json(&target.bucket.to_string(), &record);
    if !args.token {
        return session.output.answer(json, "");
    }
    let token: String = session.call(Operation::Token { bucket: target.bucket.to_string() }).await?;
    if let Some(map) = json.as_object_mut() {
        map.insert("token".into(), token.clone().into());
    }
    session.output.answer(json, &token)
}

fn open(path: &Path) -> Result<std::fs::File> {
    let failed = |e: std::io::Error| {
        let context = format!("'{}' cannot be read", path.display());
        if e.kind() == IoKind::NotFound {
            Error::not_found(Subject::Other, format!("there is no file '{}'", path.display()))
        } else {
            Error::io(context, e)
        }
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        let what = format!("'{}' is a directory; bring it in with: tombolo import", path.display());
        return Err(Error::invalid(what));
    }
    Ok(file)
}

async fn send_file(mut call: Call, file: std::fs::File, path: &Path, progress: &Progress) -> Result<ObjectRecord> {
    let mut source = Source::read(file);
    while let Some(frame) = source.next().await {
        let frame = frame.map_err(|e| Error::io(format!("'{}' cannot be read", path.display()), e))?;
        progress.add(bytes_of(&frame));
        if !call.send(frame).await {
            return call.reply().await;
        }
    }
    call.send(Frame::End).await;
    call.reply().await
}

async fn send_stdin(mut call: Call, progress: &Progress) -> Result<ObjectRecord> {
    let mut input = tokio::io::stdin();
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE_BYTES);
        let read = input.read_buf(&mut buffer).await;
        let is_over = read.map_err(|e| Error::io("standard input cannot be read", e))? == 0;
        if is_over || buffer.len() >= PIECE_BYTES {
            let piece = buffer.split().freeze();
            progress.add(piece.len() as u64);
            if !piece.is_empty() && !call.send(Frame::Data(piece)).await {
                return call.reply().await;
            }
        }
        if is_over {
            call.send(Frame::End).await;
            return call.reply().await;
        }
    }
}

/// Bytes of content that a frame stands for.
fn bytes_of(frame: &Frame) -> u64 {
    match frame {
        Frame::Data(data) => data.len() as u64,
        Frame::Hole(length) => *length,
        _ => 0,
    }
}

pub(super) async fn get(session: &mut Session, args: GetArgs) -> Outcome {
    let place = place(&args.path)?;
    session.after(&place, &args.after).await?;
    let object = place.object()?;
    let at = Named { version: args.view.version, snapshot: args.view.snapshot, ..named(&object.bucket, &object.key) };
    let mut call = session.begin(Operation::Get { at, unless_linked: false }).await?;
    let record = match call.next::<()>().await? {
        Piece::Frame(Frame::Record(json)) => decode::<ObjectRecord>(&json)?,
        _ => {
            return Err(Error::new(ErrorKind::Failed, "the answer begins without a record").into());
        }
    };
    let progress = Progress::start(session.output.is_json(), Some(record.size));
    let is_stdout = args.file.as_os_str() == "-";
    let written = if is_stdout {
        to_stdout(call, &progress).await
    } else {
        let mut path = args.file;
        if path.is_dir() {
            path.push(OsStr::from_bytes(base_name(&object.key)));
        }
        to_file(call, &path, record.size, &progress).await
    };
    progress.finish();
    written?;
    if is_stdout {
        return Ok(());
    }
    session.output.answer(object_json(&object.bucket.to_string(), &record), "")
}

async fn to_stdout(mut call: Call, progress: &Progress) -> Outcome {
    let mut out = tokio::io::stdout();
    let broken = |e: std::io::Error| match e.kind() {
        IoKind::BrokenPipe => crate::failure::Failure::Reported(crate::failure::Exit::Failed),
        _ => Error::io("standard output cannot be written", e).into(),
    };
    loop {
        match call.next::<()>().await? {
            Piece::Frame(frame) => {
                progress.add(bytes_of(&frame));
                match frame {
                    Frame::Data(data) => out.write_all(&data).await.map_err(broken)?,
                    Frame::Hole(mut length) => {
                        while length > 0 {
                            let piece = length.min(ZEROS.len() as u64);
                            let zeros = ZEROS.get(..piece as usize).unwrap_or_default();
                            out.write_all(zeros).await.map_err(broken)?;
                            length -= piece;
                        }
                    }
                    _ => {}
                }
            }
            Piece::Reply(()) => return out.flush().await.map_err(broken),
        }
    }
}

async fn to_file(mut call: Call, path: &Path, size: u64, progress: &Progress) -> Outcome {
    let failed = |e| Error::io(format!("'{}' cannot be written", path.display()), e);
    // What is there and no plain file, such as /dev/null or a pipe, is written, not replaced.
    let in_place = std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
    let (file, draft) = if in_place {
        (std::fs::OpenOptions::new().write(true).open(path).map_err(failed)?, None)
    } else {
        let (draft, file) = Draft::create_file_beside(path, 0o666).map_err(failed)?;
        (file, Some(draft))
    };
    let mut sink = Sink::write(file, size);
    while let Piece::Frame(frame) = call.next::<()>().await? {
        progress.add(bytes_of(&frame));
        if !sink.send(frame).await {
            break;
        }
    }
    sink.finish().await.map_err(failed)?;
    if let Some(draft) = draft {
        draft.publish(path).map_err(failed)?;
    }
    Ok(())
}
