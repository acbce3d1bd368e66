//! Page tokens on their way out and in: signed, and good for the list that they were given for and no other.

use bytes::{BufMut as _, Bytes, BytesMut};
use hmac::{Hmac, Mac as _};
use nitejar_common::RequestCtx;
use nitejar_common::error::{Error, Result};
use nitejar_common::secret::Secret;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::own_key::OwnKey;
use crate::transcode::plan;
use crate::transcode::routes::Route;

/// The request's field.
const TOKEN: &str = "page_token";
/// How many a page holds: may change from page to page.
const SIZE: &str = "page_size";
/// Characters of the signature, hexadecimal: 96 bits, and each try is a request.
const SIGNATURE: usize = 24;

/// Signs tokens.
pub(crate) struct PageTokens(OwnKey);

/// The list that a token belongs to.
pub(crate) struct List(Hmac<Sha256>);

impl PageTokens {
    pub(crate) fn new(signing_key: &Secret) -> Self {
        Self(OwnKey::new(signing_key, "page tokens"))
    }

    /// The list that a request asks for, if it asks for one, after its token was checked and opened: caller, organization
    /// and filters count, the page's size does not.
    pub(crate) fn open(
        &self,
        route: &Route,
        ctx: &RequestCtx,
        message: &mut DynamicMessage,
    ) -> Result<Option<List>> {
        let descriptor = message.descriptor();
        let Some(field) = descriptor.get_field_by_name(TOKEN) else { return Ok(None) };
        let token = message.get_field(&field).as_str().unwrap_or_default().to_owned();
        let mut list = message.clone();
        list.clear_field(&field);
        list.clear_field_by_name(SIZE);
        let mut mac = self.0.mac();
        let tenant = ctx.tenant.as_ref().map_or("", |org| org.as_str());
        // None of these can hold the separator.
        mac.update(format!("{}|{tenant}|{}|", route.policy.path, ctx.actor.id).as_bytes());
        mac.update(&list.encode_to_vec());
        let list = List(mac);
        if !token.is_empty() {
            let (signature, inner) = token.split_at_checked(SIGNATURE).ok_or_else(forged)?;
            if !bool::from(list.signature(inner).as_bytes().ct_eq(signature.as_bytes())) {
                return Err(forged());
            }
            message.set_field(&field, Value::String(inner.to_owned()));
        }
        Ok(Some(list))
    }
}

fn forged() -> Error {
    Error::invalid("/page_token", "must be a next_page_token of the same list, with the same filters")
}

impl List {
    fn signature(&self, inner: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(b"|");
        mac.update(inner.as_bytes());
        let mut text = hex::encode(mac.finalize().into_bytes());
        text.truncate(SIGNATURE);
        text
    }

    /// The answer, as one of our services encoded it, with its token signed.
    pub(crate) fn sign(&self, route: &Route, answer: Bytes) -> Bytes {
        let Some(number) = route.next_page else { return answer };
        let Some(inner) = plan::text_field(&answer, number).filter(|inner| !inner.is_empty()) else {
            return answer;
        };
        let signed = format!("{}{inner}", self.signature(inner));
        // The field's bytes end with its text and begin with its key and length.
        let ends = inner.as_ptr() as usize - answer.as_ptr() as usize + inner.len();
        let begins = ends - inner.len() - encoded_len_varint(inner.len() as u64) - key_len(number);
        let mut bytes = BytesMut::with_capacity(answer.len() + signed.len() + 8);
        bytes.put_slice(&answer[..begins]);
        encode_key(number, WireType::LengthDelimited, &mut bytes);
        encode_varint(signed.len() as u64, &mut bytes);
        bytes.put_slice(signed.as_bytes());
        bytes.put_slice(&answer[ends..]);
        bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use nitejar_common::clock::SystemClock;
    use nitejar_common::id::OrgId;
    use nitejar_proto::tenancy::v1::ListMembersResponse;

    use super::*;
    use crate::transcode::routes::{Match, Routes};

    fn ctx() -> RequestCtx {
        RequestCtx::service("x", &SystemClock).for_tenant(OrgId::new(&SystemClock))
    }

    fn ask(route: &Route, pairs: &[(&str, Value)]) -> DynamicMessage {
        let mut message = DynamicMessage::new(route.method.input());
        for (name, value) in pairs {
            message.set_field_by_name(name, value.clone());
        }
        message
    }

    #[test]
    fn a_token_is_good_for_its_own_list_only() {
        let routes = Routes::new();
        let find = |path: &str| match routes.find("GET", path) {
            Match::Found(route, _) => route.clone(),
            _ => panic!("no route {path}"),
        };
        let (members, jobs) = (find("/v1/orgs/o/members"), find("/v1/orgs/o/jobs"));
        let pages = PageTokens::new(&Secret::new("key"));
        let ctx = ctx();
        let list = pages.open(&members, &ctx, &mut ask(&members, &[])).unwrap().unwrap();
        let answer = ListMembersResponse { members: Vec::new(), next_page_token: "abc".into() };
        let signed = list.sign(&members, answer.encode_to_vec().into());
        assert!(signed.len() < 40, "the unsigned token is gone");
        let token = ListMembersResponse::decode(signed).unwrap().next_page_token;
        assert!(token.ends_with("abc") && token.len() == SIGNATURE + 3);

        let opens =
            |pages: &PageTokens, route: &Route, ctx: &RequestCtx, token: &str, more: &[(&str, Value)]| {
                let mut asked = ask(route, more);
                asked.set_field_by_name("page_token", Value::String(token.to_owned()));
                let opened = pages.open(route, ctx, &mut asked).is_ok();
                opened && asked.get_field_by_name("page_token").unwrap().as_str() == Some("abc")
            };
        let size = [("page_size", Value::U32(7))];
        assert!(opens(&pages, &members, &ctx, &token, &[]));
        assert!(opens(&pages, &members, &ctx, &token, &size), "the size may change");
        assert!(!opens(&pages, &jobs, &ctx, &token, &[]), "another list");
        assert!(!opens(&pages, &members, &self::ctx(), &token, &[]), "another organization");
        let mut other = ctx.clone();
        other.actor.id = "user_other".into();
        assert!(!opens(&pages, &members, &other, &token, &[]), "another caller");
        let filter = [("org_id", Value::String("x".into()))];
        assert!(!opens(&pages, &members, &ctx, &token, &filter), "another filter");
        assert!(!opens(&PageTokens::new(&Secret::new("other")), &members, &ctx, &token, &[]), "another key");
        for forged in [
            "abc",
            &token[1..],
            &format!("{token}x"),
            &token.replace("abc", "abd"),
            "\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}abc",
        ] {
            assert!(!opens(&pages, &members, &ctx, forged, &[]), "{forged}");
        }
        let last = ListMembersResponse::default().encode_to_vec();
        assert_eq!(list.sign(&members, last.clone().into()), last);
    }
}
