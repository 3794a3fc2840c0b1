//! Probes and lifecycle hooks.

use corral_api::field::{FieldError, FieldPath};
use corral_api::int_or_string::IntOrString;
use corral_api::k8s::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler, PodSpec, Probe,
    SleepAction, TCPSocketAction,
};

use crate::rules::{self, Errors, text};

const MORE_THAN_ONE: &str = "may not specify more than 1 handler type";
/// Signals by the names that Linux has for them, real-time ones apart.
const SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGRTMIN",
    "SIGRTMAX",
];

/// Probes and hooks of a container that keeps running.
pub(super) fn of_container(
    errors: &mut Errors,
    path: &FieldPath,
    container: &Container,
    spec: &PodSpec,
) {
    if let Some(hooks) = &container.lifecycle {
        lifecycle(errors, &path.child("lifecycle"), hooks, spec);
    }
    if let Some(liveness) = &container.liveness_probe {
        let path = path.child("livenessProbe");
        probe(errors, &path, liveness, spec);
        one_success(errors, &path, liveness);
    }
    if let Some(readiness) = &container.readiness_probe {
        let path = path.child("readinessProbe");
        probe(errors, &path, readiness, spec);
        if let Some(seconds) = readiness.termination_grace_period_seconds {
            errors.push(FieldError::invalid(
                &path.child("terminationGracePeriodSeconds"),
                seconds,
                "must not be set for readinessProbes",
            ));
        }
    }
    if let Some(startup) = &container.startup_probe {
        let path = path.child("startupProbe");
        probe(errors, &path, startup, spec);
        one_success(errors, &path, startup);
    }
}

fn one_success(errors: &mut Errors, path: &FieldPath, probe: &Probe) {
    let threshold = probe.success_threshold.unwrap_or(0);
    if threshold != 1 {
        let path = path.child("successThreshold");
        errors.push(FieldError::invalid(&path, threshold, "must be 1"));
    }
}

/// What is to be done, whoever asks for it.
#[derive(Default)]
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

fn probe(errors: &mut Errors, path: &FieldPath, probe: &Probe, spec: &PodSpec) {
    let action = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    handler(errors, path, &action, spec);
    for (field, n) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        rules::nonnegative_opt(errors, &path.child(field), n);
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|s| *s <= 0) {
        let path = path.child("terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(
            &path,
            seconds,
            "must be greater than 0",
        ));
    }
}

fn lifecycle(errors: &mut Errors, path: &FieldPath, hooks: &Lifecycle, spec: &PodSpec) {
    let mut hook = |field: &str, given: &Option<LifecycleHandler>| {
        let Some(given) = given else { return };
        let action = Handler {
            exec: given.exec.as_ref(),
            http_get: given.http_get.as_ref(),
            tcp_socket: given.tcp_socket.as_ref(),
            grpc: None,
            sleep: given.sleep.as_ref(),
        };
        handler(errors, &path.child(field), &action, spec);
    };
    hook("postStart", &hooks.post_start);
    hook("preStop", &hooks.pre_stop);
    if let Some(signal) = &hooks.stop_signal {
        stop_signal(errors, &path.child("stopSignal"), signal, spec);
    }
}

fn stop_signal(errors: &mut Errors, path: &FieldPath, signal: &str, spec: &PodSpec) {
    match spec.os.as_ref().map(|os| os.name.as_str()) {
        None => errors.push(FieldError::forbidden(
            path,
            "may not be set for containers with empty `spec.os.name`",
        )),
        Some("windows") => rules::supported(errors, path, signal, &["SIGKILL", "SIGTERM"]),
        Some("linux") if !is_real_time(signal) => rules::supported(errors, path, signal, SIGNALS),
        Some(_) => {}
    }
}

fn is_real_time(signal: &str) -> bool {
    let offset = |prefix: &str, max: u8| {
        signal
            .strip_prefix(prefix)
            .and_then(|n| n.parse::<u8>().ok())
            .is_some_and(|n| (1..=max).contains(&n))
    };
    offset("SIGRTMIN+", 15) || offset("SIGRTMAX-", 14)
}

fn handler(errors: &mut Errors, path: &FieldPath, handler: &Handler<'_>, spec: &PodSpec) {
    let mut n_handlers = 0;
    let mut first = |errors: &mut Errors, path: &FieldPath| {
        n_handlers += 1;
        if n_handlers > 1 {
            errors.push(FieldError::forbidden(path, MORE_THAN_ONE));
        }
        n_handlers == 1
    };
    if let Some(exec) = handler.exec {
        let path = path.child("exec");
        let given = exec.command.as_ref().is_some_and(|c| !c.is_empty());
        if first(errors, &path) && !given {
            errors.push(FieldError::required(&path.child("command"), ""));
        }
    }
    if let Some(http) = handler.http_get {
        let path = path.child("httpGet");
        if first(errors, &path) {
            http_get(errors, &path, http);
        }
    }
    if let Some(tcp) = handler.tcp_socket {
        let path = path.child("tcpSocket");
        if first(errors, &path) {
            rules::port_or_name(errors, &path.child("port"), &tcp.port);
        }
    }
    if let Some(grpc) = handler.grpc {
        let path = path.child("grpc");
        if first(errors, &path) {
            rules::port_or_name(errors, &path.child("port"), &IntOrString::Int(grpc.port));
        }
    }
    if let Some(sleep) = handler.sleep {
        let path = path.child("sleep");
        let grace = spec.termination_grace_period_seconds;
        if first(errors, &path)
            && let Some(grace) = grace.filter(|g| !(0..=*g).contains(&sleep.seconds))
        {
            let detail = format!(
                "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
            );
            errors.push(FieldError::invalid(&path, sleep.seconds, detail));
        }
    }
    if n_handlers == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
}

fn http_get(errors: &mut Errors, path: &FieldPath, http: &HTTPGetAction) {
    if text(&http.path).is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
    }
    rules::port_or_name(errors, &path.child("port"), &http.port);
    let scheme = text(&http.scheme);
    rules::supported(errors, &path.child("scheme"), scheme, &["HTTP", "HTTPS"]);
    for header in http.http_headers.iter().flatten() {
        let ok = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if header.name.is_empty() || !header.name.bytes().all(ok) {
            let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', \
                          regex used for validation is '[-A-Za-z0-9]+')";
            let path = path.child("httpHeaders");
            errors.push(FieldError::invalid(&path, header.name.as_str(), detail));
        }
    }
}
