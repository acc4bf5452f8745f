//! A network that fails as told, between a client and a server on this machine.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;

/// What happens to each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is cut once so many bytes have come from the server.
    CutAfter(u64),
    /// Nothing comes any more once so many bytes have come.
    StallAfter(u64),
}

#[derive(Debug)]
struct State {
    fault: Fault,
    /// What clients have said.
    requests: Vec<u8>,
    /// How many bytes have come from the server.
    answered: u64,
}

/// Passes bytes on to a server; lives as long as the process.
pub struct Proxy {
    pub port: u16,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// In front of a port of this machine.
    pub fn start(server: u16) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(State { fault: Fault::None, requests: Vec::new(), answered: 0 }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || pass(client, server, &shared));
            }
        });
        Ok(Proxy { port, state })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What happens to connections from now on; what was said before is forgotten.
    pub fn set(&self, fault: Fault) {
        self.with(|state| *state = State { fault, requests: Vec::new(), answered: 0 });
    }

    /// The headers with this name that clients have sent.
    pub fn headers(&self, name: &str) -> Vec<String> {
        let text = self.with(|state| String::from_utf8_lossy(&state.requests).into_owned());
        let header = |line: &str| line.to_lowercase().strip_prefix(&format!("{name}: ")).map(str::to_owned);
        text.lines().filter_map(header).collect()
    }

    /// How many bytes have come from the server.
    pub fn answered(&self) -> u64 {
        self.with(|state| state.answered)
    }
}

fn pass(client: TcpStream, server: u16, state: &Arc<Mutex<State>>) -> Option<()> {
    let server = TcpStream::connect(("127.0.0.1", server)).ok()?;
    let (mut from_client, mut to_server) = (client.try_clone().ok()?, server.try_clone().ok()?);
    let shared = state.clone();
    std::thread::spawn(move || -> Option<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            let count = from_client.read(&mut buffer).ok().filter(|count| *count > 0);
            let Some(count) = count else { return to_server.shutdown(Shutdown::Both).ok() };
            shared.lock().ok()?.requests.extend_from_slice(&buffer[..count]);
            to_server.write_all(&buffer[..count]).ok()?;
        }
    });
    answers(server, client, state)
}

/// Passes on what comes from the server, as far as the fault lets it.
fn answers(mut server: TcpStream, mut client: TcpStream, state: &Arc<Mutex<State>>) -> Option<()> {
    let mut buffer = [0; 16 << 10];
    let mut total = 0;
    loop {
        let count = server.read(&mut buffer).ok().filter(|count| *count > 0);
        let Some(count) = count else { return client.shutdown(Shutdown::Both).ok() };
        let fault = {
            let mut state = state.lock().ok()?;
            state.answered += count as u64;
            state.fault
        };
        client.write_all(&buffer[..count]).ok()?;
        total += count as u64;
        match fault {
            Fault::CutAfter(limit) if total >= limit => {
                server.shutdown(Shutdown::Both).ok()?;
                return client.shutdown(Shutdown::Both).ok();
            }
            Fault::StallAfter(limit) if total >= limit => std::thread::sleep(Duration::from_secs(3600)),
            _ => {}
        }
    }
}
