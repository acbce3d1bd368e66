//! From path, query, headers and body to a message; all that is wrong is told at once, with pointers.

use nitejar_common::error::{Code, Error, Result, Violation};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage as _, Value,
};

use super::json::Node;
use super::routes::Route;
use super::rules;

/// The field that If-Match fills, and that ETag shows.
pub const ETAG: &str = "etag";
/// The answer's field that continues a list.
pub const NEXT_PAGE: &str = "next_page_token";
/// The field that says which others a PATCH writes.
const MASK: &str = "update_mask";

/// The field that Last-Event-ID fills: a stream goes on after it.
pub const AFTER: &str = "after";

/// What fills fields besides path, query and body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a> {
    /// Of the route's `filled` fields, those that have a value.
    pub filled: &'a [(FieldDescriptor, String)],
    /// The version that the caller read.
    pub if_match: Option<&'a str>,
    /// The last event of a stream that broke off.
    pub last_event_id: Option<&'a str>,
}

/// Builds the request message.
pub fn build(
    route: &Route,
    variables: &[(String, String)],
    query: &str,
    headers: Headers<'_>,
    body: Option<Node>,
) -> Result<DynamicMessage> {
    let descriptor = route.method.input();
    let mut reader = Reader { problems: Vec::new(), bound: variables.iter().map(|v| v.0.clone()).collect() };
    let mut message = DynamicMessage::new(descriptor.clone());
    reader.bound.extend(route.filled.iter().map(|(field, _)| field.name().to_owned()));
    let has_etag = descriptor.get_field_by_name(ETAG).is_some();
    if has_etag {
        reader.bound.push(ETAG.to_owned());
    }
    match body {
        Some(Node::Object(fields)) => {
            let present = leaves(&descriptor, &fields, "", &reader.bound);
            reader.object(&mut message, fields, "");
            // An empty mask is none: what the body names is written.
            if let Some(mask) = descriptor.get_field_by_name(MASK)
                && is_empty_mask(&message.get_field(&mask))
            {
                set_mask(&mut message, &mask, present);
            }
        }
        Some(other) => reader.note("", &format!("must be an object, not {}", other.kind())),
        None => {}
    }
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let takes_query = route.policy.http.as_ref().is_some_and(|h| h.body.is_empty());
        if takes_query {
            reader.parameter(&mut message, &key, &value);
        } else {
            reader.note(&format!("/{key}"), "is no query parameter: this takes a body");
        }
    }
    for (name, value) in variables {
        if let Some(field) = descriptor.get_field_by_name(name) {
            reader.scalar(&mut message, &field, value, &format!("/{name}"));
        }
    }
    for (field, text) in headers.filled {
        message.set_field(field, Value::String(text.clone()));
    }
    // A browser that connects again repeats the address as it was: what it has seen counts more.
    if let (true, Some(id)) = (route.method.is_server_streaming(), headers.last_event_id)
        && let Some(field) = descriptor.get_field_by_name(AFTER)
    {
        reader.scalar(&mut message, &field, id, "/Last-Event-ID");
    }
    if let (true, Some(tag)) = (has_etag, headers.if_match) {
        let tag = tag.trim().trim_start_matches("W/").trim_matches('"');
        if tag.is_empty() || tag.contains(',') {
            reader.note("/If-Match", "must be one ETag, or *");
        } else if tag != "*" {
            message.set_field_by_name(ETAG, Value::String(tag.to_owned()));
        }
    }
    check_mask(&message, &mut reader);
    rules::check(&message, "", &mut reader.problems);
    if reader.problems.is_empty() {
        return Ok(message);
    }
    let mut error =
        Error::new(Code::InvalidArgument, "Some fields of the request are not valid; see errors.");
    for v in reader.problems {
        error = error.violation(v.pointer, v.detail);
    }
    Err(error)
}

/// Up to here a float tells all whole numbers apart.
const EXACT: f64 = 9_007_199_254_740_992.0;

struct Reader {
    problems: Vec<Violation>,
    /// Fields that come from elsewhere and so not from the body or the query.
    bound: Vec<String>,
}

impl Reader {
    fn note(&mut self, pointer: &str, detail: &str) {
        if self.problems.len() < rules::MOST {
            self.problems.push(Violation { pointer: pointer.to_owned(), detail: detail.to_owned() });
        }
    }

    fn object(&mut self, message: &mut DynamicMessage, fields: Vec<(String, Node)>, at: &str) {
        let descriptor = message.descriptor();
        for (name, node) in fields {
            let pointer = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
            let field = descriptor.get_field_by_name(&name);
            let Some(field) = field.filter(|_| !(at.is_empty() && self.bound.contains(&name))) else {
                self.note(&pointer, "is not a field of this request's body");
                continue;
            };
            if node == Node::Null {
                self.note(&pointer, "must not be null; leave it out instead");
                continue;
            }
            if let Some(value) = self.value(&field, node, &pointer) {
                message.set_field(&field, value);
            }
        }
    }

