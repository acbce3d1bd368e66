//! Webhooks: raw bytes to the service that knows how they are signed. Until it has looked at them anybody may have sent them:
//!
//! | Step | Bound |
//! |---|---|
//! | the body arrives | memory, in all, for one address and for all that are not known: [`crate::bodies`] |
//! | it is proved | so many at a time; few of an address that was refused too often, unless it is known |
//! | it is refused | counts for its address, as a bad credential does |
//!
//! An address is known from where a proved webhook came within the last hour: anybody can make GitHub send what is signed wrongly,
//! and must not shut GitHub out with it.

pub(crate) mod github;
pub(crate) mod secret_scanning;

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderMap;
use nitejar_common::error::{Code, Error, Result};
use tokio::sync::Semaphore;

use crate::bodies::{Bodies, Bounds};
use crate::limits::Limits;

/// So many are proved at a time; each is copied for its way to the service.
const PLACES: usize = 16;
/// Proving takes a moment: who comes to a busy door waits so long.
const WAIT: Duration = Duration::from_secs(2);

/// Where webhooks of one kind come in. Each kind has a door of its own: what crowds at one is no matter at the other.
pub(crate) struct Door {
    bodies: Bodies,
    places: Semaphore,
}

/// All doors.
pub(crate) struct Doors {
    github: Door,
    secret_scanning: Door,
}

impl Doors {
    pub(crate) fn new() -> Self {
        // A quarter has room for the largest body, whose buffer may be twice as large.
        Self { github: Door::new(256 << 20), secret_scanning: Door::new(32 << 20) }
    }
}

impl Door {
    /// With bodies of at most so many bytes at a time. GitHub sends from few addresses, each body within a moment.
    fn new(bytes: usize) -> Self {
        let bodies = Bodies::new(Bounds { bytes, each: 64, for_known: bytes / 2 });
        Self { bodies, places: Semaphore::new(PLACES) }
    }

    /// Asks the service about a body that has arrived as a whole.
    async fn prove<T>(
        &self,
        limits: &Limits,
        address: IpAddr,
        asking: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let _narrow = if self.bodies.knows(address) { None } else { limits.narrow("webhook", address)? };
        let busy = || Error::unavailable().because("too many webhooks at a time");
        let _place = tokio::time::timeout(WAIT, self.places.acquire())
            .await
            .map_err(|_| busy())?
            .map_err(|_| busy())?;
        let answer = asking.await?;
        self.bodies.note_proved(address);
        Ok(answer)
    }
}

/// Counts a refusal for the address that it went to. What is wrong with us is nobody's fault, and what is signed is never
/// counted.
fn charge<T>(limits: &Limits, address: IpAddr, result: Result<T>) -> Result<T> {
    let theirs = |error: &Error| {
        (400..500).contains(&error.http_status()) && !matches!(error.code(), Code::RateLimited)
    };
    if result.as_ref().is_err_and(theirs) {
        limits.take_address(address)?;
    }
    result
}

/// A header as text; empty when it is not there, too long, or none.
fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|v| v.to_str().ok()).filter(|v| v.len() <= 200).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use nitejar_common::clock::system;

    use super::*;
    use crate::limits::RateLimits;

    #[test]
    fn only_what_is_wrong_with_a_webhook_is_counted_for_its_address() {
        let limits = Limits::new(RateLimits { address: 3, ..RateLimits::default() }, system());
        let address = "192.0.2.1".parse().unwrap();
        let said = |code: Code| {
            let said: Result<()> = charge(&limits, address, Err(Error::new(code, "x")));
            said.unwrap_err().code()
        };
        for _ in 0..9 {
            assert!(charge(&limits, address, Ok(())).is_ok());
            for ours in [Code::Unavailable, Code::Internal, Code::Overloaded, Code::RateLimited] {
                assert_eq!(said(ours), ours);
            }
        }
        for _ in 0..3 {
            assert_eq!(said(Code::InvalidSignature), Code::InvalidSignature);
        }
        assert_eq!(said(Code::MalformedBody), Code::RateLimited);
        assert!(charge(&limits, address, Ok(())).is_ok(), "what is signed is taken all the same");
    }
}
