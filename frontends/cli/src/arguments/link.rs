//! `link`, `sync` and `demo`.

use super::parse_setting;
use crate::quantity::parse_duration;
use crate::wire::Take;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::time::Duration;
use tombolo_link::{Direction, Mode, Visible};

pub(super) const LINK_HELP: &str = "\
A link joins two segments. One makes a code, the other accepts it; from then on both carry the buckets in the link's scope. Both need a daemon
(tombolo serve); the one that invites listens for links (--link ADDR).

Examples:
  tombolo link invite --address sf.example.org:7000 --scope SanFrancisco      prints a code
  tombolo link accept tombolo1-…                                              at the other segment
  tombolo link list
  tombolo sync status

Codes and keys travel as they should: a code is used once and expires, each segment has a key of its own, and the other side remembers it.";

const INVITE_HELP: &str = "\
Examples:
  tombolo link invite --address sf.example.org:7000
  tombolo link invite --scope SanFrancisco/lab --mode metadata --valid-for 2d

The code is a secret until it is used: whoever has it can link to this segment. JSON: code, addresses, scope, mode, visible, direction, expires.";

const ACCEPT_HELP: &str = "\
Examples:
  tombolo link accept tombolo1-…
  tombolo link accept - --mode metadata < code
  tombolo link accept tombolo1-… --visible whole
  tombolo link accept tombolo1-… --scope SanFrancisco/lab/raw --direction receive
  tombolo link accept tombolo1-… --mode gather

It ends with 4 when the segment that made the code can't be reached, with 1 when it refuses the code (used, withdrawn or expired).";

const SET_HELP: &str = "\
What can be set, KEY=VALUE:
  mode        full, metadata, or gather: what is written here goes to the other side, and leaves this one once it is held there
  direction   both, send or receive, seen from this segment
  scope       places with a comma between: CLUSTER[/TENANT[/BUCKET]], or / for everything
  passes      initial (what the other segment has now, and nothing after that), continuous (names, and the data of what changes from now on) or both;
              setting it begins anew
  visible     in mode full: early (versions show as soon as their names have come, and data follows) or whole (they show when their data is here)
  whole-patience   with visible=whole: how long a version whose data nobody delivers holds up what comes behind it, such as 10m; then it shows without, and
              is listed as missing
  addresses   where to dial the other segment, HOST:PORT, with a comma between; nothing: it dials
  rate        the most bytes a second that are sent (also 10M, 1G), or none
  gather-delay     in mode gather: how old data must be before it goes, such as 12h
  gather-receipts  in mode gather: how many other segments must have promised to hold it
  gather-names     in mode gather: on (names of what has gone go out of sight here, see tombolo sync recall --help) or off (they stay, and data comes
              when it is read)

All of them change at once, and while data flows. Example:
  tombolo link set newyork mode=metadata rate=10M";

/// What links bring and which way, as an option.
fn mode() -> impl TypedValueParser<Value = Mode> {
    PossibleValuesParser::new(Mode::ALL.map(Mode::as_str)).try_map(|text| text.parse::<Mode>())
}

/// When versions show, as an option.
fn visible() -> impl TypedValueParser<Value = Visible> {
    PossibleValuesParser::new(Visible::ALL.map(Visible::as_str)).try_map(|text| text.parse::<Visible>())
}

fn direction() -> impl TypedValueParser<Value = Direction> {
    PossibleValuesParser::new(Direction::ALL.map(Direction::as_str)).try_map(|text| text.parse::<Direction>())
}

