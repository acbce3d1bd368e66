//! Logs by tracing, traces and metrics by OpenTelemetry: to an OTLP receiver when one is configured, metrics always
//! also as Prometheus text. What is never logged: `docs/NEVER-LOGGED.md`.

use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::global;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::TelemetryConfig;

/// Flushes what is still to be sent when it is dropped.
#[derive(Debug)]
pub struct Guard {
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.traces.shutdown_with_timeout(Duration::from_secs(3));
        let _ = self.metrics.shutdown_with_timeout(Duration::from_secs(3));
    }
}

static REGISTRY: OnceLock<prometheus::Registry> = OnceLock::new();

/// Sets up this process. Must run inside of the tokio runtime.
pub fn init(
    process: &str,
    config: &TelemetryConfig,
) -> Result<Guard, Box<dyn std::error::Error + Send + Sync>> {
    global::set_text_map_propagator(TraceContextPropagator::new());
    let resource = Resource::builder().with_service_name(format!("nitejar-{process}")).build();

    let registry = REGISTRY.get_or_init(prometheus::Registry::new);
    let prometheus = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build()?;
    let mut metrics = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(prometheus);
    let mut traces = SdkTracerProvider::builder().with_resource(resource);
    let endpoint = &config.otlp_endpoint;
    if !endpoint.is_empty() {
        let spans = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        traces = traces.with_batch_exporter(spans);
        let exporter = MetricExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        metrics = metrics.with_reader(PeriodicReader::builder(exporter).build());
    }
    let guard = Guard { traces: traces.build(), metrics: metrics.build() };
    global::set_meter_provider(guard.metrics.clone());
    global::set_tracer_provider(guard.traces.clone());

    let filter = EnvFilter::try_new(&config.log)?;
    let pretty = match config.log_format.as_str() {
        "pretty" => true,
        "json" => false,
        _ => std::io::stderr().is_terminal(),
    };
    let colour = pretty && std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let logs = if pretty {
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour).compact().boxed()
    } else {
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).json().flatten_event(true).boxed()
    };
    // Spans go to the receiver whatever the log level, but not those of the libraries that send them. Where there is no
    // receiver none are made.
    let spans = (!endpoint.is_empty()).then(|| {
        tracing_opentelemetry::layer()
            .with_tracer(guard.traces.tracer("nitejar"))
            .with_filter(EnvFilter::new("off,nitejar=info,nitejar_common=info,nitejar_gateway=info,nitejar_sprites=info,nitejar_tenancy=info,nitejar_billing=info,nitejar_audit=info"))
    });
    // A second call in one process (tests) keeps the first subscriber.
    let _ = tracing_subscriber::registry().with(spans).with(logs.with_filter(filter)).try_init();
    Ok(guard)
}

/// The process's metrics as Prometheus text; empty before [`init`].
pub fn metrics_text() -> String {
    let Some(registry) = REGISTRY.get() else { return String::new() };
    let mut text = String::new();
    let families = registry.gather();
    match prometheus::TextEncoder::new().encode_utf8(&families, &mut text) {
        Ok(()) => text,
        Err(error) => format!("# {error}\n"),
    }
}
