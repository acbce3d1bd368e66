//! The RPCs.

mod domains;
mod exports;
mod internal;
mod invitations;
mod keys;
mod members;
mod org_lives;
mod orgs;
mod ownership;
mod roles;
mod secrets;
mod sessions;
mod support;
mod users;

pub(crate) use users::{key_to_pb, to_pb as user_to_pb};
