//! Real containers under a real shim, on the machine's own root file system. Needs root; leaves nothing behind.

mod pod;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Duration;

use corral_shim::protocol::{Attach, ErrorKind, Exec, Kill, Request, Resize, Response};
use nix::unistd::pipe;
use pod::Pod;

fn text(end: OwnedFd) -> String {
    let mut text = String::new();
    std::fs::File::from(end)
        .read_to_string(&mut text)
        .expect("readable");
    text
}

#[test]
fn a_container_runs_and_its_output_and_end_are_recorded() {
    let pod = Pod::new("basic");
    pod.start(
        "one",
        &["/bin/sh", "-c", "echo out; echo bad >&2; hostname; exit 7"],
        |_| {},
    )
    .expect("starts");
    let exit = pod.wait("one");
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (7, None, false));
    assert!(exit.started_at <= exit.finished_at);
    let log = pod.log("one");
    assert!(log.contains(" stdout F out\n"), "{log}");
    assert!(log.contains(" stderr F bad\n"), "{log}");
    assert!(log.contains(" stdout F pod-basic\n"), "{log}");
    let record = corral_shim::exit::read(&pod.bundle("one"))
        .expect("readable")
        .expect("present");
    assert_eq!(record, exit);
    assert_eq!(
        pod.ask(&Request::Delete { id: "one".into() }),
        Response::Done
    );
}

