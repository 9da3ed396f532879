//! What commands print on standard output: text for people, or JSON with `--json`.
//!
//! JSON is either one object, or an array with one element per line, written as it comes, so that listings of any length
//! take bounded memory. Nothing else goes to standard output.

use crate::failure::{Exit, Failure, Outcome};
use crate::path::show;
use crate::quantity;
use crate::wire::{BucketRecord, ObjectRecord, Raw, SummaryRecord, UserRecord, VersionRecord};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Map, Value, json};
use std::io::{BufWriter, IsTerminal, Stdout, Write};
use tombolo_core::Error;

/// Standard output in one of its two forms.
pub(crate) struct Output {
    out: BufWriter<Stdout>,
    is_json: bool,
    is_terminal: bool,
    /// Elements printed of the array under way.
    items: u64,
}

impl Output {
    pub(crate) fn new(is_json: bool) -> Output {
        let stdout = std::io::stdout();
        let is_terminal = stdout.is_terminal();
        Output { out: BufWriter::new(stdout), is_json, is_terminal, items: 0 }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.is_json
    }

    /// Prints the one answer of a command: an object, or its text (nothing, if empty).
    pub(crate) fn answer(&mut self, object: Value, text: &str) -> Outcome {
        if self.is_json {
            self.line(object.to_string().as_bytes())
        } else if text.is_empty() {
            Ok(())
        } else {
            self.line(text.as_bytes())
        }
    }

    /// Begins an array. Nothing of it is printed before its first element or its end: what fails before has no output.
    pub(crate) fn begin(&mut self) {
        self.items = 0;
    }

    /// Prints an element of the array, as JSON or as a line.
    pub(crate) fn item(&mut self, object: impl FnOnce() -> Value, text: impl FnOnce() -> Vec<u8>) -> Outcome {
        if !self.is_json {
            let text = text();
            return self.line(&text);
        }
        self.raw(if self.items == 0 { b"[\n" } else { b",\n" })?;
        self.items += 1;
        self.raw(object().to_string().as_bytes())
    }

    /// Ends the array.
    pub(crate) fn end(&mut self) -> Outcome {
        if self.is_json { self.raw(if self.items == 0 { b"[]\n" } else { b"\n]\n" }) } else { Ok(()) }
    }

