//! `link`

use super::Session;
use crate::arguments::{AcceptArgs, InviteArgs, LinkVerb};
use crate::failure::{Exit, Failure, Outcome};
use crate::quantity::{short_time, size, time};
use crate::wire::{CodeRecord, InviteRecord, LinkOperation, LinkRecord, Operation, RotationRecord, SecretText};
use serde_json::{Map, Value, json};
use std::io::Read;
use tombolo_core::{Error, Result};
use tombolo_link::invite::CODE_CHARS_MAX;
use tombolo_link::{Mode, Passes, Scope, Visible};

pub(super) async fn link(session: &mut Session, verb: LinkVerb) -> Outcome {
    match verb {
        LinkVerb::Invite(args) => invite(session, args).await,
        LinkVerb::Invites => {
            let invites: Vec<InviteRecord> = call(session, LinkOperation::Invites).await?;
            let rows = invites.iter().map(invite_row);
            let head = ["ID", "MODE", "DIRECTION", "SCOPE", "ADDRESSES", "EXPIRES (UTC)"];
            session.output.table(&head, rows.collect())
        }
        LinkVerb::Cancel { id } => {
            call::<()>(session, LinkOperation::Cancel { id: id.clone() }).await?;
            session.output.answer(json!({ "id": id, "cancelled": true }), "")
        }
        LinkVerb::Accept(args) => accept(session, args).await,
        LinkVerb::List => {
            let links: Vec<LinkRecord> = call(session, LinkOperation::List).await?;
            let rows = links.iter().map(|link| (link_json(link), link_row(link)));
            session.output.table(&["NAME", "STATE", "MODE", "DIRECTION", "SCOPE", "ADDRESSES"], rows.collect())
        }
        LinkVerb::Show { name } => {
            let link = call(session, LinkOperation::Show { name }).await?;
            show(session, &link)
        }
        LinkVerb::Set { name, values } => {
            let link = call(session, LinkOperation::Set { name, set: values }).await?;
            show(session, &link)
        }
        LinkVerb::Pause { name } => pause(session, name, true).await,
        LinkVerb::Resume { name } => pause(session, name, false).await,
        LinkVerb::RotateKey { now, timeout } => {
            let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            let rotation = call(session, LinkOperation::RotateKey { now, timeout_ms }).await?;
            show_rotation(session, &rotation)
        }
        LinkVerb::Delete { name } => {
            call::<()>(session, LinkOperation::Delete { name: name.clone() }).await?;
            session.output.answer(json!({ "name": name, "deleted": true }), "")
        }
    }
}

async fn call<R: serde::de::DeserializeOwned>(session: &Session, operation: LinkOperation) -> Result<R> {
    session.call(Operation::Links(operation)).await
}

async fn invite(session: &mut Session, args: InviteArgs) -> Outcome {
    let scope = scope(&args.scope)?.unwrap_or_else(Scope::everything);
    let made: CodeRecord = call(
        session,
        LinkOperation::Invite {
            addresses: args.address,
            scope: scope.clone(),
            mode: args.mode,
            visible: args.visible,
            direction: args.direction,
            valid_for_s: args.valid_for.as_secs(),
        },
    )
    .await?;
    let code = &made.code.0;
    let text = format!(
        "{code}\n\nAt the other segment, before {} UTC:\n  tombolo link accept {code}\n\nIt dials {}. The code works once; until then it is a secret.",
        short_time(nanoseconds(made.expires_unix_s)),
        made.addresses.join(" or "),
    );
    let json = json!({
        "code": code,
        "addresses": made.addresses,
        "scope": scope,
        "mode": args.mode,
        "visible": args.visible,
        "direction": args.direction,
        "expires": time(nanoseconds(made.expires_unix_s)),
    });
    session.output.answer(json, &text)
}

async fn accept(session: &mut Session, args: AcceptArgs) -> Outcome {
    let code = SecretText(if args.code == "-" { code_from_input()? } else { args.code });
    let scope = scope(&args.scope)?;
    let (mode, visible, direction) = (args.mode, args.visible, args.direction);
    let operation = LinkOperation::Accept { code, mode, visible, direction, scope };
    let link: LinkRecord = call(session, operation).await?;
    let text = format!(
        "Linked to {}: {}. See how far it has come: tombolo sync status",
        link.link.name,
        what_is_carried(&link)
    );
    session.output.answer(link_json(&link), &text)
}

