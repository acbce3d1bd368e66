//! Who asks, where, whether they may, and whether they do not ask too often.

use std::net::IpAddr;

use http::HeaderMap;
use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::id::is_id;
use nitejar_proto::policy::Scope;

use crate::authn::{self, Question};
use crate::authz;
use crate::limits::Left;
use crate::service::Gateway;
use crate::transcode::routes::Route;

/// What a request shows of itself.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) route: &'a Route,
    pub(crate) headers: &'a HeaderMap,
    /// The organization in the path.
    pub(crate) org: Option<&'a str>,
    pub(crate) request_id: &'a str,
}

/// Lets a new request in. `left` is set as soon as it is known.
pub(crate) async fn admit(
    gateway: &Gateway,
    asked: Asked<'_>,
    address: IpAddr,
    left: &mut Option<Left>,
) -> Result<RequestCtx> {
    let ctx = who_where_may(gateway, asked, Some(address)).await?;
    if let Some((_, credential)) = authn::presented(asked.headers)? {
        gateway.limits.take_known(credential, &ctx, left)?;
    }
    Ok(ctx)
}

/// Looks again, while a request is under way.
pub(crate) async fn still_may(gateway: &Gateway, asked: Asked<'_>) -> Result<RequestCtx> {
    who_where_may(gateway, asked, None).await
}

/// Credential, organization, permission; what is refused to somebody known is audited. An `address`, where given, is
/// charged for a credential that is not good, and for none.
async fn who_where_may(gateway: &Gateway, asked: Asked<'_>, address: Option<IpAddr>) -> Result<RequestCtx> {
    let policy = asked.route.policy;
    // What is no id names no organization; nobody needs to be asked about it.
    let org = asked.org.filter(|org| is_id(org, "org"));
    let caller = match authn::presented(asked.headers)? {
        Some((kind, token)) => {
            let org = org.unwrap_or_default();
            let question = Question { request_id: asked.request_id, kind, token, org, address };
            authn::resolve(gateway, question).await?
        }
        None if policy.scope == Scope::Public => {
            address.map(|address| gateway.limits.take_address(address)).transpose()?;
            authn::anonymous()
        }
        None => {
            return Err(Error::new(Code::Unauthenticated, "Send a key as Authorization: Bearer …."));
        }
    };
    authz::authorize(policy, &caller, asked.org, asked.request_id).inspect_err(|error| {
        gateway.denials.note(&caller, &policy.path, org, error, asked.request_id);
    })
}
