//! Messages as JSON Schema.

use std::collections::BTreeMap;

use nitejar_proto::policy::FieldRules;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::comments;
use crate::transcode::rules::rules;

/// The schemas that the document refers to.
#[derive(Default)]
pub(super) struct Schemas(BTreeMap<String, Value>);

impl Schemas {
    /// All of them, by name.
    pub(super) fn finish(self) -> Map<String, Value> {
        self.0.into_iter().collect()
    }

    /// A reference to a message's schema, which is made when it is missing.
    pub(super) fn reference(&mut self, message: &MessageDescriptor) -> Value {
        let name = message.name().to_owned();
        if !self.0.contains_key(&name) {
            self.0.insert(name.clone(), Value::Null);
            let fields: Vec<FieldDescriptor> =
                message.fields().filter(|f| rules(f).to_cookie.is_empty()).collect();
            let mut schema = self.object(&fields);
            schema["description"] = comments::of(&message.parent_file(), message.path()).into();
            self.0.insert(name.clone(), schema);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// An object of these fields and no others.
    pub(super) fn object(&mut self, fields: &[FieldDescriptor]) -> Value {
        let required: Vec<&str> =
            fields.iter().filter(|f| rules(f).required).map(FieldDescriptor::name).collect();
        let properties: Map<String, Value> =
            fields.iter().map(|f| (f.name().to_owned(), self.field(f))).collect();
        let mut schema = json!({"type": "object", "additionalProperties": false, "properties": properties});
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schema
    }

    /// One field, with its bounds and its comment.
    pub(super) fn field(&mut self, field: &FieldDescriptor) -> Value {
        let rules = rules(field);
        let description = comments::of(&field.parent_message().parent_file(), field.path());
        let mut schema = if field.is_map() {
            let mut map = json!({"type": "object", "additionalProperties": {"type": "string"}});
            if rules.max_items > 0 {
                map["maxProperties"] = rules.max_items.into();
            }
            map
        } else if field.is_list() {
            let mut list = json!({"type": "array", "items": self.single(field, &rules)});
            if rules.max_items > 0 {
                list["maxItems"] = rules.max_items.into();
            }
            list
        } else {
            self.single(field, &rules)
        };
        // Beside a reference 3.1 allows a description.
        schema["description"] = description.into();
        if rules.sensitive {
            schema["x-sensitive"] = true.into();
        }
        schema
    }

    fn single(&mut self, field: &FieldDescriptor, rules: &FieldRules) -> Value {
        match field.kind() {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Message(m) if m.full_name() == "google.protobuf.Timestamp" => {
                json!({"type": "string", "format": "date-time"})
            }
            Kind::Message(m) if m.full_name() == "google.protobuf.FieldMask" => {
                json!({"type": "string", "description": "Paths, separated by commas.", "maxLength": 2000})
            }
            Kind::Message(m) => self.reference(&m),
            Kind::String | Kind::Bytes => text(rules),
            Kind::Double | Kind::Float => json!({"type": "number"}),
            kind => {
                let wide = matches!(
                    kind,
                    Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64
                );
                let unsigned = matches!(kind, Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64);
                let mut schema = json!({"type": "integer", "format": if wide { "int64" } else { "int32" }});
                if unsigned || rules.min != 0 {
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

fn text(rules: &FieldRules) -> Value {
    let mut schema = json!({"type": "string"});
    if !rules.one_of.is_empty() {
        schema["enum"] = json!(rules.one_of);
    }
    if !rules.id.is_empty() {
        schema["pattern"] = format!("^{}_[0-7][0-9a-hjkmnp-tv-z]{{25}}$", rules.id).into();
    }
    // An empty text is an absent field: a bound from below holds for the required ones.
    if rules.min_len > 0 && rules.required {
        schema["minLength"] = rules.min_len.into();
    }
    if rules.max_len > 0 {
        schema["maxLength"] = rules.max_len.into();
    }
    if !rules.pattern.is_empty() {
        schema["pattern"] = format!("^(?:{})$", rules.pattern).into();
    }
    schema
}
