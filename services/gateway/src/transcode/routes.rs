//! Routes from the RPCs' HTTP rules.

use std::sync::Arc;

use nitejar_proto::policy::{MethodPolicy, field_rules};
use percent_encoding::percent_decode_str;
use prost_reflect::{FieldDescriptor, MethodDescriptor};

use super::plan::Plan;
use super::request;

/// One RPC as HTTP.
#[derive(Debug)]
pub struct Route {
    /// What it states about itself.
    pub policy: &'static MethodPolicy,
    /// Its messages.
    pub method: MethodDescriptor,
    /// Writes its answer; none: the long way does.
    pub plan: Option<Plan>,
    /// The answer is no JSON: it leaves as it is.
    pub raw: bool,
    /// The number of the answer's `etag`, where it has one.
    pub etag: Option<u32>,
    /// The number of the answer's `next_page_token`, where it has one.
    pub next_page: Option<u32>,
    /// Fields of the request that we fill, and from what.
    pub filled: Vec<(FieldDescriptor, Source)>,
    /// Fields of the answer that leave as cookies.
    pub cookies: Vec<Cookie>,
    segments: Vec<Segment>,
    /// After the last colon, such as `leave`.
    verb: Option<String>,
}

/// What fills a field that the caller does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The cookie of that name.
    Cookie(String),
    /// The caller's address.
    Address,
    /// What the caller's program calls itself.
    UserAgent,
}

/// A field that leaves as a cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// The field's number.
    pub number: u32,
    /// The cookie's name.
    pub name: String,
    /// For how long it is kept.
    pub seconds: u32,
}

fn source(field: &FieldDescriptor) -> Option<Source> {
    match field_rules(field).from.as_str() {
        "" => None,
        "address" => Some(Source::Address),
        "user_agent" => Some(Source::UserAgent),
        cookie => Some(Source::Cookie(cookie.strip_prefix("cookie/")?.to_owned())),
    }
}

fn cookie(field: &FieldDescriptor) -> Option<Cookie> {
    let rules = field_rules(field);
    let (name, seconds) = rules.to_cookie.split_once('/')?;
    Some(Cookie { number: field.number(), name: name.to_owned(), seconds: seconds.parse().ok()? })
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Variable(String),
}

/// All routes.
#[derive(Clone, Debug)]
pub struct Routes(Vec<Arc<Route>>);

/// What a request's path and verb came to.
#[derive(Debug)]
pub enum Match<'a> {
    /// An RPC, and its path variables in order.
    Found(&'a Arc<Route>, Vec<(String, String)>),
    /// There is the path, with these verbs.
    WrongMethod(Vec<&'static str>),
    /// There is no such path.
    Nothing,
}

impl Routes {
    /// Of all RPCs with an HTTP rule.
    pub fn new() -> Self {
        let mut routes: Vec<Arc<Route>> =
            nitejar_proto::POLICIES.values().filter_map(Route::new).map(Arc::new).collect();
        routes.sort_by(|a, b| a.policy.path.cmp(&b.policy.path));
        Self(routes)
    }

    /// All of them, by RPC.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// Finds the RPC.
    pub fn find(&self, verb: &str, path: &str) -> Match<'_> {
        let mut verbs = Vec::new();
        let Some(path) = Path::split(path) else { return Match::Nothing };
        for route in &self.0 {
            if !route.matches(&path) {
                continue;
            }
            let own = route.policy.http.as_ref().map_or("", |h| h.verb);
            if own == verb {
                return route.values(&path).map_or(Match::Nothing, |values| Match::Found(route, values));
            }
            verbs.push(own);
        }
        verbs.sort_unstable();
        verbs.dedup();
        if verbs.is_empty() { Match::Nothing } else { Match::WrongMethod(verbs) }
    }
}

impl Default for Routes {
    fn default() -> Self {
        Self::new()
    }
}