    /// Prints a short list: an array, or a table under `head` (columns whose title starts with `>` are right-aligned).
    pub(crate) fn table(&mut self, head: &[&str], rows: Vec<(Value, Vec<String>)>) -> Outcome {
        if self.is_json {
            self.begin();
            for (object, _) in rows {
                self.item(|| object, Vec::new)?;
            }
            return self.end();
        }
        if rows.is_empty() {
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(head.iter().map(|title| title.trim_start_matches('>')));
        for (_, row) in rows {
            table.add_row(row.into_iter().map(Cell::new));
        }
        for (column, title) in table.column_iter_mut().zip(head) {
            column.set_padding((0, 2));
            if title.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for line in table.lines() {
            self.line(line.trim_end().as_bytes())?;
        }
        Ok(())
    }

    /// A key for a line: as it is for a pipe, with control characters escaped for a terminal.
    pub(crate) fn key(&self, key: &[u8]) -> Vec<u8> {
        if self.is_terminal { show(key).into_bytes() } else { key.to_vec() }
    }

    /// Hands everything to the operating system.
    pub(crate) fn flush(&mut self) -> Outcome {
        self.out.flush().map_err(broken)
    }

    pub(crate) fn line(&mut self, text: &[u8]) -> Outcome {
        self.raw(text)?;
        self.raw(b"\n")
    }

    fn raw(&mut self, bytes: &[u8]) -> Outcome {
        self.out.write_all(bytes).map_err(broken)
    }
}

fn broken(error: std::io::Error) -> Failure {
    match error.kind() {
        // Who reads has seen enough, as `head` does.
        std::io::ErrorKind::BrokenPipe => Failure::Reported(Exit::Failed),
        _ => Failure::Engine(Error::io("standard output cannot be written", error)),
    }
}

/// The fields that name a key: `key`, and `key_hex` when it is not UTF-8.
pub(crate) fn key_fields(map: &mut Map<String, Value>, key: &Raw) {
    map.insert("key".into(), String::from_utf8_lossy(&key.0).into());
    if std::str::from_utf8(&key.0).is_err() {
        map.insert("key_hex".into(), key.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into());
    }
}

/// How much of a content is here: all, some or none.
pub(crate) fn locality(local_bytes: u64, size: u64) -> &'static str {
    match local_bytes {
        here if here >= size => "yes",
        0 => "no",
        _ => "part",
    }
}

/// `local` and `local_bytes`, if they were asked for.
fn local_fields(map: &mut Map<String, Value>, local_bytes: Option<u64>, size: u64) {
    if let Some(bytes) = local_bytes {
        map.insert("local".into(), locality(bytes, size).into());
        map.insert("local_bytes".into(), bytes.into());
    }
}

/// The JSON of a listed object or prefix.
pub(crate) fn summary_json(summary: &SummaryRecord) -> Value {
    let mut map = Map::new();
    key_fields(&mut map, &summary.key);
    map.insert("type".into(), json!(summary.file_type));
    map.insert("size".into(), summary.size.into());
    map.insert("time".into(), quantity::time(summary.modified_ns).into());
    map.insert("etag".into(), summary.etag.clone().into());
    local_fields(&mut map, summary.local_bytes, summary.size);
    if summary.is_away {
        map.insert("away".into(), true.into());
    }
    Value::Object(map)
}

/// The JSON of a common prefix.
pub(crate) fn prefix_json(prefix: &Raw) -> Value {
    let mut map = Map::new();
    key_fields(&mut map, prefix);
    map.insert("type".into(), "prefix".into());
    Value::Object(map)
}

/// The JSON of a version or delete marker.
pub(crate) fn version_json(record: &VersionRecord) -> Value {
    let mut map = Map::new();
    key_fields(&mut map, &record.summary.key);
    map.insert("version".into(), record.version.clone().into());
    map.insert("size".into(), record.summary.size.into());
    map.insert("segment".into(), record.segment.clone().into());
    map.insert("time".into(), quantity::time(record.summary.modified_ns).into());
    map.insert("current".into(), record.current.into());
    map.insert("marker".into(), record.marker.into());
    map.insert("type".into(), json!(record.summary.file_type));
    map.insert("etag".into(), record.summary.etag.clone().into());
    Value::Object(map)
}

/// The JSON of everything about one version.
pub(crate) fn object_json(bucket: &str, record: &ObjectRecord) -> Value {
    let mut map = Map::new();
    map.insert("bucket".into(), bucket.into());
    key_fields(&mut map, &record.key);
    map.insert("version".into(), record.version.clone().into());
    map.insert("current".into(), record.current.into());
    map.insert("type".into(), json!(record.file_type));
    map.insert("size".into(), record.size.into());
    map.insert("time".into(), quantity::time(record.modified_ns).into());
    map.insert("etag".into(), record.etag.clone().into());
    map.insert("mode".into(), json!(record.attributes.mode.map(|mode| format!("{mode:04o}"))));
    map.insert("uid".into(), json!(record.attributes.uid));
    map.insert("gid".into(), json!(record.attributes.gid));
    map.insert("rdev".into(), json!(record.attributes.rdev));
    map.insert("links".into(), record.links.into());
    map.insert("node".into(), record.node.clone().into());
    map.insert("segment".into(), record.segment.clone().into());
    map.insert("headers".into(), json!(record.headers));
    map.insert("metadata".into(), json!(record.user));
    map.insert("tags".into(), json!(record.tags));
    map.insert("xattrs".into(), json!(record.attributes.xattrs));
    map.insert("checksums".into(), json!(record.checksums));
    map.insert("parts".into(), record.parts.into());
    local_fields(&mut map, record.local_bytes, record.size);
    Value::Object(map)
}

/// The JSON of a bucket.
pub(crate) fn bucket_json(record: &BucketRecord) -> Value {
    let chunking = match record.policy.chunking {
        tombolo_core::Chunking::Content(bytes) => format!("content:{bytes}"),
        tombolo_core::Chunking::Fixed(bytes) => format!("fixed:{bytes}"),
    };
    let policy = &record.policy;
    let mut value = json!({
        "path": record.path,
        "name": record.path.rsplit('/').next().unwrap_or_default(),
        "id": record.id,
        "created": quantity::time(record.created_ns),
        "policy": {
            "chunking": chunking,
            "compression": policy.compression,
            "versioning": policy.versioning,
            "versions-max": policy.versions_max,
            "quota-bytes": policy.quota_bytes,
            "quota-objects": policy.quota_objects,
            "conflicts": policy.conflicts,
            "etag": policy.etag,
            "uid": policy.uid,
            "gid": policy.gid,
            "file-mode": format!("{:o}", policy.file_mode),
            "directory-mode": format!("{:o}", policy.directory_mode),
        },
    });
    if let (Some(map), Some(usage)) = (value.as_object_mut(), record.usage) {
        map.insert("usage".into(), json!(usage));
    }
    value
}

/// The JSON of a user; the secret only when it was just made.
pub(crate) fn user_json(record: &UserRecord) -> Value {
    let mut value = json!({
        "tenant": record.tenant,
        "name": record.name,
        "access_key": record.access_key,
        "created": quantity::time(record.created_ns),
    });
    if let (Some(map), Some(secret)) = (value.as_object_mut(), &record.secret_key) {
        map.insert("secret_key".into(), secret.0.clone().into());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Kind;
    use bytes::Bytes;

    #[test]
    fn keys_that_are_not_text_have_both_forms() {
        let summary = SummaryRecord {
            key: Raw(Bytes::from_static(b"a\xff")),
            size: 3,
            modified_ns: 1,
            etag: "e".into(),
            file_type: Kind::CharDevice,
            local_bytes: Some(1),
            is_away: true,
        };
        let json = summary_json(&summary);
        assert_eq!(json["away"], true);
        assert_eq!(json["key"], "a\u{fffd}");
        assert_eq!(json["key_hex"], "61ff");
        assert_eq!(json["type"], "char-device");
        assert_eq!((&json["local"], &json["local_bytes"]), (&json!("part"), &json!(1)));
        assert_eq!([locality(0, 0), locality(3, 3), locality(0, 3)], ["yes", "yes", "no"]);
        assert_eq!(json["time"], "1970-01-01T00:00:00.000000001Z");
        let json = prefix_json(&Raw(Bytes::from_static(b"a/")));
        assert_eq!(json, json!({ "key": "a/", "type": "prefix" }));
    }

    #[test]
    fn versions_have_the_fields_of_the_contract() {
        let json = version_json(&VersionRecord {
            summary: SummaryRecord {
                key: Raw(Bytes::from_static(b"k")),
                size: 7,
                modified_ns: 0,
                etag: String::new(),
                file_type: Kind::File,
                local_bytes: None,
                is_away: false,
            },
            version: "v".into(),
            current: true,
            marker: false,
            segment: "s".into(),
        });
        for field in ["version", "key", "size", "segment", "time", "current"] {
            assert!(json.get(field).is_some(), "{field}");
        }
    }
}
