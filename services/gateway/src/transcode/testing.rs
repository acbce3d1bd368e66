//! Messages filled at random, the same ones in each run.

use prost_reflect::{DynamicMessage, Kind, MapKey, MessageDescriptor, Value};

/// xorshift.
pub(super) fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// A message with about two thirds of its fields set.
pub(super) fn random(descriptor: &MessageDescriptor, seed: &mut u64, depth: u8) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        if next(seed).is_multiple_of(3) || depth > 5 {
            continue;
        }
        let one = |seed: &mut u64| match field.kind() {
            Kind::String => {
                Value::String(["", "a", "\"\\\n\u{7}\u{1f600}é"][(next(seed) % 3) as usize].into())
            }
            Kind::Bool => Value::Bool(next(seed).is_multiple_of(2)),
            Kind::Int32 => Value::I32(next(seed) as i32),
            Kind::Uint32 => Value::U32(next(seed) as u32),
            Kind::Int64 => Value::I64((next(seed) >> 12) as i64 - (1 << 50)),
            Kind::Message(d) if d.full_name() == "google.protobuf.Timestamp" => {
                let mut t = DynamicMessage::new(d);
                t.set_field_by_name("seconds", Value::I64((next(seed) % 4_000_000_000) as i64));
                t.set_field_by_name("nanos", Value::I32((next(seed) % 1_000_000_000) as i32));
                Value::Message(t)
            }
            Kind::Message(d) => Value::Message(random(&d, seed, depth + 1)),
            other => panic!("{} is {other:?}: teach the writer, and this test", field.full_name()),
        };
        if field.is_map() {
            let map =
                (0..next(seed) % 3).map(|i| (MapKey::String(format!("k{i}")), Value::String("v".into())));
            message.set_field(&field, Value::Map(map.collect()));
        } else if field.is_list() {
            let list = (0..next(seed) % 3).map(|_| one(seed)).collect();
            message.set_field(&field, Value::List(list));
        } else {
            let value = one(seed);
            message.set_field(&field, value);
        }
    }
    message
}
