//! Statistics of the server, in Prometheus's text format.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::api::Service;

/// The upper bounds of histograms in seconds.
const BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// A histogram of times.
#[derive(Debug, Default)]
struct Histogram {
    /// How many times are at most the bound of each bucket, and above that of the one before.
    counts: [AtomicU64; BUCKETS.len()],
    all: AtomicU64,
    microseconds: AtomicU64,
}

impl Histogram {
    fn add(&self, time: Duration) {
        if let Some(bucket) = BUCKETS.iter().position(|bound| time.as_secs_f64() <= *bound) {
            self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.all.fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    fn write(&self, to: &mut String, name: &str, help: &str) {
        head(to, name, help, "histogram");
        let mut below = 0;
        for (bound, count) in BUCKETS.iter().zip(&self.counts) {
            below += count.load(Ordering::Relaxed);
            let _ = writeln!(to, "ferrum_wgpu_{name}_bucket{{le=\"{bound}\"}} {below}");
        }
        // Another thread may have added one meanwhile.
        let all = self.all.load(Ordering::Relaxed).max(below);
        let _ = writeln!(to, "ferrum_wgpu_{name}_bucket{{le=\"+Inf\"}} {all}");
        let _ = writeln!(to, "ferrum_wgpu_{name}_sum {}", self.microseconds.load(Ordering::Relaxed) as f64 / 1e6);
        let _ = writeln!(to, "ferrum_wgpu_{name}_count {all}");
    }
}

/// The statistics.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    /// Responses by the hundred of their status: 2xx, 4xx, 5xx.
    statuses: [AtomicU64; 3],
    /// Requests refused because the queue was full.
    pub(super) refused: AtomicU64,
    /// Recoveries from lost devices.
    pub(super) recoveries: AtomicU64,
    /// Requests whose clients left before the end.
    pub(super) cancelled: AtomicU64,
    prompt: AtomicU64,
    cached: AtomicU64,
    generated: AtomicU64,
    first: Histogram,
    between: Histogram,
    pub(super) requests: RequestTimes,
}

/// The times of whole requests.
#[derive(Debug, Default)]
pub(super) struct RequestTimes(Histogram);

impl RequestTimes {
    pub(super) fn add(&self, time: Duration) {
        self.0.add(time);
    }
}

impl Metrics {
    pub(super) fn response(&self, status: u16) {
        let index = match status {
            400..500 => 1,
            500.. => 2,
            _ => 0,
        };
        self.statuses[index].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn first_token(&self, prompt: u32, cached: u32, after: Duration) {
        self.prompt.fetch_add(prompt.into(), Ordering::Relaxed);
        self.cached.fetch_add(cached.into(), Ordering::Relaxed);
        self.generated.fetch_add(1, Ordering::Relaxed);
        self.first.add(after);
    }

    pub(super) fn embedded(&self, tokens: u32) {
        self.prompt.fetch_add(tokens.into(), Ordering::Relaxed);
    }

    pub(super) fn token(&self, after: Duration) {
        self.generated.fetch_add(1, Ordering::Relaxed);
        self.between.add(after);
    }

    /// Returns the mean time of a request, from 1 to 60 seconds.
    pub(super) fn seconds_per_request(&self) -> u32 {
        let Histogram { all, microseconds, .. } = &self.requests.0;
        let mean = microseconds.load(Ordering::Relaxed) / all.load(Ordering::Relaxed).max(1);
        mean.div_ceil(1_000_000).clamp(1, 60) as u32
    }

    /// Returns the text for Prometheus.
    pub(super) fn text(&self, service: Option<&Service>, admitted: u32) -> String {
        let mut text = String::new();
        let to = &mut text;
        head(to, "responses_total", "HTTP responses by class of status", "counter");
        for (class, count) in ["2xx", "4xx", "5xx"].iter().zip(&self.statuses) {
            let _ = writeln!(to, "ferrum_wgpu_responses_total{{class=\"{class}\"}} {}", count.load(Ordering::Relaxed));
        }
        let counters = [
            ("requests_refused_total", "Requests refused because the queue was full", &self.refused),
            ("requests_cancelled_total", "Requests whose client left before the end", &self.cancelled),
            ("device_recoveries_total", "Recoveries from a lost device", &self.recoveries),
            ("prompt_tokens_total", "Prompt tokens, cached ones included", &self.prompt),
            ("prompt_tokens_cached_total", "Prompt tokens found in the KV cache", &self.cached),
            ("generated_tokens_total", "Generated tokens", &self.generated),
        ];
        for (name, help, value) in counters {
            head(to, name, help, "counter");
            let _ = writeln!(to, "ferrum_wgpu_{name} {}", value.load(Ordering::Relaxed));
        }
        if let Some(service) = service {
            let engine = service.engine();
            let (blocks, requests, slots) = (engine.blocks(), engine.requests() as u32, engine.options().sequences);
            let lookup = engine.lookup();
            for (name, help, value) in [
                ("draft_steps_total", "Decode steps of requests that may have draft tokens", lookup.steps),
                ("draft_tokens_total", "Draft tokens of prompt lookup", lookup.drafted),
                ("draft_tokens_accepted_total", "Draft tokens that were accepted", lookup.accepted),
            ] {
                head(to, name, help, "counter");
                let _ = writeln!(to, "ferrum_wgpu_{name} {value}");
            }
            let gauges = [
                ("requests_running", "Requests that compute", requests.min(slots)),
                ("requests_waiting", "Requests that wait for a sequence", requests.saturating_sub(slots)),
                ("requests_admitted", "Choices of requests that compute or wait", admitted),
                ("kv_blocks", "Blocks of the KV cache", blocks.total),
                ("kv_blocks_used", "Blocks of the KV cache that sequences hold", blocks.total - blocks.free),
                ("state_snapshots", "Snapshots of states of gated delta nets, at most", engine.snapshot_capacity()),
                ("state_snapshots_used", "Snapshots of states of gated delta nets", blocks.snapshots),
            ];
            for (name, help, value) in gauges {
                head(to, name, help, "gauge");
                let _ = writeln!(to, "ferrum_wgpu_{name} {value}");
            }
        }
        self.first.write(to, "time_to_first_token_seconds", "Time from a request to its first token");
        self.between.write(to, "time_between_tokens_seconds", "Time from a token to the next one");
        self.requests.0.write(to, "request_seconds", "Time of requests that compute");
        text
    }
}

fn head(to: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(to, "# HELP ferrum_wgpu_{name} {help}\n# TYPE ferrum_wgpu_{name} {kind}");
}