    fn value(&mut self, field: &FieldDescriptor, node: Node, pointer: &str) -> Option<Value> {
        if field.is_map() {
            return self.map(field, node, pointer);
        }
        if !field.is_list() {
            return self.single(&field.kind(), node, pointer);
        }
        let Node::List(items) = node else {
            self.note(pointer, &format!("must be an array, not {}", node.kind()));
            return None;
        };
        let kind = field.kind();
        let mut list = Vec::with_capacity(items.len().min(1000));
        for (i, item) in items.into_iter().enumerate() {
            list.push(self.single(&kind, item, &format!("{pointer}/{i}"))?);
        }
        Some(Value::List(list))
    }

    fn map(&mut self, field: &FieldDescriptor, node: Node, pointer: &str) -> Option<Value> {
        let Node::Object(entries) = node else {
            self.note(pointer, &format!("must be an object, not {}", node.kind()));
            return None;
        };
        let Kind::Message(entry) = field.kind() else { return None };
        let kind = entry.map_entry_value_field().kind();
        let mut map = std::collections::HashMap::new();
        for (key, item) in entries {
            let value = self.single(&kind, item, &format!("{pointer}/{key}"))?;
            map.insert(MapKey::String(key), value);
        }
        Some(Value::Map(map))
    }

    fn single(&mut self, kind: &Kind, node: Node, pointer: &str) -> Option<Value> {
        let wrong = match (kind, node) {
            (Kind::String, Node::Text(text)) => return Some(Value::String(text)),
            (Kind::Bool, Node::Bool(b)) => return Some(Value::Bool(b)),
            (Kind::Message(d), node) => return self.message(d, node, pointer),
            (kind, Node::Unsigned(n)) if rules::is_integer(kind) => match integer(kind, i128::from(n)) {
                Some(value) => return Some(value),
                None => "must fit its range".to_owned(),
            },
            (kind, Node::Signed(n)) if rules::is_integer(kind) => match integer(kind, i128::from(n)) {
                Some(value) => return Some(value),
                None => "must fit its range".to_owned(),
            },
            // 1.0 and 1e3 are whole numbers in JSON; beyond 2^53 a float has lost some.
            (kind, Node::Float(f)) if rules::is_integer(kind) => {
                let whole = f.fract() == 0.0 && f.abs() <= EXACT;
                #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
                match whole.then_some(f as i128).and_then(|n| integer(kind, n)) {
                    Some(value) => return Some(value),
                    None => "must be a whole number within its range".to_owned(),
                }
            }
            // What we write as a string, because it is not safe as a number, may come back as one.
            (kind @ (Kind::Int64 | Kind::Uint64), Node::Text(text)) => {
                match text.parse().ok().and_then(|n| integer(kind, n)) {
                    Some(value) => return Some(value),
                    None => "must be a whole number".to_owned(),
                }
            }
            (kind, node) => format!("must be {}, not {}", expected(kind), node.kind()),
        };
        self.note(pointer, &wrong);
        None
    }

    fn message(&mut self, descriptor: &MessageDescriptor, node: Node, pointer: &str) -> Option<Value> {
        match (descriptor.full_name(), node) {
            ("google.protobuf.Timestamp", Node::Text(text)) => match timestamp(descriptor, &text) {
                Some(value) => Some(value),
                None => {
                    self.note(pointer, "must be a time such as 2026-11-27T18:00:00Z");
                    None
                }
            },
            ("google.protobuf.FieldMask", Node::Text(text)) => {
                Some(mask_value(descriptor, text.split(',').map(str::trim)))
            }
            ("google.protobuf.Timestamp" | "google.protobuf.FieldMask", node) => {
                self.note(pointer, &format!("must be a string, not {}", node.kind()));
                None
            }
            (_, Node::Object(fields)) => {
                let mut inner = DynamicMessage::new(descriptor.clone());
                self.object(&mut inner, fields, pointer);
                Some(Value::Message(inner))
            }
            (_, node) => {
                self.note(pointer, &format!("must be an object, not {}", node.kind()));
                None
            }
        }
    }

    /// One query parameter; `a.b` reaches into messages.
    fn parameter(&mut self, message: &mut DynamicMessage, key: &str, text: &str) {
        let pointer = format!("/{}", key.replace('.', "/"));
        let (head, rest) = key.split_once('.').map_or((key, None), |(h, r)| (h, Some(r)));
        let field =
            message.descriptor().get_field_by_name(head).filter(|_| !self.bound.iter().any(|b| b == head));
        let Some(field) = field else {
            self.note(&pointer, "is not a query parameter of this request");
            return;
        };
        match rest {
            Some(rest) => match message.get_field_mut(&field) {
                Value::Message(inner) => self.parameter(inner, rest, text),
                _ => self.note(&pointer, "is not a query parameter of this request"),
            },
            None if message.has_field(&field) && !field.is_list() => {
                self.note(&pointer, "must be given once")
            }
            None => self.scalar(message, &field, text, &pointer),
        }
    }

