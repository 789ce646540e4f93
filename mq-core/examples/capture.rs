//! Stands between RocketMQ clients and an Apache broker, and writes the frames they exchange to a
//! file for `tests/golden.rs`.
//!
//! It listens in place of the name server and of the broker's two ports, and rewrites the broker's
//! address in routes to its own, so that clients come back to it. The file has the frames as they
//! were before. Of each kind of exchange only the first few are kept. An entry is
//!
//! ```text
//! 'N' or 'B': peer | '>' or '<': direction | code of the request: 4 | frame with its length
//! ```
//!
//! where `>` goes to the name server or broker. Ends when its input ends.
#![expect(clippy::disallowed_methods, reason = "a tape is this program's own file")]

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::{Bytes, BytesMut};
use mq_core::protocol::{Command, Limits, RequestCode, frame_length};

const USAGE: &str = "capture NAME_SERVER BROKER LISTEN_NAME_SERVER LISTEN_BROKER FILE KEEP";
/// Clients of old reach a broker at this distance below its port.
const FAST_PORT_DISTANCE: u16 = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [name_server, broker, listen_name_server, listen_broker, file, keep] = &arguments[..]
    else {
        return Err(USAGE.into());
    };
    let tape = Arc::new(Tape {
        broker: broker.clone(),
        stand_in: listen_broker.clone(),
        keep: keep.parse()?,
        state: Mutex::new(TapeState { file: File::create(file)?, kept: HashMap::new() }),
    });
    let (broker, listen_broker) = (broker.parse()?, listen_broker.parse()?);
    stand_in(b'N', listen_name_server.parse()?, name_server.parse()?, &tape)?;
    stand_in(b'B', listen_broker, broker, &tape)?;
    stand_in(b'B', fast(listen_broker), fast(broker), &tape)?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn fast(mut address: SocketAddr) -> SocketAddr {
    address.set_port(address.port() - FAST_PORT_DISTANCE);
    address
}

struct Tape {
    broker: String,
    stand_in: String,
    keep: usize,
    state: Mutex<TapeState>,
}

struct TapeState {
    file: File,
    kept: HashMap<(u8, u8, i32, i32), usize>,
}

impl Tape {
    fn record(&self, entry: &Entry, frame: &[u8]) -> io::Result<()> {
        let Ok(mut state) = self.state.lock() else { return Ok(()) };
        let kind = (entry.peer, entry.direction, entry.request, entry.response);
        let kept = state.kept.entry(kind).or_default();
        *kept += 1;
        if *kept > self.keep {
            return Ok(());
        }
        state.file.write_all(&[entry.peer, entry.direction])?;
        state.file.write_all(&entry.request.to_be_bytes())?;
        state.file.write_all(frame)
    }
}

struct Entry {
    peer: u8,
    direction: u8,
    request: i32,
    response: i32,
}

/// Accepts connections for a peer, each with a thread for either direction.
fn stand_in(peer: u8, listen: SocketAddr, target: SocketAddr, tape: &Arc<Tape>) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    let tape = tape.clone();
    thread::spawn(move || {
        for client in listener.incoming() {
            if let Err(error) = client.and_then(|client| join(peer, client, target, &tape)) {
                eprintln!("a connection to {target}: {error}");
            }
        }
    });
    Ok(())
}

fn join(peer: u8, client: TcpStream, target: SocketAddr, tape: &Arc<Tape>) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    let asked = Arc::new(Mutex::new(HashMap::new()));
    for (from, to, direction) in
        [(client.try_clone()?, server.try_clone()?, b'>'), (server, client, b'<')]
    {
        let wire = Wire { peer, direction, asked: asked.clone(), tape: tape.clone() };
        thread::spawn(move || {
            if let Err(error) = wire.carry(&from, &to) {
                eprintln!("a connection to {target}: {error}");
            }
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    }
    Ok(())
}

/// One direction of a connection.
struct Wire {
    peer: u8,
    direction: u8,
    /// Codes of requests by the direction they went and their number.
    asked: Arc<Mutex<HashMap<(u8, i32), i32>>>,
    tape: Arc<Tape>,
}

impl Wire {
    fn carry(&self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        let mut chunk = [0; 65_536];
        loop {
            while let Some(length) = frame_length(&buffer, &Limits::DEFAULT)
                .map_err(io::Error::other)?
                .filter(|length| *length <= buffer.len())
            {
                let frame = buffer.split_to(length).freeze();
                to.write_all(&self.pass(&frame)?)?;
            }
            match from.read(&mut chunk)? {
                0 => return Ok(()),
                read => buffer.extend_from_slice(&chunk[..read]),
            }
        }
    }

    /// Notes a frame, and says what to send instead of it.
    fn pass(&self, frame: &Bytes) -> io::Result<Bytes> {
        let mut command = Command::decode(frame.slice(4..)).map_err(io::Error::other)?;
        let Some(request) = self.request_of(&command) else { return Ok(frame.clone()) };
        let response = if command.is_response() { command.code } else { -1 };
        let (peer, direction) = (self.peer, self.direction);
        self.tape.record(&Entry { peer, direction, request, response }, frame)?;
        if request != RequestCode::GetRouteinfoByTopic.code() || !command.is_response() {
            return Ok(frame.clone());
        }
        let route = String::from_utf8_lossy(&command.body);
        command.body = route.replace(&self.tape.broker, &self.tape.stand_in).into();
        let mut out = BytesMut::new();
        command.encode(&mut out);
        Ok(out.freeze())
    }

    fn request_of(&self, command: &Command) -> Option<i32> {
        let mut asked = self.asked.lock().ok()?;
        if command.is_response() {
            let asker = if self.direction == b'<' { b'>' } else { b'<' };
            return asked.remove(&(asker, command.opaque));
        }
        asked.insert((self.direction, command.opaque), command.code);
        Some(command.code)
    }
}
