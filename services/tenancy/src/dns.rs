//! What the DNS says, asked anew each time: whoever has just made a record does not wait for a kept answer to end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::id::OrgId;
use tokio::sync::Semaphore;

/// All tries together.
const DEADLINE: Duration = Duration::from_secs(5);
/// Records of one answer, and bytes of one record, that are looked at.
const MOST: usize = 100;
const LONGEST: usize = 1024;
/// Questions at a time, one of each organization: name servers of theirs decide how long each takes.
const AT_A_TIME: usize = 64;

/// Asks one resolver.
#[derive(Debug)]
pub(crate) struct Dns {
    resolver: Option<SocketAddr>,
    /// Who verifies does not wait for who joins.
    verifying: Questions,
    joining: Questions,
}

/// Questions of one kind.
#[derive(Debug)]
struct Questions {
    places: Semaphore,
    /// Organizations that ask, or wait until they may.
    turns: Mutex<HashMap<OrgId, Arc<Semaphore>>>,
}

impl Questions {
    fn new() -> Self {
        Self { places: Semaphore::new(AT_A_TIME), turns: Mutex::default() }
    }

    /// The one turn of an organization, to be taken and given back.
    fn turn_of(&self, org: &OrgId) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(org.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))))
    }
}

impl Dns {
    /// Of that resolver; of the system's when there is none.
    pub(crate) fn new(resolver: Option<SocketAddr>) -> Self {
        Self { resolver, verifying: Questions::new(), joining: Questions::new() }
    }

    /// The TXT records of a name, for an organization that verifies it; empty when it has none.
    pub(crate) async fn texts(&self, org: &OrgId, name: &str) -> Result<Vec<String>> {
        let turn = self.verifying.turn_of(org);
        let _turn = turn.try_acquire().map_err(|_| {
            let detail =
                "A domain of this organization is being looked up at this moment. Try again when it is done.";
            Error::new(Code::Conflict, detail)
        })?;
        self.look(&self.verifying.places, name).await
    }

    /// The same for somebody who joins an organization, and waits for others who do.
    pub(crate) async fn texts_for_joiner(&self, org: &OrgId, name: &str) -> Result<Vec<String>> {
        let turn = self.joining.turn_of(org);
        let waited = tokio::time::timeout(DEADLINE, turn.acquire()).await;
        let _turn = waited.map_err(|_| failed("others who join are looked up before"))?;
        self.look(&self.joining.places, name).await
    }

    async fn look(&self, places: &Semaphore, name: &str) -> Result<Vec<String>> {
        let full = |_| Error::unavailable().because("too many lookups at once");
        let _place = places.try_acquire().map_err(full)?;
        let asked = tokio::time::timeout(DEADLINE, self.ask(name)).await;
        let answer = match asked.map_err(|_| failed("no answer in time"))? {
            Ok(answer) => answer,
            Err(error) if error.is_no_records_found() => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        if answer.answers().len() > MOST {
            return Err(failed("more records than are looked at"));
        }
        let texts = answer.answers().iter().filter_map(|record| match &record.data {
            // A text longer than 255 bytes comes in parts.
            RData::TXT(txt) => Some(txt.txt_data.concat()),
            _ => None,
        });
        let short = texts.filter(|text| text.len() <= LONGEST);
        Ok(short.map(|text| String::from_utf8_lossy(&text).into_owned()).collect())
    }

    async fn ask(&self, name: &str) -> Result<hickory_resolver::lookup::Lookup, NetError> {
        let mut builder = match self.resolver {
            None => TokioResolver::builder_tokio()?,
            Some(addr) => {
                let mut server = NameServerConfig::udp_and_tcp(addr.ip());
                server.connections.iter_mut().for_each(|connection| connection.port = addr.port());
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        options.timeout = Duration::from_secs(2);
        options.attempts = 1;
        options.use_hosts_file = ResolveHosts::Never;
        // With the dot it is the whole name, whatever the system would search.
        builder.build()?.txt_lookup(format!("{name}.")).await
    }
}

/// What their servers said is theirs, and of no use to a stranger: it goes to the log.
fn failed(because: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let because: Box<dyn std::error::Error + Send + Sync> = because.into();
    tracing::info!(%because, "a domain's lookup failed");
    Error::new(
        Code::DomainLookupFailed,
        "The name servers of this domain did not answer, or answered with an error. Look at them, or try again later.",
    )
}