impl Route {
    fn new(policy: &'static MethodPolicy) -> Option<Self> {
        let http = policy.http.as_ref()?;
        let service = nitejar_proto::POOL.get_service_by_name(&policy.service)?;
        let method = service.methods().find(|m| m.name() == policy.method)?;
        let (path, verb) = match http.template.rsplit_once(':') {
            Some((path, verb)) if !verb.contains(['/', '}']) => (path, Some(verb.to_owned())),
            _ => (http.template.as_str(), None),
        };
        let segments =
            path.split('/').skip(1).map(|s| match s.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
                Some(name) => Segment::Variable(name.to_owned()),
                None => Segment::Literal(s.to_owned()),
            });
        let answer = method.output();
        let etag = answer.get_field_by_name(request::ETAG).map(|field| field.number());
        let next_page = answer.get_field_by_name(request::NEXT_PAGE).map(|field| field.number());
        let segments = segments.collect();
        let filled = method.input().fields().filter_map(|f| source(&f).map(|s| (f, s))).collect();
        let cookies: Vec<Cookie> = answer.fields().filter_map(|f| cookie(&f)).collect();
        Some(Self {
            policy,
            raw: answer.full_name() == "nitejar.common.v1.RawBody",
            plan: Plan::new(&answer).filter(|_| cookies.is_empty()),
            etag,
            next_page,
            filled,
            cookies,
            segments,
            verb,
            method,
        })
    }

    /// The names of its path variables.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|s| match s {
            Segment::Variable(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    fn matches(&self, path: &Path<'_>) -> bool {
        let fits = |(segment, part): (&Segment, &&str)| match segment {
            Segment::Literal(text) => text == part,
            Segment::Variable(_) => !part.is_empty(),
        };
        path.verb == self.verb.as_deref()
            && path.parts.len() == self.segments.len()
            && self.segments.iter().zip(&path.parts).all(fits)
    }

    /// The variables' values; none when one is not UTF-8. Percent-encoding is undone inside of a segment only, so that
    /// `%2f` never makes two of one.
    fn values(&self, path: &Path<'_>) -> Option<Vec<(String, String)>> {
        let variable = |(segment, part): (&Segment, &&str)| match segment {
            Segment::Literal(_) => None,
            Segment::Variable(name) => {
                Some(percent_decode_str(part).decode_utf8().ok().map(|v| (name.clone(), v.into_owned())))
            }
        };
        self.segments.iter().zip(&path.parts).filter_map(variable).collect()
    }
}

/// A request's path, taken apart once.
struct Path<'a> {
    parts: Vec<&'a str>,
    verb: Option<&'a str>,
}

impl<'a> Path<'a> {
    fn split(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        // A colon that is written as such begins a verb; in a value it is written %3A.
        let (path, verb) = match path.rsplit_once(':') {
            Some((path, verb)) if !verb.contains('/') => (path, Some(verb)),
            _ => (path, None),
        };
        Some(Self { parts: path.split('/').collect(), verb })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(verb: &str, path: &str) -> String {
        match Routes::new().find(verb, path) {
            Match::Found(route, variables) => {
                let values: Vec<String> = variables.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("{} {}", route.policy.method, values.join(" "))
            }
            Match::WrongMethod(verbs) => format!("405 {}", verbs.join(",")),
            Match::Nothing => "404".to_owned(),
        }
    }

    #[test]
    fn paths_find_their_rpc_and_nothing_else() {
        for (verb, path, expected) in [
            ("GET", "/v1/orgs", "ListOrgs "),
            ("POST", "/v1/orgs", "CreateOrg "),
            ("GET", "/v1/orgs/org_1", "GetOrg org_id=org_1"),
            ("POST", "/v1/orgs/org_1:leave", "LeaveOrg org_id=org_1"),
            ("POST", "/v1/invitations:accept", "AcceptInvitation "),
            ("POST", "/v1/orgs/o/jobs/j:cancel", "CancelJob org_id=o job_id=j"),
            ("POST", "/v1/runner/jobs:claim", "ClaimJobs "),
            ("PUT", "/v1/orgs/o/secrets/A%20B", "SetSecret org_id=o name=A B"),
            ("PUT", "/v1/orgs/o/secrets/A%2FB", "SetSecret org_id=o name=A/B"),
            ("GET", "/v1/orgs/o%3Aleave", "GetOrg org_id=o:leave"),
            ("DELETE", "/v1/orgs", "405 GET,POST"),
            ("GET", "/v1/orgs/org_1:leave", "405 POST"),
            ("GET", "/v1/orgs/", "404"),
            ("GET", "/v1/orgs//jobs", "404"),
            ("GET", "/v1/orgs/o/", "404"),
            ("GET", "/V1/orgs", "404"),
            ("GET", "/v1/orgs/%ff", "404"),
            ("GET", "/v1/../v1/orgs", "404"),
            ("POST", "/v1/orgs/org_1:unknown", "404"),
            ("GET", "", "404"),
        ] {
            assert_eq!(find(verb, path), expected, "{verb} {path}");
        }
    }

    #[test]
    fn every_rpc_with_a_rule_has_a_route() {
        let with_rule = nitejar_proto::POLICIES.values().filter(|p| p.http.is_some()).count();
        assert_eq!(Routes::new().iter().count(), with_rule);
    }
}
