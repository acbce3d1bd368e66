//! Mutual TLS between services, from files that may be replaced while a process runs.
//!
//! A certificate names its service (`DNS:tenancy`), not a host: who calls tenancy wants tenancy, wherever it runs. Both sides
//! show one, signed by a CA of ours. New connections use what the files hold now; old ones go on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// A connection must be made, or must have shown who it is, within this.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// Handshakes under way at a time; more wait in the kernel's queue.
const AT_A_TIME: usize = 256;

/// Where the files are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Certificates of the CAs that are trusted, PEM. During a change of the CA: of both.
    pub ca: PathBuf,
    /// This service's certificate and what leads to the CA, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

struct Loaded {
    hash: [u8; 32],
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// What the files hold.
pub struct Tls {
    files: Files,
    loaded: RwLock<Arc<Loaded>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({})", self.files.cert.display())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::internal(format!("{}: {e}", path.display())))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| Error::internal(format!("{}: {e}", path.display())))?;
    if all.is_empty() { Err(Error::internal(format!("{}: no certificate", path.display()))) } else { Ok(all) }
}

impl Files {
    fn load(&self) -> Result<Loaded> {
        let (ca, cert, key) = (read(&self.ca)?, read(&self.cert)?, read(&self.key)?);
        let mut hash = Sha256::new();
        for part in [&ca, &cert, &key] {
            hash.update(part);
        }
        let mut roots = RootCertStore::empty();
        for root in certificates(&self.ca, &ca)? {
            roots.add(root)?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&self.cert, &cert)?;
        let private = || {
            PrivateKeyDer::from_pem_slice(&key)
                .map_err(|_| Error::internal(format!("{}: no key", self.key.display())))
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), private()?)?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, private()?)?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Loaded { hash: hash.finalize().into(), server: Arc::new(server), client: Arc::new(client) })
    }
}

impl Tls {
    /// Reads the files. All that is wrong with them is told here, at the start.
    pub fn load(files: Files) -> Result<Arc<Self>> {
        let loaded = RwLock::new(Arc::new(files.load()?));
        Ok(Arc::new(Self { files, loaded }))
    }

    fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again whenever they changed, until told to stop. Files that are wrong change nothing.
    pub async fn follow(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            match self.files.load() {
                Ok(new) if new.hash != self.loaded().hash => {
                    tracing::info!(cert = %self.files.cert.display(), "new certificates");
                    *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(error = %error.log_text(), "the certificates can't be read; the old ones stay");
                }
            }
        }
    }

    /// Connections that have shown a certificate of ours, until told to stop.
    pub fn accept(
        self: Arc<Self>,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> ReceiverStream<std::io::Result<server::TlsStream<TcpStream>>> {
        let (to, accepted) = tokio::sync::mpsc::channel(16);
        let places = Arc::new(tokio::sync::Semaphore::new(AT_A_TIME));
        tokio::spawn(async move {
            while let Ok(place) = Arc::clone(&places).acquire_owned().await {
                let socket = tokio::select! {
                    () = stop.cancelled() => return,
                    socket = listener.accept() => socket,
                };
                let Ok((socket, peer)) = socket else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let (acceptor, to) = (TlsAcceptor::from(Arc::clone(&self.loaded().server)), to.clone());
                tokio::spawn(async move {
                    let _ = socket.set_nodelay(true);
                    match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
                        Ok(Ok(stream)) => drop(to.send(Ok(stream)).await),
                        Ok(Err(error)) => {
                            tracing::warn!(%peer, %error, "a connection without a certificate of ours")
                        }
                        Err(_) => tracing::warn!(%peer, "a connection that did not show who it is"),
                    }
                    drop(place);
                });
            }
        });
        ReceiverStream::new(accepted)
    }

    /// A connection to `service` at an address; refused unless it shows that it is that service.
    pub(super) async fn connect(
        &self,
        service: &'static str,
        authority: &str,
    ) -> std::io::Result<client::TlsStream<TcpStream>> {
        let name = ServerName::try_from(service).map_err(std::io::Error::other)?;
        let connector = TlsConnector::from(Arc::clone(&self.loaded().client));
        let connecting = async {
            let socket = TcpStream::connect(authority).await?;
            socket.set_nodelay(true)?;
            connector.connect(name, socket).await
        };
        tokio::time::timeout(HANDSHAKE, connecting)
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
    }
}
