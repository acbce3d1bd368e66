//! What every service shares and nothing that a single one needs: typed ids, the request's context and its signed
//! token, errors, keys, the clock, and the gRPC layers that check a caller before a handler sees the request.
//!
//! Never here: SQL (that is `nitejar_db`), process set-up (that is `nitejar_runtime`).

pub mod clock;
pub mod ctx;
pub mod error;
pub mod grpc;
pub mod id;
pub mod idempotency;
pub mod key;
pub mod network;
pub mod page;
pub mod rng;
pub mod secret;
pub mod text;
pub mod time;
pub mod token;

pub use nitejar_proto::{permission, policy};

pub use ctx::{Actor, ActorKind, OrgState, RequestCtx, SignIn};
pub use error::{Code, Error, Result};
