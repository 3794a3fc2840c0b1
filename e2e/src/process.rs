//! A program that runs beside a test.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process that ends with the test. It reads nothing and shows nothing but its standard error, where that goes somewhere.
pub struct Process(Child);

impl Process {
    /// Starts one.
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().expect("the program is there"))
    }

    /// Tells it to end, and answers whether it ended in order.
    pub fn terminate(mut self) -> bool {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"));
        kill(pid, Signal::SIGTERM).expect("the process is ours");
        self.0.wait().expect("the process is ours").success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
