//! From an answer's bytes straight to JSON, without a message in between.
//!
//! A plan is compiled once from the descriptors. It writes what [`response::to_json`] writes, byte for byte, and gives up
//! (`None`) whenever the bytes are not what prost writes: fields out of order, a message in two pieces, a kind that it does
//! not know. Then the caller takes the long way, which is also the one that says what is wrong.

use std::collections::HashMap;

use prost::encoding::{WireType, decode_key, decode_varint};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::response;

/// Deeper answers take the long way.
const DEEPEST: u8 = 32;

/// How to write the messages of one answer. The first is the answer itself.
#[derive(Debug)]
pub struct Plan {
    messages: Vec<Message>,
}

#[derive(Debug)]
enum Message {
    Fields(Vec<Field>),
    Timestamp,
}

#[derive(Debug)]
struct Field {
    number: u32,
    /// `"name":`
    label: String,
    shape: Shape,
    value: Scalar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Written when it is there.
    Optional,
    /// Written always.
    Plain,
    List,
    /// Of text to text.
    Map,
}

#[derive(Clone, Copy, Debug)]
enum Scalar {
    Text,
    Bool,
    Int32,
    Uint32,
    Int64,
    Uint64,
    /// Index of its plan.
    Message(usize),
}

impl Plan {
    /// Compiles it; none for a message with a kind of field that it does not know.
    pub fn new(descriptor: &MessageDescriptor) -> Option<Self> {
        let mut plan = Self { messages: Vec::new() };
        plan.add(descriptor, &mut HashMap::new())?;
        Some(plan)
    }

    fn add(&mut self, descriptor: &MessageDescriptor, known: &mut HashMap<String, usize>) -> Option<usize> {
        if let Some(at) = known.get(descriptor.full_name()) {
            return Some(*at);
        }
        let at = self.messages.len();
        known.insert(descriptor.full_name().to_owned(), at);
        self.messages.push(Message::Timestamp);
        match descriptor.full_name() {
            "google.protobuf.Timestamp" => return Some(at),
            name if name.starts_with("google.protobuf.") => return None,
            _ => {}
        }
        let fields =
            descriptor.fields().map(|field| self.field(&field, known)).collect::<Option<Vec<_>>>()?;
        self.messages[at] = Message::Fields(fields);
        Some(at)
    }

