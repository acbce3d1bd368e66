//! A strict JSON reader: no duplicate keys, bounded nesting, and numbers that keep what they were.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// How deep a body may nest.
pub const DEPTH: usize = 32;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// Not negative.
    Unsigned(u64),
    /// Negative.
    Signed(i64),
    /// With a fraction or an exponent, or too large for the others.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// An object, in the order written.
    Object(Vec<(String, Node)>),
}

impl Node {
    /// For messages: what it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Unsigned(_) | Self::Signed(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

impl Node {
    /// Feeds a hash so that two bodies that say the same, in whatever order of keys and with whatever blanks, give the same.
    pub fn digest(&self, hash: &mut impl sha2::Digest) {
        let mut text = |tag: u8, bytes: &[u8]| {
            hash.update([tag]);
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        match self {
            Self::Null => text(0, &[]),
            Self::Bool(b) => text(1, &[u8::from(*b)]),
            Self::Unsigned(n) => text(2, &n.to_be_bytes()),
            Self::Signed(n) => text(3, &n.to_be_bytes()),
            Self::Float(f) => text(4, &f.to_be_bytes()),
            Self::Text(t) => text(5, t.as_bytes()),
            Self::List(items) => {
                text(6, &(items.len() as u64).to_be_bytes());
                items.iter().for_each(|item| item.digest(hash));
            }
            Self::Object(fields) => {
                text(7, &(fields.len() as u64).to_be_bytes());
                let mut fields: Vec<_> = fields.iter().collect();
                fields.sort_by(|a, b| a.0.cmp(&b.0));
                for (name, value) in fields {
                    Self::Text(name.clone()).digest(hash);
                    value.digest(hash);
                }
            }
        }
    }
}

/// Reads a body; the text says what is wrong with it.
pub fn parse(body: &[u8]) -> Result<Node, String> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let node = Seed(DEPTH).deserialize(&mut reader).map_err(readable)?;
    reader.end().map_err(readable)?;
    Ok(node)
}

fn readable(error: serde_json::Error) -> String {
    error.to_string()
}

struct Seed(usize);

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Node;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Node, E> {
        Ok(Node::Bool(v))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Node, E> {
        Ok(Node::Unsigned(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Node, E> {
        Ok(u64::try_from(v).map_or(Node::Signed(v), Node::Unsigned))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Node, E> {
        Ok(Node::Float(v))
    }
    fn visit_str<E>(self, v: &str) -> Result<Node, E> {
        Ok(Node::Text(v.to_owned()))
    }
    fn visit_string<E>(self, v: String) -> Result<Node, E> {
        Ok(Node::Text(v))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let depth = self.0.checked_sub(1).ok_or_else(|| A::Error::custom("nested too deeply"))?;
        let mut list = Vec::new();
        while let Some(item) = seq.next_element_seed(Seed(depth))? {
            list.push(item);
        }
        Ok(Node::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let depth = self.0.checked_sub(1).ok_or_else(|| A::Error::custom("nested too deeply"))?;
        let mut fields: Vec<(String, Node)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom("an object has the same key twice"));
            }
            fields.push((key, map.next_value_seed(Seed(depth))?));
        }
        Ok(Node::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_strict_json_is_refused() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(nested(DEPTH).as_bytes()).is_ok());
        for (body, why) in [
            (r#"{"a":1,"a":2}"#.to_owned(), "same key twice"),
            (nested(DEPTH + 1), "nested too deeply"),
            ("[".repeat(1_000_000), "nested too deeply"),
            ("{".to_owned(), "EOF"),
            ("{} x".to_owned(), "trailing"),
            ("{'a':1}".to_owned(), "key must be a string"),
            ("".to_owned(), "EOF"),
        ] {
            let error = parse(body.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{error} does not say {why}");
        }
        assert!(parse(b"\"\xff\"").is_err());
    }

    #[test]
    fn bodies_that_say_the_same_have_one_digest() {
        let digest = |text: &str| {
            let mut hash = sha2::Sha256::default();
            parse(text.as_bytes()).unwrap().digest(&mut hash);
            sha2::Digest::finalize(hash)
        };
        assert_eq!(digest(r#"{"a":1,"b":[{},null]}"#), digest(r#" {"b": [ {}, null ], "a": 1} "#));
        let all = [
            r#"{"a":1}"#,
            r#"{"a":-1}"#,
            r#"{"a":"1"}"#,
            r#"{"a":[1]}"#,
            r#"{"a":{}}"#,
            r#"{"a":null}"#,
            "{}",
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|other| digest(one) != digest(other)), "{one}");
        }
        assert_ne!(digest(r#"["a","b"]"#), digest(r#"["ab"]"#));
    }

    #[test]
    fn numbers_keep_what_they_were() {
        let text = "[0, 18446744073709551615, -1, 1.5, 1e3]";
        let expected = [
            Node::Unsigned(0),
            Node::Unsigned(u64::MAX),
            Node::Signed(-1),
            Node::Float(1.5),
            Node::Float(1000.0),
        ];
        assert_eq!(parse(text.as_bytes()).unwrap(), Node::List(expected.into()));
    }
}