    /// A text from path or query as the field's value.
    fn scalar(&mut self, message: &mut DynamicMessage, field: &FieldDescriptor, text: &str, pointer: &str) {
        let kind = field.kind();
        let value = match &kind {
            Kind::String => Some(Value::String(text.to_owned())),
            Kind::Bool => text.parse().ok().map(Value::Bool),
            Kind::Message(d) if d.full_name() == "google.protobuf.Timestamp" => timestamp(d, text),
            kind if rules::is_integer(kind) => text.parse().ok().and_then(|n| integer(kind, n)),
            _ => None,
        };
        match value {
            None => self.note(pointer, &format!("must be {}", expected(&kind))),
            Some(value) if field.is_list() => {
                if let Value::List(list) = message.get_field_mut(field) {
                    list.push(value);
                }
            }
            Some(value) => message.set_field(field, value),
        }
    }
}

fn integer(kind: &Kind, n: i128) -> Option<Value> {
    Some(match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(n.try_into().ok()?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(n.try_into().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(n.try_into().ok()?),
        _ => Value::U64(n.try_into().ok()?),
    })
}

fn expected(kind: &Kind) -> &'static str {
    match kind {
        Kind::String | Kind::Bytes => "a string",
        Kind::Bool => "true or false",
        Kind::Message(d) if d.full_name() == "google.protobuf.Timestamp" => {
            "a time such as 2026-11-27T18:00:00Z"
        }
        Kind::Message(_) => "an object",
        _ => "a whole number",
    }
}

fn timestamp(descriptor: &MessageDescriptor, text: &str) -> Option<Value> {
    let at = chrono::DateTime::parse_from_rfc3339(text).ok()?.to_utc();
    // What protobuf allows: the years 1 to 9999.
    (-62_135_596_800..=253_402_300_799).contains(&at.timestamp()).then_some(())?;
    let mut message = DynamicMessage::new(descriptor.clone());
    message.set_field_by_name("seconds", Value::I64(at.timestamp()));
    message.set_field_by_name("nanos", Value::I32(i32::try_from(at.timestamp_subsec_nanos()).ok()?));
    Some(Value::Message(message))
}

fn mask_value<'a>(descriptor: &MessageDescriptor, paths: impl Iterator<Item = &'a str>) -> Value {
    let mut message = DynamicMessage::new(descriptor.clone());
    let paths = paths.filter(|p| !p.is_empty()).map(|p| Value::String(p.to_owned())).collect();
    message.set_field_by_name("paths", Value::List(paths));
    Value::Message(message)
}

fn is_empty_mask(mask: &Value) -> bool {
    let paths = mask.as_message().and_then(|mask| mask.get_field_by_name("paths"));
    paths.is_none_or(|paths| paths.as_list().is_none_or(<[Value]>::is_empty))
}

fn set_mask(message: &mut DynamicMessage, field: &FieldDescriptor, present: Vec<String>) {
    if let Kind::Message(descriptor) = field.kind() {
        let value = mask_value(&descriptor, present.iter().map(String::as_str));
        message.set_field(field, value);
    }
}

/// The fields that a body names, as mask paths: lists and maps as a whole, messages by their parts.
fn leaves(
    descriptor: &MessageDescriptor,
    fields: &[(String, Node)],
    at: &str,
    bound: &[String],
) -> Vec<String> {
    let mut paths = Vec::new();
    for (name, node) in fields {
        let Some(field) = descriptor.get_field_by_name(name) else { continue };
        if at.is_empty() && (name == MASK || bound.contains(name)) {
            continue;
        }
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        match (field.kind(), node) {
            (Kind::Message(inner), Node::Object(parts)) if !field.is_list() && !field.is_map() => {
                paths.extend(leaves(&inner, parts, &path, bound));
            }
            _ => paths.push(path),
        }
    }
    paths
}

/// A mask names fields that there are.
fn check_mask(message: &DynamicMessage, reader: &mut Reader) {
    let Some(field) = message.descriptor().get_field_by_name(MASK) else { return };
    let value = message.get_field(&field);
    let Some(mask) = value.as_message() else { return };
    let Some(paths) = mask.get_field_by_name("paths") else { return };
    for path in paths.as_list().unwrap_or_default().iter().filter_map(Value::as_str) {
        let mut descriptor = Some(message.descriptor());
        let mut known = !reader.bound.iter().any(|b| b == path) && path != MASK;
        for part in path.split('.') {
            let found = descriptor.as_ref().and_then(|d| d.get_field_by_name(part));
            known &= found.is_some();
            descriptor = match found.map(|f| f.kind()) {
                Some(Kind::Message(d)) => Some(d),
                _ => None,
            };
        }
        if !known {
            reader.note("/update_mask", &format!("names {path}, which is not a field of this request"));
        }
    }
}

#[cfg(test)]
mod tests;