#[derive(Debug, Subcommand)]
pub(crate) enum LinkVerb {
    /// Make a one-time code that another segment accepts, and print it.
    #[command(after_long_help = INVITE_HELP)]
    Invite(InviteArgs),
    /// List the codes that wait to be used, without their secrets.
    Invites,
    /// Withdraw a code.
    Cancel {
        /// As link invites shows it.
        id: String,
    },
    /// Link this segment to the one that made a code.
    #[command(after_long_help = ACCEPT_HELP)]
    Accept(AcceptArgs),
    /// List the links and how they are doing.
    #[command(
        after_long_help = "JSON: name, peer, connected, connected_to, rtt_ms, mode, visible, direction, scope, addresses, paused, problem, …"
    )]
    List,
    /// Show everything about a link.
    Show {
        /// The other segment's name, or its id.
        name: String,
    },
    /// Change a link.
    #[command(after_long_help = SET_HELP)]
    Set {
        /// The other segment's name, or its id.
        name: String,
        /// What to change.
        #[arg(value_name = "KEY=VALUE", required = true, value_parser = parse_setting)]
        values: Vec<(String, String)>,
    },
    /// Let nothing go over a link until it is resumed. Both sides go on working; what differs then is merged.
    Pause {
        /// The other segment's name, or its id.
        name: String,
    },
    /// Let a paused link go on.
    Resume {
        /// The other segment's name, or its id.
        name: String,
    },
    /// Give this segment another key: linked segments are told of it first, and it is used when all of them know it.
    ///
    /// It ends with 4 when some could not be told in time; the change then goes on by itself, also after a restart, and the same command shows how far it is.
    /// From then on the old key is refused, and codes that were given out before are void.
    RotateKey {
        /// Use the new key at once. Linked segments that have not heard of it have to be linked anew.
        #[arg(long)]
        now: bool,
        /// How long to wait for linked segments.
        #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// Delete a link. What came over it stays; to link again takes a new code.
    Delete {
        /// The other segment's name, or its id.
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// Where the other segment finds this one, at most 8 times. Default: where the daemon listens for links.
    #[arg(long, value_name = "HOST:PORT", num_args = 1.., value_delimiter = ',')]
    pub(crate) address: Vec<String>,
    /// What the other segment may see and change: clusters, tenants or buckets. Default: everything.
    #[arg(long, value_name = "PATH", num_args = 1.., value_delimiter = ',')]
    pub(crate) scope: Vec<String>,
    /// What comes to the other segment: names and data (full), or names and just the data that is read (metadata); gather: as metadata, and what is written
    /// there comes here and leaves it.
    #[arg(long, value_name = "MODE", default_value = "full", value_parser = mode())]
    pub(crate) mode: Mode,
    /// When versions show at the other side: as soon as their names have come, or when their data has.
    #[arg(long, value_name = "WHEN", default_value = "early", value_parser = visible())]
    pub(crate) visible: Visible,
    /// Which way changes go, seen from this segment.
    #[arg(long, value_name = "DIRECTION", default_value = "both", value_parser = direction())]
    pub(crate) direction: Direction,
    /// How long the code may wait, at most 30d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    pub(crate) valid_for: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct AcceptArgs {
    /// The code, or - to read it from standard input, where no other process sees it.
    pub(crate) code: String,
    /// What comes here: names and data (full), or names and just the data that is read (metadata); gather: as metadata, and what is written here goes to the
    /// other segment and leaves this one. Default: what the code says.
    #[arg(long, value_name = "MODE", value_parser = mode())]
    pub(crate) mode: Option<Mode>,
    /// When versions show here: as soon as their names have come, or when their data has. Default: what the code says.
    #[arg(long, value_name = "WHEN", value_parser = visible())]
    pub(crate) visible: Option<Visible>,
    /// Which way changes go, seen from this segment. Default: what the code says.
    #[arg(long, value_name = "DIRECTION", value_parser = direction())]
    pub(crate) direction: Option<Direction>,
    /// Carry only these clusters, tenants or buckets of what the code offers. Can be given several times.
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    pub(crate) scope: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SyncVerb {
    /// Show for each bucket and linked segment how far names and data have come, and what is missing and why.
    ///
    /// Names are complete when every change that the other segment is known to have is here; data is complete when every byte of it is here as well. In
    /// a bucket whose data comes when it is read (mode metadata) data says "on demand".
    #[command(after_long_help = "\
Examples:
  tombolo sync status
  tombolo sync status --json SanFrancisco/lab/data

JSON: links, and buckets with vector, data_vector, names_complete, data_complete (null: on demand), missing objects and bytes, waiting objects and bytes (where
versions show only when their data is here), and peers.")]
    Status {
        /// A cluster, tenant or bucket; everything without it.
        #[arg(default_value = "")]
        path: OsString,
    },
    /// Compare what is here with what each linked segment has, and prove that it is the same, or name what is not.
    ///
    /// Compared are names, attributes, contents by their hashes, and older versions, as of one moment at both sides. What goes over the link is in proportion to what
    /// differs, not to what there is. It ends with 5 when something differs, with 4 when changes were still under way at the end of the time or a segment could not
    /// be asked, and with 3 where there is nothing to compare. Whether the bytes that the hashes stand for are here says sync status; whether they are whole, scrub.
    #[command(after_long_help = "\
Examples:
  tombolo sync verify
  tombolo sync verify SanFrancisco/lab/data --json

JSON: equal, and for each bucket and linked segment bucket, peer, name, outcome (equal, different, under-way or unknown), rows, differences (key, null where
nothing here shows it; what; held: both, here or there), is_more, lacking_here and lacking_there (SEGMENT-SEQUENCE), problem, sent_bytes, received_bytes, questions.")]
    Verify {
        /// A cluster, tenant or bucket; everything without it.
        #[arg(default_value = "")]
        path: OsString,
        /// How long to wait for changes under way.
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// List what concurrent changes left for somebody to decide, and decide it.
    #[command(subcommand)]
    Conflicts(ConflictsVerb),
    /// Declare a segment gone: what is deleted goes here without waiting until it has heard of it.
    ///
    /// The segments that this one is linked to hear of it. Should the forgotten one come back, it compares all that it holds with what there is by then: what
    /// was deleted meanwhile goes there too, and what it alone has stays. Links to it are not touched.
    #[command(after_long_help = "\
Examples:
  tombolo sync forget newyork
  tombolo sync forget 5f0c2b9a4d7e41d38f6a1b2c3d4e5f60

Who carries which bucket: tombolo sync status --json. The next collection (tombolo gc) gives the space back.")]
    Forget {
        /// The name of the link to it, or its id.
        segment: String,
    },
    /// Wait until all that the linked segments had when it began is here, names and data. It ends with 4 when that is not so in time, and with 3 for
    /// a place that is not here or that no link covers.
    #[command(after_long_help = "\
Examples:
  tombolo sync wait
  tombolo sync wait SanFrancisco/lab/data --timeout 60s && make-report

A linked segment that can't be reached may have anything, so then it ends with 4, too.")]
    Wait {
        /// A cluster, tenant or bucket; everything without it.
        #[arg(default_value = "")]
        path: OsString,
        /// How long to wait; 0: as long as it takes.
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// Bring all data below a path here, now and as it changes, and keep it, where data comes only when it is read.
    ///
    /// A path is an object, and all that is below it as if it were a directory; a bucket as a whole; or, with a / at its end, what is in a directory. What is
    /// below it may come later.
    #[command(after_long_help = "\
Examples:
  tombolo sync pin SanFrancisco/lab/data/run-7
  tombolo sync pin SanFrancisco/lab/data && tombolo sync wait SanFrancisco/lab/data

sync status --json names what is pinned.")]
    Pin {
        /// CLUSTER/TENANT/BUCKET[/KEY]
        path: OsString,
    },
    /// Take a pin back: what it brought may be given up again.
    Unpin {
        /// The path that was pinned.
        path: OsString,
    },
    /// Have names that are away seen again, where a link has gather-names=on.
    ///
    /// What others hold goes out of sight here with a collection; nothing is deleted. What is recalled stays in sight as long as if it had been written now
    /// (gather-delay); pin it, and it stays. Paths are those of pins. What is away: tombolo ls --all.
    #[command(after_long_help = "\
Examples:
  tombolo ls --all NewYork/lab/inbox
  tombolo sync recall NewYork/lab/inbox/run-7

JSON: bucket, key, recalled (how many files).")]
    Recall {
        /// CLUSTER/TENANT/BUCKET[/KEY]
        path: OsString,
    },
    /// Bring the data that is below a path now, and keep it for good; what is written there later is not meant.
    Persist {
        /// CLUSTER/TENANT/BUCKET[/KEY]
        path: OsString,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConflictsVerb {
    /// List conflicts: who lost, and where it is now.
    #[command(after_long_help = "\
Examples:
  tombolo sync conflicts list
  tombolo sync conflicts list --json SanFrancisco/lab/data/plans/

JSON: path (what resolve takes), bucket, kind (file, directory, cycle or rescued), key in contention, copy (null: an older version of the key), segment and
sequence of the write that lost, its version (null: a directory).")]
    List {
        /// A cluster, tenant or bucket, or what keys in a bucket begin with; everything without it.
        #[arg(default_value = "")]
        path: OsString,
    },
    /// Decide a conflict. The decision is a change like others: it reaches the linked segments, and holds there.
    #[command(after_long_help = "\
Examples:
  tombolo sync conflicts resolve 'SanFrancisco/lab/data/plan (conflict newyork 7).txt' --take theirs
  tombolo sync conflicts resolve SanFrancisco/lab/scratch/k --take mine                                where losers are older versions

Of a directory both can be kept; otherwise move what is in it. It ends with 3 when there is no such conflict.")]
    Resolve {
        /// The copy, as list shows it; in a bucket that keeps one winner, the key, whose latest loser is meant.
        path: OsString,
        /// Who stays.
        #[arg(long, value_enum)]
        take: Take,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// First of the ports: S3 is on PORT and PORT+1, NFS on PORT+3049 and PORT+3050. A port that is taken is replaced by a free one; 0: all of them are free
    /// ones.
    #[arg(long, value_name = "PORT", default_value_t = 9000, value_parser = clap::value_parser!(u16).range(..=62_000))]
    pub(crate) port_base: u16,
    /// Don't mount, even if this user may.
    #[arg(long)]
    pub(crate) no_mount: bool,
}

/// What a reader must see.
#[derive(Debug, Args)]
pub(crate) struct AfterArgs {
    /// Wait until all is here that this token stands for, which a write at another segment gave (put --token). It ends with 4 when that is not so in time.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) after: Option<String>,
    /// How long to wait for that.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration, requires = "after")]
    pub(crate) timeout: Duration,
}
