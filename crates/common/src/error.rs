//! One error type for every service, with both of its outer forms side by side: gRPC status and HTTP problem.
//!
//! | part | who reads it |
//! |---|---|
//! | [`Code`] | programs: stable, listed in the API reference |
//! | `detail` | people outside: says what is wrong and what to do next |
//! | `violations` | programs and people: which field |
//! | `source` | our log only |
//!
//! [`Error`] has no `Display` and is no `std::error::Error`: nobody prints an internal text by accident. Any standard
//! error becomes [`Code::Internal`] by `?`, and a gRPC status from another service becomes the error it was made of.

use std::any::Any;
use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use tonic::Status;
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// The result of everything that a request may fail in.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $http:literal, $grpc:ident;)*) => {
        /// What went wrong, as a stable word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[doc = $doc])* $name,)* }

        impl Code {
            /// Every code.
            pub const ALL: &[Code] = &[$(Code::$name,)*];
            /// The stable word.
            pub fn as_str(self) -> &'static str { match self { $(Code::$name => $text,)* } }
            /// The HTTP status.
            pub fn http_status(self) -> u16 { match self { $(Code::$name => $http,)* } }
            /// The gRPC code.
            pub fn grpc(self) -> tonic::Code { match self { $(Code::$name => tonic::Code::$grpc,)* } }
            /// One line for people; the problem's title.
            pub fn title(self) -> &'static str { match self { $(Code::$name => concat!($($doc,)*).trim_ascii(),)* } }
        }
    };
}

