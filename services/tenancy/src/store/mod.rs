//! The only SQL of this service: plain functions over a bound connection.

pub mod credentials;
pub mod invitations;
pub mod keys;
pub mod members;
pub mod org;
pub mod orgs;
pub mod rates;
pub mod secrets;
pub mod sessions;
pub mod users;
