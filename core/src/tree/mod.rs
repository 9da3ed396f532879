//! Skeleton.
use crate::id::NodeId;
use crate::register::Dot;
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind { File, Directory { explicit: bool } }
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryValue { pub node: NodeId, pub kind: EntryKind }
pub fn directory_id(parent: &NodeId, name: &[u8], replaces: &[Dot]) -> NodeId { let _=(parent,name,replaces); NodeId([0;16]) }
