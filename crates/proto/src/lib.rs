//! Generated messages, clients and servers of `proto/nitejar`, the descriptor set they come from, and what the
//! proto files state about each RPC ([`policy`]) and who holds which permission ([`permission`]).

use std::collections::HashMap;
use std::sync::LazyLock;

pub mod permission;
pub mod policy;

/// The whole descriptor set, with options and comments, for prost-reflect.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The descriptor set, decoded once.
pub static POOL: LazyLock<prost_reflect::DescriptorPool> = LazyLock::new(|| {
    prost_reflect::DescriptorPool::decode(DESCRIPTORS).expect("the build script decoded the same bytes")
});

/// Every RPC's policy by gRPC path.
pub static POLICIES: LazyLock<HashMap<String, policy::MethodPolicy>> = LazyLock::new(|| {
    let all = policy::read(&POOL).expect("the build script refused wrong policies");
    all.into_iter().map(|p| (p.path.clone(), p)).collect()
});

macro_rules! packages {
    ($($service:ident = $package:tt),*) => {$(
        /// Generated from the proto files of the same name.
        pub mod $service {
            /// Version 1.
            #[allow(clippy::all, reason = "generated code")]
            pub mod v1 {
                tonic::include_proto!($package);
            }
        }
    )*};
}

packages!(
    common = "nitejar.common.v1",
    tenancy = "nitejar.tenancy.v1",
    billing = "nitejar.billing.v1",
    sprites = "nitejar.sprites.v1",
    audit = "nitejar.audit.v1"
);