    fn field(&mut self, field: &FieldDescriptor, known: &mut HashMap<String, usize>) -> Option<Field> {
        // Of two members on the wire only the last one counts.
        if field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic()) {
            return None;
        }
        let kind = field.kind();
        let (shape, kind) = if field.is_map() {
            let entry = kind.as_message()?.clone();
            let text = |f: FieldDescriptor| matches!(f.kind(), Kind::String);
            if !text(entry.map_entry_key_field()) || !text(entry.map_entry_value_field()) {
                return None;
            }
            (Shape::Map, Kind::String)
        } else if field.is_list() {
            (Shape::List, kind)
        } else if field.supports_presence() {
            (Shape::Optional, kind)
        } else {
            (Shape::Plain, kind)
        };
        let value = match kind {
            Kind::String => Scalar::Text,
            Kind::Bool => Scalar::Bool,
            Kind::Int32 => Scalar::Int32,
            Kind::Uint32 => Scalar::Uint32,
            Kind::Int64 => Scalar::Int64,
            Kind::Uint64 => Scalar::Uint64,
            Kind::Message(inner) => Scalar::Message(self.add(&inner, known)?),
            _ => return None,
        };
        Some(Field { number: field.number(), label: format!("\"{}\":", field.name()), shape, value })
    }

    /// The JSON of an encoded answer.
    pub fn write(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(64 + bytes.len() * 2);
        self.message(0, bytes, &mut out, 0)?;
        Some(out)
    }

    fn message(&self, at: usize, mut bytes: &[u8], out: &mut Vec<u8>, depth: u8) -> Option<()> {
        if depth > DEEPEST {
            return None;
        }
        let fields = match self.messages.get(at)? {
            Message::Timestamp => return timestamp(bytes, out),
            Message::Fields(fields) => fields,
        };
        out.push(b'{');
        let mut first = true;
        let mut key = next_key(&mut bytes)?;
        for field in fields {
            let here = key.filter(|(number, _)| *number == field.number);
            if here.is_none() && field.shape == Shape::Optional {
                continue;
            }
            if !std::mem::replace(&mut first, false) {
                out.push(b',');
            }
            out.extend_from_slice(field.label.as_bytes());
            match (field.shape, here) {
                (Shape::List, None) => out.extend_from_slice(b"[]"),
                (Shape::Map, None) => out.extend_from_slice(b"{}"),
                (_, None) => field.value.write_default(out)?,
                (Shape::List, Some(_)) => key = self.list(field, key, &mut bytes, out, depth)?,
                (Shape::Map, Some(_)) => key = map(field.number, key, &mut bytes, out)?,
                (Shape::Optional | Shape::Plain, Some((_, wire))) => {
                    self.value(field.value, wire, &mut bytes, out, depth)?;
                    key = next_key(&mut bytes)?;
                }
            }
        }
        // A field that comes after its turn, comes twice, or is none of ours.
        if key.is_some() {
            return None;
        }
        out.push(b'}');
        Some(())
    }

    fn list(
        &self,
        field: &Field,
        mut key: Option<(u32, WireType)>,
        bytes: &mut &[u8],
        out: &mut Vec<u8>,
        depth: u8,
    ) -> Option<Option<(u32, WireType)>> {
        out.push(b'[');
        let mut first = true;
        while let Some((number, wire)) = key
            && number == field.number
        {
            let packed = wire == WireType::LengthDelimited
                && !matches!(field.value, Scalar::Text | Scalar::Message(_));
            let mut run = if packed { delimited(bytes)? } else { &[] };
            loop {
                if packed && run.is_empty() {
                    break;
                }
                if !std::mem::replace(&mut first, false) {
                    out.push(b',');
                }
                if packed {
                    self.value(field.value, WireType::Varint, &mut run, out, depth)?;
                } else {
                    self.value(field.value, wire, bytes, out, depth)?;
                    break;
                }
            }
            key = next_key(bytes)?;
        }
        out.push(b']');
        Some(key)
    }

    fn value(
        &self,
        value: Scalar,
        wire: WireType,
        bytes: &mut &[u8],
        out: &mut Vec<u8>,
        depth: u8,
    ) -> Option<()> {
        match value {
            Scalar::Text | Scalar::Message(_) if wire != WireType::LengthDelimited => None,
            Scalar::Text => text(delimited(bytes)?, out),
            Scalar::Message(at) => self.message(at, delimited(bytes)?, out, depth + 1),
            _ if wire != WireType::Varint => None,
            Scalar::Bool => {
                out.extend_from_slice(if decode_varint(bytes).ok()? == 0 { b"false" } else { b"true" });
                Some(())
            }
            // Negative numbers of 32 bits travel as ten bytes: the lower half is the number.
            #[expect(clippy::cast_possible_truncation, reason = "protobuf defines it so")]
            Scalar::Int32 => number(i64::from(decode_varint(bytes).ok()? as i32), out),
            #[expect(clippy::cast_possible_truncation, reason = "protobuf defines it so")]
            Scalar::Uint32 => number(i64::from(decode_varint(bytes).ok()? as u32), out),
            Scalar::Int64 => number(decode_varint(bytes).ok()?.cast_signed(), out),
            Scalar::Uint64 => number(i64::try_from(decode_varint(bytes).ok()?).ok()?, out),
        }
    }
}

impl Scalar {
    fn write_default(self, out: &mut Vec<u8>) -> Option<()> {
        let text: &[u8] = match self {
            Self::Text => b"\"\"",
            Self::Bool => b"false",
            Self::Int32 | Self::Uint32 | Self::Int64 | Self::Uint64 => b"0",
            Self::Message(_) => return None,
        };
        out.extend_from_slice(text);
        Some(())
    }
}

/// The next field's number and wire type; inner none at the end.
#[expect(clippy::option_option, reason = "the outer one is the way out")]
fn next_key(bytes: &mut &[u8]) -> Option<Option<(u32, WireType)>> {
    if bytes.is_empty() {
        return Some(None);
    }
    decode_key(bytes).ok().map(Some)
}

fn delimited<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(decode_varint(bytes).ok()?).ok()?;
    let (part, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(part)
}

fn text(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    serde_json::to_writer(out, std::str::from_utf8(bytes).ok()?).ok()
}

fn number(n: i64, out: &mut Vec<u8>) -> Option<()> {
    if n.unsigned_abs() > response::SAFE {
        return serde_json::to_writer(out, &n.to_string()).ok();
    }
    serde_json::to_writer(out, &n).ok()
}

fn timestamp(mut bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (mut seconds, mut nanos) = (0, 0);
    while let Some((number, wire)) = next_key(&mut bytes)? {
        let varint =
            (wire == WireType::Varint).then(|| decode_varint(&mut bytes).ok()).flatten()?.cast_signed();
        match number {
            1 => seconds = varint,
            2 => nanos = i32::try_from(varint).ok()?,
            _ => return None,
        }
    }
    serde_json::to_writer(out, &response::timestamp_text(seconds, nanos)).ok()
}