/// Standard input, up to the longest code and what may stand around it.
fn code_from_input() -> Result<String> {
    let failed = |e| Error::io("the code cannot be read from standard input", e);
    let mut text = String::new();
    std::io::stdin().take(CODE_CHARS_MAX as u64 + 64).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

async fn pause(session: &mut Session, name: String, paused: bool) -> Outcome {
    let link: LinkRecord = call(session, LinkOperation::Pause { name, paused }).await?;
    session.output.answer(link_json(&link), "")
}

/// `None`: nothing was said.
fn scope(places: &[String]) -> Result<Option<Scope>> {
    if places.is_empty() {
        return Ok(None);
    }
    // A comma too many must not grant everything.
    if places.iter().any(String::is_empty) {
        return Err(Error::invalid("a scope has an empty place; everything is '/'"));
    }
    Scope::parse(places).map(Some)
}

fn nanoseconds(unix_s: u64) -> i64 {
    i64::try_from(unix_s).unwrap_or(i64::MAX).saturating_mul(1_000_000_000)
}

fn invite_row(invite: &InviteRecord) -> (Value, Vec<String>) {
    let expires = nanoseconds(invite.expires_unix_s);
    let json = json!({
        "id": invite.id,
        "addresses": invite.addresses,
        "scope": invite.scope,
        "mode": invite.mode,
        "visible": invite.visible,
        "direction": invite.direction,
        "expires": time(expires),
    });
    let row = vec![
        invite.id.clone(),
        invite.mode.to_string(),
        invite.direction.to_string(),
        invite.scope.to_string(),
        invite.addresses.join(","),
        short_time(expires),
    ];
    (json, row)
}

/// What a link carries, in words.
fn what_is_carried(record: &LinkRecord) -> String {
    let link = &record.link;
    let scope = if link.scope == Scope::everything() { "everything".to_owned() } else { link.scope.to_string() };
    let passes = match (link.passes, link.is_passed) {
        (Passes::Both, _) => String::new(),
        (Passes::Initial, true) => ", initial pass over: nothing more comes".into(),
        (passes, _) => format!(", {passes} only"),
    };
    let visible = match (link.mode, link.visible) {
        (Mode::Full, Visible::Whole) => ", versions show with their data",
        _ => "",
    };
    format!("{scope}, mode {}, direction {}{passes}{visible}", link.mode, link.direction)
}

/// One word, or a problem.
fn state(record: &LinkRecord) -> String {
    match &record.state {
        _ if record.link.paused => "paused".into(),
        None => "unknown".into(),
        Some(state) if state.connected => match state.rtt_ms {
            Some(rtt) => format!("connected, {rtt:.1} ms"),
            None => "connected".into(),
        },
        Some(state) => match &state.problem {
            Some(problem) => format!("down: {problem}"),
            None => "down".into(),
        },
    }
}

fn link_row(record: &LinkRecord) -> Vec<String> {
    let link = &record.link;
    vec![
        link.name.clone(),
        state(record),
        link.mode.to_string(),
        link.direction.to_string(),
        link.scope.to_string(),
        link.addresses.join(","),
    ]
}

/// The JSON of a link; how it is doing only when a daemon said so.
pub(super) fn link_json(record: &LinkRecord) -> Value {
    let link = &record.link;
    let mut map = Map::new();
    map.insert("name".into(), link.name.clone().into());
    map.insert("peer".into(), link.peer.to_string().into());
    map.insert("fingerprint".into(), link.fingerprint.to_string().into());
    map.insert("addresses".into(), json!(link.addresses));
    map.insert("scope".into(), json!(link.scope));
    map.insert("mode".into(), json!(link.mode));
    map.insert("direction".into(), json!(link.direction));
    map.insert("passes".into(), json!(link.passes));
    map.insert("passed".into(), link.is_passed.into());
    map.insert("visible".into(), json!(link.visible));
    map.insert("whole_patience_s".into(), json!(link.whole_patience_s));
    map.insert("next_fingerprint".into(), json!(link.next_fingerprint));
    map.insert("paused".into(), link.paused.into());
    map.insert("rate_bytes_per_second".into(), json!(link.rate_bytes_per_second));
    map.insert("gather_delay_s".into(), json!(link.gather_delay_s));
    map.insert("gather_receipts".into(), json!(link.gather_receipts));
    map.insert("gather_names".into(), link.gather_names.into());
    let created_ns = i64::try_from(link.created_unix_ms).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    map.insert("created".into(), time(created_ns).into());
    if let Some(Value::Object(state)) = record.state.as_ref().map(|state| json!(state)) {
        map.extend(state);
    }
    Value::Object(map)
}

fn show_rotation(session: &mut Session, rotation: &RotationRecord) -> Outcome {
    let text = match &rotation.next {
        None => format!("The key of this segment is now {}", rotation.fingerprint),
        Some(next) => format!(
            "The next key is {next}. It will be used when these know it, too: {}. Until then it is {}",
            rotation.waiting.join(", "),
            rotation.fingerprint
        ),
    };
    session.output.answer(json!(rotation), &text)?;
    match &rotation.next {
        None => Ok(()),
        Some(_) => Err(Failure::Reported(Exit::Incomplete)),
    }
}

fn show(session: &mut Session, record: &LinkRecord) -> Outcome {
    let link = &record.link;
    let addresses = if link.addresses.is_empty() { "none; it dials".into() } else { link.addresses.join(", ") };
    let rate = link.rate_bytes_per_second.map_or("none".into(), |rate| format!("{}/s", size(rate)));
    let mut text = format!(
        "Name         {}\nSegment      {}\nKey          {}\nCarries      {}\nAddresses    {addresses}\nRate limit   {rate}\nPaused       {}",
        link.name,
        link.peer,
        link.fingerprint,
        what_is_carried(record),
        if link.paused { "yes" } else { "no" },
    );
    if let Some(known) = &record.state {
        text.push_str(&format!(
            "\nState        {}\nSent         {}\nReceived     {}",
            state(record),
            size(known.sent_bytes),
            size(known.received_bytes)
        ));
        if let Some(address) = &known.connected_to {
            text.push_str(&format!("\nConnected to {address}"));
        }
    }
    session.output.answer(link_json(record), &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::LinkState;
    use tombolo_core::SegmentId;
    use tombolo_link::{Direction, Fingerprint, Link};

    fn record() -> LinkRecord {
        let link = Link {
            peer: SegmentId([1; 16]),
            name: "newyork".into(),
            fingerprint: Fingerprint([2; 32]),
            addresses: vec!["newyork.example:7400".into()],
            scope: Scope::everything(),
            mode: Mode::Full,
            direction: Direction::Both,
            passes: Passes::Both,
            is_passed: false,
            visible: Visible::Early,
            whole_patience_s: 300,
            next_fingerprint: None,
            told_key: None,
            paused: false,
            rate_bytes_per_second: None,
            gather_delay_s: 3600,
            gather_receipts: 1,
            gather_names: false,
            created_unix_ms: 1000,
        };
        LinkRecord { link, state: None }
    }

    #[test]
    fn a_link_is_in_one_of_four_states() {
        let mut record = record();
        assert_eq!(state(&record), "unknown");
        record.state = Some(LinkState { connected: true, rtt_ms: Some(80.02), ..LinkState::default() });
        assert_eq!(state(&record), "connected, 80.0 ms");
        record.state = Some(LinkState { problem: Some("no route".into()), ..LinkState::default() });
        assert_eq!(state(&record), "down: no route");
        record.link.paused = true;
        assert_eq!(state(&record), "paused");
    }

    #[test]
    fn json_has_the_state_when_it_is_known() {
        let mut record = record();
        let json = link_json(&record);
        assert_eq!((&json["name"], &json["scope"], &json["mode"]), (&json!("newyork"), &json!([""]), &json!("full")));
        assert_eq!(json["created"], "1970-01-01T00:00:01.000000000Z");
        assert!(json.get("connected").is_none());
        record.state = Some(LinkState { connected: true, ..LinkState::default() });
        assert_eq!(link_json(&record)["connected"], true);
    }

    #[test]
    fn an_empty_place_grants_nothing() {
        assert_eq!(scope(&[]).unwrap(), None);
        assert_eq!(scope(&["/".into()]).unwrap(), Some(Scope::everything()));
        assert!(scope(&["a".into(), String::new()]).is_err());
    }
}