codes! {
    /// The request is not valid.
    InvalidArgument = "invalid_argument", 400, InvalidArgument;
    /// The body can't be read.
    MalformedBody = "malformed_body", 400, InvalidArgument;
    /// A credential is needed.
    Unauthenticated = "unauthenticated", 401, Unauthenticated;
    /// The credential is not valid.
    InvalidCredential = "invalid_credential", 401, Unauthenticated;
    /// The signature is not valid.
    InvalidSignature = "invalid_signature", 401, Unauthenticated;
    /// You lack a permission.
    PermissionDenied = "permission_denied", 403, PermissionDenied;
    /// This key may not be used from this address.
    AddressNotAllowed = "address_not_allowed", 403, PermissionDenied;
    /// Sign in again to do this.
    SignInAgain = "sign_in_again", 403, PermissionDenied;
    /// The organization is suspended.
    OrgSuspended = "org_suspended", 403, PermissionDenied;
    /// The organization is to be deleted.
    OrgDeleting = "org_deleting", 403, PermissionDenied;
    /// A browser sent this from another site.
    CrossSite = "cross_site", 403, PermissionDenied;
    /// There is no such thing.
    NotFound = "not_found", 404, NotFound;
    /// The method is not allowed here.
    MethodNotAllowed = "method_not_allowed", 405, Unimplemented;
    /// It exists already.
    AlreadyExists = "already_exists", 409, AlreadyExists;
    /// Its state does not allow this.
    Conflict = "conflict", 409, FailedPrecondition;
    /// You own as many organizations as you may.
    TooManyOrgs = "too_many_orgs", 409, FailedPrecondition;
    /// An organization keeps at least one owner.
    LastOwner = "last_owner", 409, FailedPrecondition;
    /// The invitation can't be accepted any more.
    InvitationUnusable = "invitation_unusable", 409, FailedPrecondition;
    /// The link can't be used.
    SignInLinkUnusable = "sign_in_link_unusable", 409, FailedPrecondition;
    /// The domain's record is not there.
    DomainRecordMissing = "domain_record_missing", 409, FailedPrecondition;
    /// The domain's name servers do not answer.
    DomainLookupFailed = "domain_lookup_failed", 409, FailedPrecondition;
    /// The installation belongs to another organization.
    InstallationBound = "installation_bound", 409, FailedPrecondition;
    /// The lease has ended; somebody else may hold it.
    StaleLease = "stale_lease", 409, Aborted;
    /// It changed in the meantime.
    EtagMismatch = "etag_mismatch", 412, FailedPrecondition;
    /// Another request has this idempotency key.
    IdempotencyKeyReused = "idempotency_key_reused", 422, FailedPrecondition;
    /// The first request with this idempotency key is still under way.
    IdempotencyKeyInUse = "idempotency_key_in_use", 409, Aborted;
    /// The body is too large.
    PayloadTooLarge = "payload_too_large", 413, OutOfRange;
    /// The content type is not supported.
    UnsupportedMediaType = "unsupported_media_type", 415, InvalidArgument;
    /// The plan's number of agents is reached.
    AgentsLimit = "agents_limit", 402, ResourceExhausted;
    /// The plan does not have this.
    FeatureNotInPlan = "feature_not_in_plan", 402, ResourceExhausted;
    /// The plan's number of members is reached.
    SeatsLimit = "seats_limit", 402, ResourceExhausted;
    /// The plan's limit is reached.
    QuotaExceeded = "quota_exceeded", 429, ResourceExhausted;
    /// Too many requests.
    RateLimited = "rate_limited", 429, ResourceExhausted;
    /// Another request got in between; try again.
    Aborted = "aborted", 409, Aborted;
    /// The service can't answer now; try again.
    Unavailable = "unavailable", 503, Unavailable;
    /// Too much is under way; try again.
    Overloaded = "overloaded", 503, Unavailable;
    /// It took too long; it may still happen.
    DeadlineExceeded = "deadline_exceeded", 504, DeadlineExceeded;
    /// Something is wrong on our side.
    Internal = "internal", 500, Internal;
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON pointer into the body, or `/name` of a parameter.
    pub pointer: String,
    /// What must hold.
    pub detail: String,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Error {
    code: Code,
    detail: String,
    violations: Vec<Violation>,
    retry_after: Option<Duration>,
    permission: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

const DOMAIN: &str = "nitejar";
const INTERNAL_DETAIL: &str = "Something went wrong on our side. Tell support the request id.";
const UNAVAILABLE_DETAIL: &str = "The service can't answer right now. Try again.";

impl Error {
    /// An error with a text for the caller.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            violations: Vec::new(),
            retry_after: None,
            permission: None,
            source: None,
        }
    }

    /// Our fault. `what` is for the log only.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(Code::Internal, INTERNAL_DETAIL).because(what.into())
    }

    /// Not there, or not this organization's: the two look the same. `what`: `agent agent_…`.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("There is no {what}."))
    }

    /// The caller's role or key lacks a permission.
    pub fn lacks(permission: &str) -> Self {
        let mut error = Self::new(Code::PermissionDenied, format!("This needs the permission {permission}."));
        error.permission = Some(permission.to_owned());
        error
    }

    /// Cannot answer now.
    pub fn unavailable() -> Self {
        Self::new(Code::Unavailable, UNAVAILABLE_DETAIL).retry_after(Duration::from_secs(1))
    }

    /// One invalid field.
    pub fn invalid(pointer: impl Into<String>, must: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, "A field of the request is not valid; see errors.")
            .violation(pointer, must)
    }

    /// Adds a field that is wrong.
    #[must_use]
    pub fn violation(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.violations.push(Violation { pointer: pointer.into(), detail: detail.into() });
        self
    }

    /// When to try again.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The cause, for the log.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What went wrong.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The text for the caller.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The wrong fields.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// When to try again.
    pub fn retry_after_value(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The permission that is missing.
    pub fn permission(&self) -> Option<&str> {
        self.permission.as_deref()
    }

    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.code,
            Code::Unavailable | Code::Aborted | Code::DeadlineExceeded | Code::RateLimited | Code::Overloaded
        )
    }

    /// For the log: code, detail and cause.
    pub fn log_text(&self) -> String {
        let source = self.source.as_ref().map(|s| format!(": {s}")).unwrap_or_default();
        format!("{} {}{source}", self.code.as_str(), self.detail)
    }

    /// The HTTP status.
    pub fn http_status(&self) -> u16 {
        self.code.http_status()
    }

    /// The RFC 9457 body.
    pub fn problem(&self, request_id: &str) -> serde_json::Value {
        let mut problem = serde_json::json!({
            "type": format!("https://docs.nitejar.dev/errors/{}", self.code.as_str()),
            "title": self.code.title(),
            "status": self.http_status(),
            "code": self.code.as_str(),
            "detail": self.detail,
            "request_id": request_id,
        });
        if !self.violations.is_empty() {
            let list = self.violations.iter();
            problem["errors"] =
                list.map(|v| serde_json::json!({"pointer": v.pointer, "detail": v.detail})).collect();
        }
        if let Some(permission) = &self.permission {
            problem["permission"] = permission.clone().into();
        }
        problem
    }

    /// The error that a status was made from. What is not ours is never shown: transport trouble becomes
    /// [`Code::Unavailable`] whatever its code says, the rest [`Code::Internal`].
    pub fn from_status(status: Status) -> Self {
        let details = status.get_error_details();
        let ours = details.error_info().filter(|info| info.domain == DOMAIN);
        let code = ours.and_then(|info| Code::ALL.iter().copied().find(|c| c.as_str() == info.reason));
        if let Some(code) = code {
            let mut error = Self::new(code, status.message());
            error.permission = ours.and_then(|info| info.metadata.get("permission").cloned());
            for v in details.bad_request().map(|b| b.field_violations.as_slice()).unwrap_or_default() {
                error = error.violation(v.field.clone(), v.description.clone());
            }
            error.retry_after = details.retry_info().and_then(|r| r.retry_delay);
            return error;
        }
        let transport = std::error::Error::source(&status).is_some();
        match status.code() {
            _ if transport => Self::unavailable().because(status),
            tonic::Code::DeadlineExceeded => Self::new(
                Code::DeadlineExceeded,
                "It took too long; look whether it happened before you repeat it.",
            )
            .because(status),
            tonic::Code::Unavailable | tonic::Code::Cancelled => Self::unavailable().because(status),
            _ => Self::new(Code::Internal, INTERNAL_DETAIL).because(status),
        }
    }

    fn into_status(self) -> Status {
        if self.source.is_some() || self.code == Code::Internal {
            tracing::error!(error = %self.log_text(), "request failed");
        }
        let mut details = ErrorDetails::new();
        let mut metadata = HashMap::new();
        if let Some(permission) = self.permission {
            metadata.insert("permission".to_owned(), permission);
        }
        details.set_error_info(self.code.as_str(), DOMAIN, metadata);
        if !self.violations.is_empty() {
            let list = self.violations.into_iter();
            details
                .set_bad_request(list.map(|v| FieldViolation::new(v.pointer, v.detail)).collect::<Vec<_>>());
        }
        if let Some(after) = self.retry_after {
            details.set_retry_info(Some(after));
        }
        Status::with_error_details(self.code.grpc(), self.detail, details)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        error.into_status()
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        let mut slot = Some(error);
        let any: &mut dyn Any = &mut slot;
        if let Some(status) = any.downcast_mut::<Option<Status>>().and_then(Option::take) {
            return Self::from_status(status);
        }
        let Some(source) = slot else { return Self::new(Code::Internal, INTERNAL_DETAIL) };
        let known = TAUGHT.get().and_then(|classify| classify(&source));
        known.unwrap_or_else(|| Self::new(Code::Internal, INTERNAL_DETAIL)).because(source)
    }
}

