//! Between chrono and protobuf timestamps.

use chrono::{DateTime, Utc};
use prost_types::Timestamp;

/// The protobuf form.
pub fn to_proto(at: DateTime<Utc>) -> Timestamp {
    Timestamp { seconds: at.timestamp(), nanos: i32::try_from(at.timestamp_subsec_nanos()).unwrap_or(0) }
}

/// The chrono form; none when out of range.
pub fn from_proto(at: &Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?)
}
