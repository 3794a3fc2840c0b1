//! The shop of the example: one small program, three roles.
//!
//!   shop catalog          serves the goods as plain text
//!   shop web              serves the page; asks the catalog for the goods by its DNS name
//!   shop report           fetches the page once and prints a report
//!
//! It uses the standard library alone and is linked statically, so that its image holds nothing else. Names are looked
//! up by hand, because a static program cannot load the C library's resolver.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

const PORT: u16 = 8080;
const TIMEOUT: Duration = Duration::from_secs(3);

fn main() {
    let role = std::env::args().nth(1).unwrap_or_default();
    match role.as_str() {
        "catalog" => serve(|path| match path {
            "/healthz" => Some("ok\n".to_owned()),
            "/goods" => Some("hay\noats\nhorseshoes\n".to_owned()),
            _ => None,
        }),
        "web" => serve(|path| match path {
            "/healthz" => Some("ok\n".to_owned()),
            "/" => Some(page()),
            _ => None,
        }),
        "report" => match fetch("web", "/") {
            Ok(page) => println!("report: the page has {} lines and {} bytes", page.lines().count(), page.len()),
            Err(error) => fail(&format!("report: {error}")),
        },
        _ => fail("usage: shop catalog|web|report"),
    }
}

fn fail(why: &str) -> ! {
    eprintln!("{why}");
    std::process::exit(1)
}

/// Answers GET requests until it is told to stop.
fn serve(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).unwrap_or_else(|e| fail(&format!("cannot listen: {e}")));
    println!("listening on {PORT}");
    let answer = std::sync::Arc::new(answer);
    for stream in listener.incoming().flatten() {
        let answer = answer.clone();
        std::thread::spawn(move || {
            // A client that goes away early is no failure of the shop.
            let _ = reply(stream, &*answer);
        });
    }
}

fn reply(mut stream: TcpStream, answer: &dyn Fn(&str) -> Option<String>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut reader = BufReader::new(stream.try_clone()?).take(16 * 1024);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let path = first.split_whitespace().nth(1).unwrap_or("/").to_owned();
    let (code, body) = match answer(&path) {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", "not found\n".to_owned()),
    };
    write!(stream, "HTTP/1.1 {code}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn page() -> String {
    let title = std::fs::read_to_string("/config/title").unwrap_or_else(|_| "A shop without a name".to_owned());
    let keeper = std::env::var("SHOP_KEEPER").unwrap_or_else(|_| "nobody".to_owned());
    let version = std::env::var("SHOP_VERSION").unwrap_or_else(|_| "1".to_owned());
    let pod = std::env::var("HOSTNAME").unwrap_or_default();
    let goods = match fetch("catalog", "/goods") {
        Ok(goods) => goods.lines().map(|g| format!("  - {g}\n")).collect(),
        Err(error) => format!("  (the catalog does not answer: {error})\n"),
    };
    format!("{}\nversion {version}, served by {pod}, kept by {keeper}\n{goods}", title.trim())
}

fn fetch(host: &str, path: &str) -> Result<String, String> {
    let address = lookup(host)?;
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, PORT), TIMEOUT).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(|e| e.to_string())?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").map_err(|e| e.to_string())?;
    let mut text = String::new();
    stream.take(1 << 20).read_to_string(&mut text).map_err(|e| e.to_string())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no answer")?;
    if head.starts_with("HTTP/1.1 200") { Ok(body.to_owned()) } else { Err(head.lines().next().unwrap_or("").to_owned()) }
}

/// Looks a name up as the pod's /etc/resolv.conf says.
fn lookup(name: &str) -> Result<IpAddr, String> {
    let conf = std::fs::read_to_string("/etc/resolv.conf").map_err(|e| e.to_string())?;
    let words = |key: &'static str| {
        conf.lines().filter_map(move |line| line.strip_prefix(key)).flat_map(str::split_whitespace).map(str::to_owned)
    };
    let domains: Vec<String> = words("search").chain(std::iter::once(String::new())).collect();
    for server in words("nameserver").filter_map(|s| s.parse::<IpAddr>().ok()) {
        for domain in &domains {
            let full = if domain.is_empty() { name.to_owned() } else { format!("{name}.{domain}") };
            if let Some(address) = ask(server, &full) {
                return Ok(IpAddr::V4(address));
            }
        }
    }
    Err(format!("no such name: {name}"))
}

/// One DNS question for an IPv4 address.
fn ask(server: IpAddr, name: &str) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.set_read_timeout(Some(TIMEOUT)).ok()?;
    let mut question = vec![0x43, 0x21, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|l| !l.is_empty()) {
        question.push(u8::try_from(label.len()).ok()?);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    socket.send_to(&question, (server, 53)).ok()?;
    let mut answer = [0; 1500];
    let n = socket.recv(&mut answer).ok()?;
    let answer = &answer[..n];
    if answer.get(..2)? != [0x43, 0x21] || answer[3] & 15 != 0 {
        return None;
    }
    let n_answers = u16::from_be_bytes([answer[6], answer[7]]);
    let mut at = question.len();
    for _ in 0..n_answers {
        // Names in answers are pointers (two bytes) or whole labels.
        while *answer.get(at)? != 0 && answer[at] & 0xc0 != 0xc0 {
            at += usize::from(answer[at]) + 1;
        }
        at += if answer[at] & 0xc0 == 0xc0 { 2 } else { 1 };
        let kind = u16::from_be_bytes([*answer.get(at)?, *answer.get(at + 1)?]);
        let length = usize::from(u16::from_be_bytes([*answer.get(at + 8)?, *answer.get(at + 9)?]));
        let data = answer.get(at + 10..at + 10 + length)?;
        if kind == 1 && length == 4 {
            return Some(Ipv4Addr::new(data[0], data[1], data[2], data[3]));
        }
        at += 10 + length;
    }
    None
}