/// What an error of another library means to a caller; none where it is our fault.
type Classify = fn(&(dyn std::error::Error + 'static)) -> Option<Error>;

static TAUGHT: OnceLock<Classify> = OnceLock::new();

/// From now on `?` and [`Error::from`] know more than that everything foreign is our fault. The first teacher is heard: it is
/// the database's, which this crate does not depend on.
pub fn teach(classify: Classify) {
    let _ = TAUGHT.set(classify);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_way_through_grpc() {
        for code in Code::ALL {
            let error = Error::new(*code, "Do this instead.")
                .violation("/name", "must be there")
                .retry_after(Duration::from_secs(3));
            let back = Error::from(Status::from(error));
            assert_eq!(back.code(), *code);
            assert_eq!(back.detail(), "Do this instead.");
            assert_eq!(back.violations()[0].pointer, "/name");
            assert_eq!(back.retry_after_value(), Some(Duration::from_secs(3)));
            assert!(!code.title().is_empty());
        }
        assert_eq!(Error::from(Status::from(Error::lacks("jobs.run"))).permission(), Some("jobs.run"));
    }

    #[test]
    fn internal_text_never_leaves() {
        let error = Error::from(std::io::Error::other("password=hunter2"));
        assert!(error.log_text().contains("hunter2"));
        assert!(!error.problem("req_1").to_string().contains("hunter2"));
        assert!(!format!("{:?}", Status::from(error)).contains("hunter2"));
        let foreign = Error::from(Status::invalid_argument("column \"x\" does not exist"));
        assert_eq!(foreign.code(), Code::Internal);
        assert!(!foreign.detail().contains("column"));
    }

    #[test]
    fn the_words_are_unique() {
        let words: std::collections::HashSet<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(words.len(), Code::ALL.len());
    }
}
