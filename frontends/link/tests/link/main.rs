//! Segments linked over real sockets, in one process.

mod cases;
mod site;