#[expect(clippy::option_option, reason = "as in next_key")]
fn map(
    number: u32,
    mut key: Option<(u32, WireType)>,
    bytes: &mut &[u8],
    out: &mut Vec<u8>,
) -> Option<Option<(u32, WireType)>> {
    let mut entries: Vec<(&str, &str)> = Vec::new();
    while let Some((n, wire)) = key
        && n == number
    {
        if wire != WireType::LengthDelimited {
            return None;
        }
        let mut entry = delimited(bytes)?;
        let (mut name, mut value) = ("", "");
        while let Some((part, wire)) = next_key(&mut entry)? {
            let text = (wire == WireType::LengthDelimited).then(|| delimited(&mut entry)).flatten()?;
            let text = std::str::from_utf8(text).ok()?;
            match part {
                1 => name = text,
                2 => value = text,
                _ => return None,
            }
        }
        entries.push((name, value));
        key = next_key(bytes)?;
    }
    entries.sort_unstable();
    if entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return None;
    }
    out.push(b'{');
    for (i, (name, value)) in entries.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        text(name.as_bytes(), out)?;
        out.push(b':');
        text(value.as_bytes(), out)?;
    }
    out.push(b'}');
    Some(key)
}

/// A text field of an encoded message, such as its `etag`; none when it is not there.
pub fn text_field(mut bytes: &[u8], number: u32) -> Option<&str> {
    let mut found = None;
    while let Some((n, wire)) = next_key(&mut bytes)? {
        if n == number && wire == WireType::LengthDelimited {
            found = std::str::from_utf8(delimited(&mut bytes)?).ok();
        } else {
            let context = prost::encoding::DecodeContext::default();
            prost::encoding::skip_field(wire, n, &mut bytes, context).ok()?;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message as _;

    use super::*;
    use crate::transcode::routes::Routes;
    use crate::transcode::testing::{next, random};

    #[test]
    fn every_answer_has_a_plan_that_writes_what_the_long_way_writes() {
        let mut seed = 7;
        for route in Routes::new().iter().filter(|r| r.cookies.is_empty() && !r.raw) {
            let descriptor = route.method.output();
            let plan =
                Plan::new(&descriptor).unwrap_or_else(|| panic!("{} has none", descriptor.full_name()));
            for _ in 0..50 {
                let message = random(&descriptor, &mut seed, 0);
                let json = plan.write(&message.encode_to_vec());
                let json = json.map(|json| String::from_utf8(json).unwrap());
                assert_eq!(json.as_deref(), Some(response::to_json(&message).as_str()));
            }
        }
    }

    #[test]
    fn of_broken_bytes_it_writes_what_the_long_way_writes_or_nothing() {
        let mut seed = 11;
        let (mut written, mut given_up) = (0, 0);
        for route in Routes::new().iter().filter(|r| r.cookies.is_empty() && !r.raw) {
            let descriptor = route.method.output();
            let plan = Plan::new(&descriptor).unwrap();
            for _ in 0..400 {
                let mut bytes = random(&descriptor, &mut seed, 0).encode_to_vec();
                let mut place = |len: usize| usize::try_from(next(&mut seed)).unwrap() % len.max(1);
                for _ in 0..=place(3) {
                    let at = place(bytes.len());
                    match place(4) {
                        0 => bytes.truncate(at),
                        1 => bytes.insert(at, u8::try_from(place(256)).unwrap()),
                        2 => bytes.extend_from_within(at..),
                        _ if bytes.is_empty() => {}
                        _ => bytes[at] = u8::try_from(place(256)).unwrap(),
                    }
                }
                match plan.write(&bytes) {
                    None => given_up += 1,
                    Some(json) => {
                        written += 1;
                        let message = response::decode(descriptor.clone(), Bytes::from(bytes)).unwrap();
                        assert_eq!(String::from_utf8(json).unwrap(), response::to_json(&message));
                    }
                }
            }
        }
        assert!(written > 1000 && given_up > 1000, "{written} {given_up}: not both ways were tried");
    }

    #[test]
    fn finds_a_text_field() {
        let org =
            nitejar_proto::tenancy::v1::Org { slug: "s".into(), etag: "v7".into(), ..Default::default() };
        let bytes = org.encode_to_vec();
        let number = |name: &str| {
            let org = nitejar_proto::POOL.get_message_by_name("nitejar.tenancy.v1.Org").unwrap();
            org.get_field_by_name(name).unwrap().number()
        };
        assert_eq!(text_field(&bytes, number("etag")), Some("v7"));
        assert_eq!(text_field(&bytes, number("name")), None);
        assert_eq!(text_field(&bytes[..bytes.len() - 1], number("etag")), None);
    }
}