#[test]
fn a_missing_program_is_reported_as_such() {
    let pod = Pod::new("missing");
    match pod.start("one", &["no-such-program"], |_| {}) {
        Err(Response::Error { kind, message }) => {
            assert_eq!(kind, ErrorKind::NotExecutable);
            assert!(
                message.contains("executable file not found in $PATH"),
                "{message}"
            );
        }
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn signals_reach_the_container_and_a_child_of_it_dies_with_it() {
    let pod = Pod::new("signal");
    let script = "trap 'echo bye; exit 3' TERM; echo ready; sleep 1000 & wait";
    pod.start("one", &["/bin/sh", "-c", script], |_| {})
        .expect("starts");
    pod.wait_for_log("one", "ready");
    assert_eq!(
        pod.ask(&Request::Kill(Kill {
            id: "one".into(),
            signal: 15,
            all: false
        })),
        Response::Done
    );
    assert_eq!(pod.wait("one").code, 3);
    assert!(pod.log("one").contains("bye"));
    pod.start(
        "two",
        &["/bin/sh", "-c", "echo ready; exec sleep 1000"],
        |_| {},
    )
    .expect("starts");
    pod.wait_for_log("two", "ready");
    pod.ask(&Request::Kill(Kill {
        id: "two".into(),
        signal: 9,
        all: true,
    }));
    let exit = pod.wait("two");
    assert_eq!(
        (exit.code, exit.signal, exit.oom_killed),
        (137, Some(9), false)
    );
}

#[test]
fn memory_exhaustion_is_recognised() {
    let pod = Pod::new("oom");
    pod.start(
        "one",
        &[
            "/bin/sh",
            "-c",
            "x=$(head -c 200000000 /dev/zero | tr '\\0' a); echo $x",
        ],
        |spec| {
            spec["linux"]["resources"]["memory"] =
                serde_json::json!({"limit": 32 << 20, "swap": 32 << 20});
        },
    )
    .expect("starts");
    let exit = pod.wait("one");
    assert!(exit.oom_killed, "{exit:?}");
}

#[test]
fn exec_gives_streams_and_code() {
    let pod = Pod::new("exec");
    pod.start(
        "one",
        &["/bin/sh", "-c", "echo ready; exec sleep 1000"],
        |_| {},
    )
    .expect("starts");
    pod.wait_for_log("one", "ready");
    let (in_read, in_write) = pipe().expect("pipe");
    let (out_read, out_write) = pipe().expect("pipe");
    let (err_read, err_write) = pipe().expect("pipe");
    let exec = Exec {
        id: "one".into(),
        process: pod::process(&["/bin/sh", "-c", "cat; echo oops >&2; exit 5"], false),
        stdin: true,
        stdout: true,
        stderr: true,
        kill_on_close: false,
    };
    let mut connection = pod.send(&Request::Exec(exec), &[in_read, out_write, err_write]);
    nix::unistd::write(&in_write, b"hello").expect("writes");
    drop(in_write);
    assert!(matches!(connection.next().0, Response::Started { .. }));
    assert_eq!(text(out_read), "hello");
    assert_eq!(text(err_read), "oops\n");
    match connection.next().0 {
        Response::Exited { exit } => assert_eq!(exit.code, 5),
        other => panic!("unexpected {other:?}"),
    }
    let exec = Exec {
        id: "one".into(),
        process: pod::process(&["absent"], false),
        stdin: false,
        stdout: false,
        stderr: false,
        kill_on_close: false,
    };
    let mut connection = pod.send(&Request::Exec(exec), &[]);
    assert!(matches!(
        connection.next().0,
        Response::Error {
            kind: ErrorKind::NotExecutable,
            ..
        }
    ));
}

#[test]
fn exec_is_killed_when_its_client_goes() {
    let pod = Pod::new("execkill");
    pod.start(
        "one",
        &["/bin/sh", "-c", "echo ready; exec sleep 1000"],
        |_| {},
    )
    .expect("starts");
    pod.wait_for_log("one", "ready");
    let (out_read, out_write) = pipe().expect("pipe");
    let exec = Exec {
        id: "one".into(),
        process: pod::process(&["sleep", "1000"], false),
        stdin: false,
        stdout: true,
        stderr: false,
        kill_on_close: true,
    };
    let mut connection = pod.send(&Request::Exec(exec), &[out_write]);
    assert!(matches!(connection.next().0, Response::Started { .. }));
    drop(connection);
    // End of file: the process that held the other end is gone.
    assert_eq!(text(out_read), "");
}

#[test]
fn exec_with_a_terminal_passes_its_master() {
    let pod = Pod::new("tty");
    pod.start(
        "one",
        &["/bin/sh", "-c", "echo ready; exec sleep 1000"],
        |_| {},
    )
    .expect("starts");
    pod.wait_for_log("one", "ready");
    let exec = Exec {
        id: "one".into(),
        process: pod::process(&["/bin/sh", "-c", "read go; stty size"], true),
        stdin: false,
        stdout: false,
        stderr: false,
        kill_on_close: false,
    };
    let mut connection = pod.send(&Request::Exec(exec), &[]);
    let (response, fds) = connection.next();
    let Response::Started { pid, .. } = response else {
        panic!("unexpected {response:?}")
    };
    let mut master = std::fs::File::from(fds.into_iter().next().expect("a terminal"));
    let resize = Resize {
        id: "one".into(),
        exec: Some(pid),
        columns: 77,
        rows: 33,
    };
    assert_eq!(pod.ask(&Request::Resize(resize)), Response::Done);
    std::io::Write::write_all(&mut master, b"go\n").expect("writes");
    let mut output = Vec::new();
    let _ = master.read_to_end(&mut output);
    assert!(
        String::from_utf8_lossy(&output).contains("33 77"),
        "{output:?}"
    );
    assert!(matches!(connection.next().0, Response::Exited { .. }));
}

#[test]
fn attached_clients_feed_and_see_the_container() {
    let pod = Pod::new("attach");
    pod.start_with_stdin(
        "one",
        &["/bin/sh", "-c", "while read line; do echo got $line; done"],
    )
    .expect("starts");
    let (in_read, in_write) = pipe().expect("pipe");
    let (out_read, out_write) = pipe().expect("pipe");
    let attach = Attach {
        id: "one".into(),
        stdin: true,
        stdout: true,
        stderr: false,
    };
    let mut connection = pod.send(&Request::Attach(attach), &[in_read, out_write]);
    assert_eq!(connection.next().0, Response::Done);
    nix::unistd::write(&in_write, b"a\nb\n").expect("writes");
    drop(in_write);
    assert_eq!(text(out_read), "got a\ngot b\n");
    assert!(matches!(connection.next().0, Response::Exited { exit } if exit.code == 0));
    assert!(pod.log("one").contains("stdout F got b"));
}

#[test]
fn a_filter_applies_to_exec_too() {
    let pod = Pod::new("seccomp");
    let deny = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    });
    pod.start(
        "one",
        &[
            "/bin/sh",
            "-c",
            "mkdir /tmp/x || echo denied; exec sleep 1000",
        ],
        |spec| {
            spec["linux"]["seccomp"] = deny;
        },
    )
    .expect("starts");
    pod.wait_for_log("one", "denied");
    let (out_read, out_write) = pipe().expect("pipe");
    let exec = Exec {
        id: "one".into(),
        process: pod::process(
            &[
                "/bin/sh",
                "-c",
                "mkdir /tmp/y || echo denied; grep CapEff /proc/self/status",
            ],
            false,
        ),
        stdin: false,
        stdout: true,
        stderr: false,
        kill_on_close: false,
    };
    let mut connection = pod.send(&Request::Exec(exec), &[out_write]);
    let response = connection.next().0;
    assert!(matches!(response, Response::Started { .. }), "{response:?}");
    let output = text(out_read);
    assert!(output.contains("denied"), "{output}");
    assert!(
        !output.contains("00200000"),
        "CAP_SYS_ADMIN must be dropped again: {output}"
    );
}

