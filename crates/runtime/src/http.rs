//! The one place that builds HTTP clients.

use std::sync::Once;
use std::time::Duration;

/// Installs the TLS provider of this process; once is enough, twice does no harm.
pub fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only when somebody else installed one first, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// A client that gives up after `timeout`, follows no redirect and uses no proxy.
pub fn client(timeout: Duration) -> reqwest::Result<reqwest::Client> {
    install_tls();
    reqwest::Client::builder()
        .timeout(timeout)
        .connect_timeout(Duration::from_secs(3))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("nitejar-cloud/", env!("CARGO_PKG_VERSION")))
        .build()
}
