//! Checks an exported audit log without a server.
//!
//! Reads what `GET /v1/orgs/{org_id}/audit-events` answers (pages or JSON Lines of events, one after another) from files
//! or standard input.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use nitejar_audit::domain::chain::{Event, Head};

/// Checks an exported audit log: numbers without holes, every link, every hash.
#[derive(Parser)]
#[command(name = "nitejar-audit-verify", version)]
struct Args {
    /// Files with pages (`{"events": […]}`) or events, as JSON or JSON Lines. Standard input when there are none.
    files: Vec<PathBuf>,
    /// A head hash kept earlier: it must be the hash of one of these events.
    #[arg(long)]
    contains: Option<String>,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Piece {
    Page { events: Vec<Event> },
    Event(Box<Event>),
}

fn main() -> ExitCode {
    match verify(&Args::parse()) {
        Ok(line) => {
            let _ = writeln!(std::io::stdout(), "{line}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "broken: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn verify(args: &Args) -> Result<String, String> {
    let mut events = Vec::new();
    if args.files.is_empty() {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|e| format!("standard input: {e}"))?;
        parse("standard input", &text, &mut events)?;
    }
    for file in &args.files {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        parse(&file.display().to_string(), &text, &mut events)?;
    }
    events.sort_by_key(|e| e.sequence);
    // Pages may overlap; the same event twice is one event, another one with the same number is not.
    events.dedup();
    let mut head = Head::START;
    for event in &events {
        if event.org_id != events[0].org_id {
            return Err(format!("event {} is of another organization", event.sequence));
        }
        head.check(event).map_err(|b| b.to_string())?;
    }
    if let Some(kept) = &args.contains
        && !events.iter().any(|e| e.hash.eq_ignore_ascii_case(kept))
    {
        return Err(format!("no event has the kept hash {kept}: the log was cut or rewritten"));
    }
    Ok(format!("ok: {} events, head {}", head.sequence, hex::encode(head.hash)))
}

fn parse(name: &str, text: &str, events: &mut Vec<Event>) -> Result<(), String> {
    for piece in serde_json::Deserializer::from_str(text).into_iter::<Piece>() {
        match piece.map_err(|e| format!("{name}: not an audit export: {e}"))? {
            Piece::Page { events: page } => events.extend(page),
            Piece::Event(event) => events.push(*event),
        }
    }
    Ok(())
}
