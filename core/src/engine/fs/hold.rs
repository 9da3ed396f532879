//! What keeps the chunks of an open file's content from being collected while nothing in the metadata refers to them.

use super::super::contents::Pin;
use super::super::session::Session;
use std::sync::Arc;

/// Shared by a file's state and by everybody who reads from, or copies, what it refers to.
#[derive(Default)]
pub(in crate::engine) struct Hold {
    /// The content that was there at first, registered with collections.
    pub(super) pin: Option<Pin>,
    /// Chunks stored since.
    pub(super) session: Option<Arc<Session>>,
    /// Of contents that parts were taken from.
    pub(super) others: Vec<Arc<Hold>>,
}

impl Hold {
    /// All sessions whose chunks may be referred to.
    pub(super) fn sessions(self: &Arc<Hold>, out: &mut Vec<Arc<Session>>) {
        if let Some(session) = &self.session
            && !out.iter().any(|known| Arc::ptr_eq(known, session))
        {
            out.push(session.clone());
        }
        for other in &self.others {
            other.sessions(out);
        }
    }

    /// This and `other`.
    pub(super) fn with(self: &Arc<Hold>, other: &Arc<Hold>) -> Arc<Hold> {
        if Arc::ptr_eq(self, other) || self.others.iter().any(|known| Arc::ptr_eq(known, other)) {
            return self.clone();
        }
        let mut others: Vec<_> = self.others.clone();
        if self.pin.is_some() || self.session.is_some() || others.is_empty() {
            others.push(self.clone());
        }
        others.push(other.clone());
        Arc::new(Hold { pin: None, session: None, others })
    }
}
