//! The journal of the metadata store as a crash or a disk leaves it: bytes as they come, or whole batches with something behind them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::Cursor;
use tombolo_core::kv::fjall::{JournalEnd, MARK_KEY, Mark, MarkKey, journal_end};
use xxhash_rust::xxh3::xxh3_64;

fn item(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.extend([2, 0, 0]);
    out.extend(7u64.to_le_bytes());
    out.extend((key.len() as u16).to_le_bytes());
    out.extend([(value.len() as u32).to_le_bytes(); 2].concat());
    out.extend([key, value].concat());
}

/// Batches made of `data` as long as it lasts, and how long they are; then the rest of it.
fn framed(mut data: &[u8], mark_key: &MarkKey) -> (Vec<u8>, usize) {
    let mut out = Vec::new();
    for number in 1u64.. {
        let [items, synced, rest @ ..] = data else { break };
        let (mut body, mut rest) = (Vec::new(), rest);
        let mark = Mark { number, synced: number.saturating_sub(1 + u64::from(*synced)) };
        item(&mut body, MARK_KEY, &mark.encode(mark_key));
        let mut count = 1u32;
        for _ in 0..items % 4 {
            let [key, value, tail @ ..] = rest else { break };
            let (key, tail) = tail.split_at(tail.len().min(usize::from(key % 8)));
            let (value, tail) = tail.split_at(tail.len().min(usize::from(*value)));
            item(&mut body, key, value);
            count += 1;
            rest = tail;
        }
        if rest.is_empty() {
            break;
        }
        out.push(1);
        out.extend(count.to_le_bytes());
        out.extend((number * 8).to_le_bytes());
        out.extend_from_slice(&body);
        out.push(3);
        out.extend(xxh3_64(&body).to_le_bytes());
        out.extend(b"FJL\x03");
        data = rest;
    }
    let length = out.len();
    out.extend_from_slice(data);
    (out, length)
}

fn end(journal: &[u8], key: Option<&MarkKey>) -> JournalEnd {
    journal_end(Cursor::new(journal), journal.len() as u64, key).unwrap()
}

fuzz_target!(|data: &[u8]| {
    let [kind, rest @ ..] = data else { return };
    let own = MarkKey::from([7; 32]);
    let (journal, whole) = if kind % 2 == 0 { (rest.to_vec(), 0) } else { framed(rest, &own) };
    // The store's own key, none (it is of an older build), and that of another, whose batches say nothing here.
    let key = match kind / 2 % 3 {
        0 => Some(own),
        1 => None,
        _ => Some(MarkKey::from([8; 32])),
    };
    let found = end(&journal, key.as_ref());
    if let JournalEnd::Torn(at) | JournalEnd::Damaged(at) = found {
        let at = at as usize;
        assert!(at >= whole, "{whole} bytes are whole, and {at} would be left");
        assert_eq!(end(&journal[..at], key.as_ref()), JournalEnd::Whole, "what is left is whole");
    }
    assert_eq!(end(&[&journal[..], &[0; 64]].concat(), key.as_ref()), found, "zeros behind it say nothing");
});
