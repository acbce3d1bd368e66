//! Messages as JSON Schema.

use std::collections::BTreeMap;

use nitejar_proto::policy::FieldRules;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::comments;
use crate::transcode::rules::rules;

/// Which way a message goes. In a request only what is required must be there; in an answer everything is written but
/// objects and optionals that are absent. So a message that goes both ways has two schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// In a request.
    In,
    /// In an answer.
    Out,
}

/// The schemas that the document refers to.
#[derive(Default)]
pub(super) struct Schemas(BTreeMap<String, Value>);

impl Schemas {
    /// All of them, by name.
    pub(super) fn finish(self) -> Map<String, Value> {
        self.0.into_iter().collect()
    }

    /// A reference to a message's schema, which is made when it is missing.
    pub(super) fn reference(&mut self, message: &MessageDescriptor, way: Way) -> Value {
        let name = format!("{}{}", message.name(), if way == Way::In { "Input" } else { "" });
        if !self.0.contains_key(&name) {
            self.0.insert(name.clone(), Value::Null);
            let fields: Vec<FieldDescriptor> =
                message.fields().filter(|f| rules(f).to_cookie.is_empty()).collect();
            let mut schema = self.object(&fields, way);
            schema["description"] = comments::of(&message.parent_file(), message.path()).into();
            self.0.insert(name.clone(), schema);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// An object of these fields and no others.
    pub(super) fn object(&mut self, fields: &[FieldDescriptor], way: Way) -> Value {
        let always = |f: &&FieldDescriptor| match way {
            Way::In => rules(f).required,
            Way::Out => !f.supports_presence(),
        };
        let required: Vec<&str> = fields.iter().filter(always).map(FieldDescriptor::name).collect();
        let properties: Map<String, Value> =
            fields.iter().map(|f| (f.name().to_owned(), self.field(f, way))).collect();
        let mut schema = json!({"type": "object", "additionalProperties": false, "properties": properties});
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schema
    }

    /// One field, with its bounds and its comment.
    pub(super) fn field(&mut self, field: &FieldDescriptor, way: Way) -> Value {
        // Bounds are for what is asked.
        let rules = if way == Way::In {
            rules(field)
        } else {
            FieldRules { sensitive: rules(field).sensitive, ..FieldRules::default() }
        };
        let description = comments::of(&field.parent_message().parent_file(), field.path());
        let mut schema = if field.is_map() {
            let mut map = json!({"type": "object", "additionalProperties": text(&rules, true)});
            if rules.max_items > 0 {
                map["maxProperties"] = rules.max_items.into();
            }
            if !rules.key_pattern.is_empty() {
                map["propertyNames"] = json!({"pattern": format!("^(?:{})$", rules.key_pattern)});
            }
            map
        } else if field.is_list() {
            let mut list = json!({"type": "array", "items": self.single(field, &rules, way)});
            if rules.max_items > 0 {
                list["maxItems"] = rules.max_items.into();
            }
            if rules.required {
                list["minItems"] = 1.into();
            }
            list
        } else {
            self.single(field, &rules, way)
        };
        // Beside a reference 3.1 allows a description.
        schema["description"] = description.into();
        if rules.sensitive {
            schema["x-sensitive"] = true.into();
        }
        schema
    }

    fn single(&mut self, field: &FieldDescriptor, rules: &FieldRules, way: Way) -> Value {
        match field.kind() {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Message(m) if m.full_name() == "google.protobuf.Timestamp" => {
                json!({"type": "string", "format": "date-time"})
            }
            Kind::Message(m) if m.full_name() == "google.protobuf.FieldMask" => {
                let path = paths(field.parent_message(), "").join("|").replace('.', "[.]");
                let pattern = format!("^(?:(?:{path})(?:,(?:{path}))*)?$");
                json!({"type": "string", "description": "Paths, separated by commas.", "pattern": pattern, "maxLength": 2000})
            }
            Kind::Message(m) => self.reference(&m, way),
            Kind::String if matches!(field.name(), "scopes" | "permissions") && way == Way::In => {
                json!({"type": "string", "enum": permissions()})
            }
            Kind::String | Kind::Bytes => {
                // In a change an empty text is one that is set.
                let changes = field.parent_message().get_field_by_name("update_mask").is_some();
                text(rules, field.is_list() || changes)
            }
            Kind::Double | Kind::Float => json!({"type": "number"}),
            kind => {
                let wide = matches!(
                    kind,
                    Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64
                );
                let unsigned = matches!(kind, Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64);
                let mut schema = json!({"type": "integer", "format": if wide { "int64" } else { "int32" }});
                if unsigned || rules.min != 0 || rules.max > 0 {
                    schema["minimum"] = rules.min.into();
                }
                if rules.max > 0 {
                    schema["maximum"] = rules.max.into();
                }
                schema
            }
        }
    }
}

/// What a mask may name: the fields that the body may have, and parts of them.
fn paths(message: &MessageDescriptor, at: &str) -> Vec<String> {
    let mut all = Vec::new();
    for field in message.fields() {
        let rules = rules(&field);
        let from_path = at.is_empty() && rules.required && !rules.id.is_empty();
        if from_path || matches!(field.name(), "update_mask" | "etag") {
            continue;
        }
        let path = format!("{at}{}", field.name());
        if let Kind::Message(inner) = field.kind()
            && !field.is_map()
            && !field.is_list()
            && !inner.full_name().starts_with("google.protobuf.")
        {
            all.extend(paths(&inner, &format!("{path}.")));
        }
        all.push(path);
    }
    all
}

fn permissions() -> Vec<&'static str> {
    nitejar_common::permission::CATALOGUE.iter().map(|(name, _)| *name).collect()
}

fn text(rules: &FieldRules, never_absent: bool) -> Value {
    // An empty text is an absent field, and so always allowed where the field may be absent; elsewhere it is a text like others.
    let or_empty = if rules.required || never_absent { "" } else { "?" };
    let mut schema = json!({"type": "string"});
    if !rules.one_of.is_empty() {
        schema["enum"] = json!(rules.one_of);
    }
    if !rules.id.is_empty() {
        schema["pattern"] = format!("^(?:{}_[0-7][0-9a-hjkmnp-tv-z]{{25}}){or_empty}$", rules.id).into();
    }
    if rules.required {
        schema["minLength"] = rules.min_len.max(1).into();
    }
    if rules.max_len > 0 {
        schema["maxLength"] = rules.max_len.into();
    }
    if rules.visible {
        schema["pattern"] = format!("^(?:{}){or_empty}$", nitejar_common::text::visible_pattern()).into();
    } else if !rules.pattern.is_empty() {
        schema["pattern"] = format!("^(?:{}){or_empty}$", rules.pattern).into();
    } else if rules.max_len > 0 {
        schema["pattern"] = "^[^\\x00]*$".into();
    }
    schema
}
