//! A job's output on its way: lines in, batches out, each sent until it is acknowledged.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Assignment, Line, Trouble};
use crate::mask::Mask;

/// The longest line that is sent as one.
const LINE: usize = 16 * 1024 - 64;
/// A longer line is cut before it is masked: so much is kept in memory.
const LONGEST: usize = 256 * 1024;
/// Output of one job.
const TOTAL: usize = 10 << 20;

/// Reads a stream line by line into the channel, masked.
pub async fn read(stream: &'static str, from: impl AsyncRead + Unpin, mask: Mask, to: mpsc::Sender<Line>) {
    let mut reader = BufReader::with_capacity(LONGEST, from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match read_line(&mut reader, &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).replace('\0', "\u{fffd}");
        let text = mask.apply(text.trim_end_matches(['\n', '\r']));
        for piece in pieces(&text) {
            if to.send(Line { stream: stream.to_owned(), text: piece.to_owned() }).await.is_err() {
                return;
            }
        }
    }
}

/// Up to and with the line's end, but no more than [`LONGEST`] bytes.
async fn read_line(
    reader: &mut BufReader<impl AsyncRead + Unpin>,
    line: &mut Vec<u8>,
) -> std::io::Result<usize> {
    loop {
        let buffer = reader.fill_buf().await?;
        if buffer.is_empty() {
            return Ok(line.len());
        }
        let end = buffer.iter().position(|b| *b == b'\n').map_or(buffer.len(), |at| at + 1);
        let take = end.min(LONGEST - line.len());
        line.extend_from_slice(&buffer[..take]);
        reader.consume(take);
        if line.ends_with(b"\n") || line.len() >= LONGEST {
            return Ok(line.len());
        }
    }
}

fn pieces(text: &str) -> Vec<&str> {
    let mut rest = text;
    let mut all = Vec::new();
    while rest.len() > LINE {
        let mut at = LINE;
        while !rest.is_char_boundary(at) {
            at -= 1;
        }
        let (piece, tail) = rest.split_at(at);
        all.push(piece);
        rest = tail;
    }
    all.push(rest);
    all
}

/// Sends what comes in until the channel closes; cancels `lost` when the lease is gone.
pub async fn pump(
    api: Arc<Api>,
    job: Arc<Assignment>,
    mut from: mpsc::Receiver<Line>,
    lost: CancellationToken,
) {
    let mut next = 1;
    let mut total = 0;
    let mut truncated = false;
    let mut batch = Vec::new();
    let mut open = true;
    while open {
        let began = tokio::time::Instant::now();
        let mut bytes = 0;
        while batch.len() < 500 && bytes < 256 * 1024 {
            let wait = if batch.is_empty() { Duration::from_secs(3600) } else { Duration::from_millis(150) };
            match tokio::time::timeout_at(began + wait, from.recv()).await {
                Ok(Some(line)) => {
                    total += line.text.len() + 1;
                    if total <= TOTAL {
                        bytes += line.text.len();
                        batch.push(line);
                    } else if !truncated {
                        truncated = true;
                        let text = "output is truncated here: more than 10 MiB".to_owned();
                        batch.push(Line { stream: "system".into(), text });
                    }
                }
                Ok(None) => {
                    open = false;
                    break;
                }
                Err(_) if batch.is_empty() => {}
                Err(_) => break,
            }
        }
        while !batch.is_empty() && !lost.is_cancelled() {
            match api.append(&job, next, &batch).await {
                Ok(answer) => {
                    next = answer.max(next + i64::try_from(batch.len()).unwrap_or(0));
                    batch.clear();
                }
                Err(Trouble::LeaseLost | Trouble::Unauthorized) => lost.cancel(),
                Err(Trouble::Refused(why)) => {
                    tracing::error!(job = job.job_id, why, "output was refused; it is dropped");
                    batch.clear();
                }
                Err(Trouble::Again(why)) => {
                    tracing::debug!(job = job.job_id, why, "output is sent again");
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
        }
        if lost.is_cancelled() {
            // Nobody wants it any more, but the job must not block on a full pipe until it is killed.
            while from.recv().await.is_some() {}
            return;
        }
    }
}
