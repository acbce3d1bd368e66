//! HTTP ↔ protobuf, from the descriptor set alone. A new RPC needs no code here.

pub mod codec;
pub mod json;
pub mod plan;
pub mod request;
pub mod response;
pub mod routes;
pub mod rules;
pub mod stream;
#[cfg(test)]
mod testing;
