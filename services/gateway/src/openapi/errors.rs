//! What a caller does about each error.

use nitejar_common::error::Code;
use serde_json::{Value, json};

/// All errors, for the reference.
pub(super) fn all() -> Vec<Value> {
    let one = |code: &Code| json!({"code": code.as_str(), "status": code.http_status(), "title": code.title(), "advice": advice(*code)});
    Code::ALL.iter().map(one).collect()
}

fn advice(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "Mend the fields that `errors` points at; the same request will fail again.",
        Code::MalformedBody => {
            "Send a JSON object, in UTF-8, without repeated keys and nested at most 32 deep."
        }
        Code::Unauthenticated => "Send a key as `Authorization: Bearer njk_…`, or sign in.",
        Code::InvalidCredential => {
            "Use another key, or sign in again: this one was revoked, has expired, or never was."
        }
        Code::InvalidSignature => "Sign with the secret that the integration was given.",
        Code::PermissionDenied => "Ask an admin for a role or key with the permission in `permission`.",
        Code::AddressNotAllowed => "Use the key from a network that it allows, or change `allowed_networks`.",
        Code::SignInAgain => {
            "Sign in once more in this browser, or make a new personal key, then repeat it within 15 minutes. An organization's key \
             can't do it."
        }
        Code::FeatureNotInPlan => "Change to a plan that has it; GET /v1/plans tells which.",
        Code::SeatsLimit => "Remove a member, or change to a larger plan.",
        Code::OrgSuspended => {
            "Ask an owner to see why (`suspension` of the organization), and us to resume it."
        }
        Code::OrgDeleting => "Ask an owner to restore the organization, while there is time.",
        Code::CrossSite => "Call from our own pages, or use an API key.",
        Code::NotFound => "Check the id; what is another organization's looks as if it were not there.",
        Code::MethodNotAllowed => "Use a method that the `Allow` header names.",
        Code::AlreadyExists => "Choose another name, or use what is there.",
        Code::Conflict => "Read it again; `detail` says which state it is in.",
        Code::TooManyOrgs => "Hand one over, or delete one; or ask us for more.",
        Code::LastOwner => "Make somebody else an owner first.",
        Code::InvitationUnusable => "Ask for a new invitation.",
        Code::SignInLinkUnusable => "Ask for a new link, in the browser that will open it.",
        Code::DomainRecordMissing => {
            "Make the TXT record that `detail` names, or ask the owners of the organization to; wait until it is seen, and repeat it."
        }
        Code::DomainLookupFailed => "Look whether the domain's name servers answer, then repeat it.",
        Code::InstallationBound => "Disconnect it from the other organization first.",
        Code::StaleLease => "Stop the job; another runner may have it.",
        Code::EtagMismatch => "Read it again, apply the change to what you read, and send the new ETag.",
        Code::IdempotencyKeyReused => "Use a new key for each thing you want done.",
        Code::IdempotencyKeyInUse => "Repeat it in a moment to get the first request's answer.",
        Code::PayloadTooLarge => "Send less; `detail` says how much is allowed.",
        Code::UnsupportedMediaType => "Send `Content-Type: application/json` and no `Content-Encoding`.",
        Code::AgentsLimit => "Delete an agent, or change to a larger plan.",
        Code::QuotaExceeded => "Change to a larger plan, or wait for the next month.",
        Code::RateLimited => "Wait as `Retry-After` says; `RateLimit` tells what is left.",
        Code::Aborted => "Repeat it.",
        Code::Unavailable => "Repeat it, with growing pauses; a write with an `Idempotency-Key`.",
        Code::Overloaded => "Repeat it after `Retry-After`, with growing pauses.",
        Code::DeadlineExceeded => "Look whether it happened, or repeat it with the same `Idempotency-Key`.",
        Code::Internal => "Tell support the `request_id`.",
    }
}
