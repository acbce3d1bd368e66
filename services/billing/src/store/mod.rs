//! The only SQL of this service: plain functions over a bound connection.

pub mod due;
pub mod leases;
pub mod ledger;
pub mod meters;
pub mod plans;
pub mod reservations;
pub mod subscription;
