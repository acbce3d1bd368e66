//! The RPCs.

mod internal;
mod invitations;
mod keys;
mod members;
mod orgs;
mod secrets;
mod sessions;
mod users;
