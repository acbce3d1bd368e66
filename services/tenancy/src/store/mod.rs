//! The only SQL of this service: plain functions over a bound connection.

pub mod credentials;
pub mod domains;
pub mod exports;
pub mod invitations;
pub mod keys;
pub mod living;
pub mod mails;
pub mod members;
pub mod org;
pub mod orgs;
pub mod ownership;
pub mod rates;
pub mod receipts;
pub mod roles;
pub mod secrets;
pub mod sessions;
pub mod support;
pub mod users;