#[test]
fn containers_may_share_a_pid_namespace() {
    let pod = Pod::with("pids", |sandbox| sandbox.pid = true);
    let join =
        |spec: &mut serde_json::Value| pod::set_namespace(spec, "pid", &pod.namespace("pid"));
    pod.start(
        "one",
        &["/bin/sh", "-c", "echo ready; exec sleep 1234"],
        join,
    )
    .expect("starts");
    pod.wait_for_log("one", "ready");
    pod.start(
        "two",
        &[
            "/bin/sh",
            "-c",
            "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; echo; exit 0",
        ],
        join,
    )
    .expect("starts");
    assert_eq!(pod.wait("two").code, 0);
    assert!(pod.log("two").contains("sleep 1234"), "{}", pod.log("two"));
    pod.ask(&Request::Kill(Kill {
        id: "one".into(),
        signal: 9,
        all: false,
    }));
    pod.wait("one");
}

#[test]
fn a_watcher_hears_of_changes_and_of_the_shims_death() {
    let pod = Pod::new("watch");
    let mut watch = pod.send(&Request::Watch, &[]);
    assert_eq!(watch.next().0, Response::State { containers: vec![] });
    pod.start("one", &["/bin/true"], |_| {}).expect("starts");
    let ended = std::iter::repeat_with(|| watch.next().0)
        .take(8)
        .any(|response| match response {
            Response::State { containers } => {
                containers.iter().any(|container| container.exit.is_some())
            }
            _ => false,
        });
    assert!(ended);
    pod.ask(&Request::Delete { id: "one".into() });
    assert_eq!(pod.ask(&Request::Shutdown), Response::Done);
    assert!(watch.closed_within(Duration::from_secs(5)));
}

#[test]
fn the_shim_is_small() {
    let pod = Pod::new("small");
    let Response::Pong { pid, version } = pod.ask(&Request::Ping) else {
        panic!("no answer")
    };
    assert_eq!(version, corral_shim::protocol::VERSION);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .expect("RssAnon");
    let kilobytes: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number");
    assert!(kilobytes < 2048, "{kilobytes} kB of private memory");
}

#[test]
fn a_parameter_of_the_machine_is_not_written() {
    // The present values, so that the test is harmless even where it fails.
    for (name, network) in [("vm.swappiness", true), ("net.ipv4.ip_default_ttl", false)] {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        let value = std::fs::read_to_string(file).expect("readable");
        let sandbox = corral_shim::sandbox::Sandbox {
            network,
            ipc: true,
            uts: true,
            sysctls: [(name.to_owned(), value.trim().to_owned())].into(),
            ..Default::default()
        };
        let said = pod::refused(&sandbox);
        let expected = format!("{name:?} is not a kernel parameter of this pod's own namespaces");
        assert!(said.contains(&expected), "{said}");
    }
}
