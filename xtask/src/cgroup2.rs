//! Proves control groups of version 2 where the machine has version 1: a virtual machine with Debian's kernel, the
//! program, and a script of checks.
//!
//! Outside `make test`, because it needs qemu and a kernel: packages `qemu-system-x86`, `busybox-static`, `cpio`, `kmod`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::{root, run};

/// The kernel's package; it depends on the one with the newest version.
const KERNEL: &str = "linux-image-cloud-amd64";
/// Seconds that the virtual machine may run; it takes a minute or two.
const SECONDS_MAX: u32 = 600;
/// Memory of the virtual machine in MiB: twice what its root takes.
const MEMORY_MIB: u32 = 3072;
/// Programs that go into the virtual machine beside busybox.
const PROGRAMS: [&str; 2] = ["nft", "ip"];

/// Builds the program and the virtual machine, runs the checks, and tells their total.
pub fn check() -> anyhow::Result<()> {
    for (program, package) in [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("busybox", "busybox-static"),
        ("cpio", "cpio"),
        ("depmod", "kmod"),
        ("nft", "nftables"),
        ("ip", "iproute2"),
    ] {
        if find(program).is_none() {
            bail!("{program} is missing: apt-get install {package}");
        }
    }
    run(Command::new("cargo")
        .args(["build", "--release", "--locked", "--bin", "corral"])
        .current_dir(root()))?;
    let cache = root().join(".cache/cgroup2");
    std::fs::create_dir_all(&cache)?;
    let kernel = kernel(&cache)?;
    let tree = cache.join("root");
    let _ = std::fs::remove_dir_all(&tree);
    fill(&tree, &kernel)?;
    let archive = cache.join("initramfs");
    let pack = format!(
        "cd {} && find . | cpio --quiet -o -H newc > {}",
        quoted(&tree),
        quoted(&archive)
    );
    run(Command::new("sh").args(["-c", &pack]))?;
    boot(&kernel.image, &archive)
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(more);
    places.find_map(|place| Some(place.join(program)).filter(|file| file.exists()))
}

struct Kernel {
    image: PathBuf,
    modules: PathBuf,
    version: String,
}

/// Debian's kernel, downloaded once and not installed.
fn kernel(cache: &Path) -> anyhow::Result<Kernel> {
    let unpacked = cache.join("kernel");
    if !unpacked.join("boot").exists() {
        let script = format!(
            "set -e; cd {0}; rm -f *.deb; \
             package=$(apt-cache depends {KERNEL} | sed -n 's/.*Depends: *//p' | head -1); \
             apt-get -o APT::Sandbox::User=root download -qq \"$package\"; dpkg-deb -x *.deb kernel; rm -f *.deb",
            quoted(cache)
        );
        run(Command::new("sh").args(["-c", &script]))
            .context("the kernel cannot be downloaded; does apt-get update help?")?;
    }
    let modules = unpacked.join("lib/modules");
    let version = std::fs::read_dir(&modules)?
        .flatten()
        .next()
        .context("the kernel's package holds no modules")?
        .file_name()
        .to_string_lossy()
        .into_owned();
    Ok(Kernel {
        image: unpacked.join(format!("boot/vmlinuz-{version}")),
        modules: modules.join(&version),
        version,
    })
}

/// Puts the root of the virtual machine together.
fn fill(tree: &Path, kernel: &Kernel) -> anyhow::Result<()> {
    for directory in [
        "bin", "sbin", "etc", "root", "proc", "sys", "dev", "usr/sbin",
    ] {
        std::fs::create_dir_all(tree.join(directory))?;
    }
    copy(
        &find("busybox").context("busybox")?,
        &tree.join("bin/busybox"),
    )?;
    // The kernel loads modules by this name.
    std::os::unix::fs::symlink("/bin/busybox", tree.join("sbin/modprobe"))?;
    let program = tree.join("usr/sbin/corral");
    copy(&root().join("target/release/corral"), &program)?;
    run(Command::new("strip").arg(&program))?;
    libraries(&program, tree)?;
    for name in PROGRAMS {
        let source = find(name).with_context(|| name.to_owned())?;
        copy(&source, &tree.join("usr/sbin").join(name))?;
        libraries(&source, tree)?;
    }
    for name in ["init", "checks"] {
        copy(&root().join("xtask/cgroup2").join(name), &tree.join(name))?;
    }
    std::fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    std::fs::write(tree.join("etc/group"), "root:x:0:\n")?;
    std::fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    std::fs::write(tree.join("etc/resolv.conf"), "")?;
    // Networks and file systems are all that is needed of the kernel's modules.
    let target = tree.join("lib/modules").join(&kernel.version);
    for part in [
        "kernel/net",
        "kernel/fs/overlayfs",
        "kernel/drivers/net",
        "kernel/lib",
        "kernel/crypto",
        "modules.order",
        "modules.builtin",
    ] {
        let source = kernel.modules.join(part);
        let place = target.join(part);
        std::fs::create_dir_all(place.parent().context("a part")?)?;
        run(Command::new("cp").arg("-a").arg(source).arg(place))?;
    }
    run(Command::new(find("depmod").context("depmod")?)
        .arg("-b")
        .arg(tree)
        .arg(&kernel.version))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    std::fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}

/// Copies the libraries that a program is linked with to where they are.
fn libraries(program: &Path, tree: &Path) -> anyhow::Result<()> {
    let output = Command::new("ldd").arg(program).output()?;
    for word in String::from_utf8_lossy(&output.stdout).split_whitespace() {
        if let Some(inside) = word.strip_prefix('/') {
            let place = tree.join(inside);
            std::fs::create_dir_all(place.parent().context("a library")?)?;
            copy(Path::new(word), &place)?;
        }
    }
    Ok(())
}

fn boot(kernel: &Path, archive: &Path) -> anyhow::Result<()> {
    let mut machine = Command::new("timeout")
        .args([&SECONDS_MAX.to_string(), "qemu-system-x86_64", "-M", "pc"])
        // Without hardware support: inside another virtual machine it is there now and then, and does not work.
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "2"])
        .args(["-m", &MEMORY_MIB.to_string()])
        .args(["-nographic", "-no-reboot", "-nic", "none", "-kernel"])
        .arg(kernel)
        .arg("-initrd")
        .arg(archive)
        .args([
            "-append",
            "console=ttyS0 quiet panic=-1 cgroup_no_v1=all rdinit=/init",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let console = machine.stdout.take().context("the console is piped")?;
    let mut total = None;
    for line in BufReader::new(console).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        println!("{line}");
        if let Some((_, text)) = line.split_once("cgroup2: ") {
            total = Some(text.to_owned());
        }
    }
    machine.wait()?;
    let total = total.context("the virtual machine ended without a total")?;
    ensure!(total.ends_with(" 0 failed"), "cgroup2: {total}");
    Ok(())
}
