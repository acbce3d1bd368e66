//! A name server that tests talk to: PyPI dnslib, which shares no code with our resolver.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nitejar_dev::test_stack::TestStack;

use crate::schemathesis::python_tool;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../testkit/python/dns.py");

pub(crate) struct Dns {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Dns {
    /// Where the stack asks; none when the Python tools are not installed.
    pub(crate) fn start(stack: &TestStack) -> Option<Self> {
        let python = python_tool("python")?;
        let port = stack.places.dns.unwrap().port().to_string();
        let mut command = Command::new(python);
        command.args([PROGRAM, &port]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        // Resolvers ask from ports that they draw, for a moment each: it may be this one.
        for _ in 0..20 {
            let mut child = command.spawn().unwrap();
            let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
            let mut dns = Self { child, stdin, stdout };
            if dns.read().starts_with("ok") {
                return Some(dns);
            }
            std::thread::sleep(std::time::Duration::from_millis(250));
        }
        panic!("the name server does not start at port {port}");
    }

    fn read(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    fn hear(&mut self) -> String {
        self.read().trim().strip_prefix("ok").expect("the name server runs").trim().to_owned()
    }

    fn tell(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").unwrap();
        self.hear()
    }

    /// One more TXT record.
    pub(crate) fn add(&mut self, name: &str, text: &str) {
        self.tell(&format!("add {name} {text}"));
    }

    /// No records any more.
    pub(crate) fn clear(&mut self) {
        self.tell("clear");
    }

    /// `none`, `servfail`, `refused`, `silence` or `truncate`.
    pub(crate) fn fault(&mut self, fault: &str) {
        self.tell(&format!("fault {fault}"));
    }

    /// How many questions came.
    pub(crate) fn asked(&mut self) -> u64 {
        self.tell("asked").parse().unwrap()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
