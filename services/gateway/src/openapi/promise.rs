//! What `/v1` promises: whatever worked with the released document works with today's. `docs/released.json` is replaced with
//! each release, and only when nothing here objects.

use serde_json::Value;

/// Everything that callers of `old` would miss in `new`.
pub(super) fn broken(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (path, verbs) in entries(&old["paths"]) {
        for (verb, operation) in entries(verbs) {
            let name = format!("{} {path}", verb.to_uppercase());
            let now = &new["paths"][path][verb];
            if !now.is_object() {
                found.push(format!("{name} is gone"));
                continue;
            }
            parameters(&name, operation, now, &mut found);
            let body = "/requestBody/content/application~1json/schema";
            let asked = (operation.pointer(body), now.pointer(body));
            if let (Some(was), Some(is)) = asked {
                Compare { old, new, asked: true }.schema(&format!("{name} body"), was, is, 0, &mut found);
            }
            let answer = "/responses/200/content/application~1json/schema";
            match (operation.pointer(answer), now.pointer(answer)) {
                (Some(was), Some(is)) => {
                    Compare { old, new, asked: false }.schema(
                        &format!("{name} answer"),
                        was,
                        is,
                        0,
                        &mut found,
                    );
                }
                (Some(_), None) => found.push(format!("{name} has no JSON answer any more")),
                _ => {}
            }
        }
    }
    for error in old["x-errors"].as_array().into_iter().flatten() {
        let there =
            new["x-errors"].as_array().is_some_and(|all| all.iter().any(|e| e["code"] == error["code"]));
        if !there {
            found.push(format!("the error {} is gone", error["code"]));
        }
    }
    found
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn parameters(name: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    let list = |operation: &Value| operation["parameters"].as_array().cloned().unwrap_or_default();
    let same = |a: &Value, b: &Value| a["name"] == b["name"] && a["in"] == b["in"];
    let (was, is) = (list(old), list(new));
    for parameter in &was {
        if !is.iter().any(|p| same(p, parameter)) {
            found.push(format!("{name}: the parameter {} is gone", parameter["name"]));
        }
    }
    for parameter in is.iter().filter(|p| p["required"] == true) {
        if !was.iter().any(|p| same(p, parameter) && p["required"] == true) {
            found.push(format!("{name}: the parameter {} must be given now", parameter["name"]));
        }
    }
}

#[derive(Clone, Copy)]
struct Compare<'a> {
    old: &'a Value,
    new: &'a Value,
    /// A request: it may not ask for more. An answer may not say less.
    asked: bool,
}

impl Compare<'_> {
    fn schema(self, at: &str, was: &Value, is: &Value, depth: u8, found: &mut Vec<String>) {
        let follow = |document: &Value, schema: &Value| match schema["$ref"].as_str() {
            Some(reference) => {
                document.pointer(reference.trim_start_matches('#')).cloned().unwrap_or_default()
            }
            None => schema.clone(),
        };
        let (was, is) = (follow(self.old, was), follow(self.new, is));
        if depth > 8 {
            return;
        }
        if was["type"] != is["type"] {
            found.push(format!("{at} was {} and is {}", was["type"], is["type"]));
            return;
        }
        if was["type"] == "array" {
            self.schema(&format!("{at}[]"), &was["items"], &is["items"], depth + 1, found);
        }
        let (before, after) = (words(&was["required"]), words(&is["required"]));
        for (name, field) in entries(&was["properties"]) {
            match is["properties"].get(name) {
                Some(now) => self.schema(&format!("{at}.{name}"), field, now, depth + 1, found),
                None => found.push(format!("{at}.{name} is gone")),
            }
        }
        let (more, what) = if self.asked {
            ((&after, &before), "must be given now")
        } else {
            ((&before, &after), "may be absent now")
        };
        found.extend(
            more.0.iter().filter(|name| !more.1.contains(name)).map(|name| format!("{at}.{name} {what}")),
        );
        if self.asked && is["enum"].is_array() {
            let allowed = words(&is["enum"]);
            let gone = words(&was["enum"]).into_iter().filter(|word| !allowed.contains(word));
            found.extend(gone.map(|word| format!("{at} allows {word:?} no more")));
            if !was["enum"].is_array() {
                found.push(format!("{at} allows only some words now"));
            }
        }
        if self.asked {
            for (bound, tighter) in
                [("maxLength", 1), ("maximum", 1), ("maxItems", 1), ("minLength", -1), ("minimum", -1)]
            {
                let (old, new) = (was[bound].as_i64(), is[bound].as_i64());
                let narrowed = match (old, new) {
                    (Some(old), Some(new)) => (old - new) * tighter > 0,
                    (None, Some(_)) => true,
                    _ => false,
                };
                if narrowed {
                    found.push(format!("{at}: {bound} is tighter"));
                }
            }
        }
    }
}

fn words(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn released() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/released.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn what_worked_with_the_released_api_works() {
        assert_eq!(broken(&released(), &super::super::document()), Vec::<String>::new());
    }

    #[test]
    fn what_would_break_callers_is_seen() {
        let old = released();
        let body = "/paths/~1v1~1orgs/post/requestBody/content/application~1json/schema";
        let changes: [(&str, Value, &str); 8] = [
            ("/paths/~1v1~1me", json!({}), "GET /v1/me is gone"),
            (
                &format!("{body}/required"),
                json!(["slug", "name", "x"]),
                "POST /v1/orgs body.x must be given now",
            ),
            (
                &format!("{body}/properties/name/maxLength"),
                json!(50),
                "POST /v1/orgs body.name: maxLength is tighter",
            ),
            (
                &format!("{body}/properties/slug"),
                json!(null),
                "POST /v1/orgs body.slug was \"string\" and is null",
            ),
            (
                "/components/schemas/Org/properties/id/type",
                json!("integer"),
                "GET /v1/orgs answer.orgs[].id was \"string\" and is \"integer\"",
            ),
            (
                "/components/schemas/Org/required",
                json!([]),
                "GET /v1/orgs answer.orgs[].slug may be absent now",
            ),
            ("/x-errors/0/code", json!("other"), "the error \"invalid_argument\" is gone"),
            (
                "/paths/~1v1~1orgs/get/parameters/0/name",
                json!("size"),
                "GET /v1/orgs: the parameter \"page_size\" is gone",
            ),
        ];
        for (pointer, value, expected) in changes {
            let mut new = old.clone();
            *new.pointer_mut(pointer).unwrap() = value;
            let found = broken(&old, &new);
            assert!(found.iter().any(|f| f == expected), "{pointer}: {found:?}");
        }
        // What only adds breaks nobody.
        let mut new = old.clone();
        new["paths"]["/v1/new"] = json!({});
        new["components"]["schemas"]["Org"]["properties"]["colour"] = json!({ "type": "string" });
        assert!(broken(&old, &new).is_empty());
    }
}
