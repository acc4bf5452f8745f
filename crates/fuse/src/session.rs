//! A mounted filesystem and the life of its server: handshake, requests, end.

use crate::device::{Device, Got};
use crate::dispatch::{Answer, Call, Failure, dispatch};
use crate::files::Files;
use crate::flight::{Flight, Flights, SLOW_TICKS, Slot};
use crate::init::{self, Changes, Feature, InForce, negotiate, put_init_out, put_offer_again};
use crate::mount::{MountError, MountSpec, mount};
use crate::notify::{notifier, resend};
use crate::pool::{Polling, Pool, Turn, Work};
use crate::readers::Readers;
use crate::stats::Stats;
use crate::trace::Trace;
use crate::waiting::Waiting;
use crate::wire::flags::UNIQUE_RESEND;
use crate::wire::input::{Header, Malformed, Request, SetXattrForm, decode};
use crate::wire::op::Op;
use crate::wire::output::Reply;
use acetate_layer::UpperLayer;
use acetate_overlay::{Changed, Ledger, NodeId, OpError, Overlay, TakenOver};
use acetate_sys::Errno;
use parking_lot::Mutex;
use std::cell::Cell;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// What a request may have besides the data of a write, in bytes.
const REQUEST_EXTRA: usize = 4096;
/// How often damage is told of.
const MOST_TOLD: u32 = 1000;
/// The shortest buffer that the kernel accepts (`FUSE_MIN_READ_BUFFER`), in bytes.
const MIN_BUFFER: usize = 8192;
/// The room for a reply that is no data: a name list or value of extended attributes (`XATTR_SIZE_MAX`).
const MIN_REPLY: usize = 64 * 1024;

/// The server's use of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// The most threads that handle requests.
    pub max_threads: usize,
    /// The most bytes of data in one request.
    pub max_write: u32,
    /// The most requests that no program waits for (readahead, release) at a time.
    pub max_background: u16,
    /// Let the kernel read and write files of the upper layer itself, where it offers that and the mounter may.
    pub passthrough: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning { max_threads: 16, max_write: 1024 * 1024, max_background: 64, passthrough: true }
    }
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The filesystem was unmounted.
    Unmounted,
    /// The connection was aborted; the mount may still be there, and dead.
    Aborted,
}

/// Why serving cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The kernel speaks an older protocol than this server understands.
    #[error("the kernel's FUSE protocol {major}.{minor} is too old")]
    TooOld {
        /// Its major version.
        major: u32,
        /// Its minor version.
        minor: u32,
    },
    /// The first request is not the handshake: somebody else has served this mount before.
    #[error("the FUSE device does not begin with a handshake")]
    NoHandshake,
    /// Unmounted before the handshake.
    #[error("unmounted before it was served")]
    Gone,
    /// The device fails.
    #[error("the FUSE device fails")]
    Device(#[source] Errno),
    /// No thread can be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The trace cannot be written.
    #[error("cannot open the file that ACETATE_TRACE names")]
    Trace(#[source] io::Error),
}

/// For so long nobody is asked whether the program that waits was killed: to look takes longer than most operations.
const UNASKED: Duration = Duration::from_millis(2);

thread_local! {
    /// The thread that waits for the request that this one carries out, and since when, if one does.
    static WAITING: Cell<Option<(u32, Instant)>> = const { Cell::new(None) };
}

/// What all threads and the notifier share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) device: Device,
    /// There once serving has begun.
    pub(crate) pool: OnceLock<Pool>,
}

/// A mounted FUSE filesystem whose requests wait to be served. Whoever looks at the mount before that waits.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
    tuning: Tuning,
    flights: Arc<Flights>,
    stats: Arc<Stats>,
    polling: Polling,
    waiting: Arc<Waiting>,
    /// What an earlier server has left.
    taken: Option<TakenOver>,
}

impl Connection {
    /// Mounts a FUSE filesystem at `target`, by mount(2) or else with the help of fusermount3.
    ///
    /// # Errors
    /// [`MountError`] says what the user can do.
    pub fn mount(target: &Path, spec: &MountSpec) -> Result<Connection, MountError> {
        mount(target, spec).map(Connection::from_device)
    }

    /// Takes over the device of a filesystem that somebody else has mounted and not yet served.
    pub fn from_device(device: OwnedFd) -> Connection {
        let shared = Shared { device: Device::new(device), pool: OnceLock::new() };
        Connection {
            shared: Arc::new(shared),
            tuning: Tuning::default(),
            flights: Arc::default(),
            stats: Arc::default(),
            polling: Polling::Never,
            waiting: Arc::default(),
            taken: None,
        }
    }

    /// Goes on where an earlier server of this device has ended, with an overlay that has taken its place
    /// ([`Overlay::taking_over`]).
    #[must_use]
    pub fn taking_over(self, taken: TakenOver) -> Connection {
        Connection { taken: Some(taken), ..self }
    }

    /// The device.
    pub fn device(&self) -> BorrowedFd<'_> {
        self.shared.device.as_fd()
    }

    /// Sets the use of resources.
    #[must_use]
    pub fn with_tuning(self, tuning: Tuning) -> Connection {
        Connection { tuning, ..self }
    }

    /// Sets whether processors may be kept busy in waiting for requests.
    #[must_use]
    pub fn with_polling(self, polling: Polling) -> Connection {
        Connection { polling, ..self }
    }

    /// How requests are waited for, from now until the connection ends.
    pub fn waiting(&self) -> Arc<Waiting> {
        Arc::clone(&self.waiting)
    }

    /// A function that tells the kernel what has changed of a node other than by its own request: the
    /// `changed` of [`Overlay::new`]. It works from within operations and does nothing once all is over.
    pub fn notifier(&self) -> impl Fn(NodeId, Changed) + Send + Sync + 'static {
        notifier(Arc::clone(&self.shared))
    }

    /// The requests in flight, from now until the connection ends.
    pub fn flights(&self) -> Arc<Flights> {
        Arc::clone(&self.flights)
    }

    /// What was counted of the requests, from now until the connection ends.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// A function that says whether the program whose request the calling thread carries out has been killed, and only
    /// waits for the answer: for [`Overlay::giving_up_when`].
    ///
    /// The kernel would tell of signals by requests of their own, but of the first one only, which need not be the one
    /// that kills.
    pub fn given_up(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        || {
            let waiting = WAITING.get().filter(|(_, since)| since.elapsed() > UNASKED);
            waiting.is_some_and(|(thread, _)| acetate_sys::process::is_killed(thread))
        }
    }

    /// Serves until the filesystem is unmounted; `ready` is called once the mount can be used, before any thread is
    /// started. Blocks. Unmounting from another thread or process ends it.
    ///
    /// # Errors
    /// [`ServeError`]. The mount is still there then, and dead.
    pub fn serve<L: UpperLayer>(
        self,
        overlay: &Overlay<L>,
        ready: impl FnOnce(&InForce),
    ) -> Result<Ended, ServeError> {
        let trace = Trace::from_environment().map_err(ServeError::Trace)?;
        let in_force = self.begin(overlay)?;
        ready(&in_force);
        let pool =
            self.shared.pool.get_or_init(|| Pool::new(self.tuning.max_threads, self.polling, self.waiting));
        let device = &self.shared.device;
        let passthrough = self.tuning.passthrough && in_force.has(Feature::Passthrough);
        if let Some(ledger) = overlay.ledger() {
            // What is written comes as requests then, and they may be large.
            let written = if passthrough { MIN_BUFFER } else { request_length(in_force.max_write) };
            ledger.note_request(written);
        }
        let files = Files::new(device, passthrough);
        let can_do_without = in_force.has(Feature::NoOpenSupport) && overlay.opens_mean_nothing();
        let files = if can_do_without { files.without_opens() } else { files };
        let files = files.with(self.taken.as_ref().map_or(&[], |taken| &taken.handles));
        let flights = &*self.flights;
        let server = Server {
            overlay,
            files,
            readers: Readers::new(),
            device,
            pool,
            flights,
            stats: &self.stats,
            in_force,
            trace,
            told: AtomicU32::new(0),
            end: Mutex::new(None),
        };
        std::thread::scope(|scope| {
            let watch = || flights.watch(|flight| tell_slow(overlay, flight));
            // Without it nobody learns of slow requests, which is all.
            let _watched =
                std::thread::Builder::new().name("acetate-watch".into()).spawn_scoped(scope, watch);
            if self.taken.is_some() {
                // Until then the kernel remembers what the last server may not have got round to correct.
                let _told = std::thread::Builder::new()
                    .name("acetate-tell".into())
                    .spawn_scoped(scope, || overlay.tell_all());
            }
            let result = pool.run(&server);
            flights.stop();
            result
        })
        .map_err(ServeError::Thread)?;
        match server.end.into_inner() {
            Some(Got::Aborted) => Ok(Ended::Aborted),
            Some(Got::Failed(errno)) => Err(ServeError::Device(errno)),
            _ => Ok(Ended::Unmounted),
        }
    }

    /// Shakes hands, or asks for what an earlier server has not answered.
    fn begin<L: UpperLayer>(&self, overlay: &Overlay<L>) -> Result<InForce, ServeError> {
        if self.taken.is_some() {
            let words = overlay.ledger().map(Ledger::transport).unwrap_or_default();
            let in_force = InForce::from_words(words).ok_or(ServeError::NoHandshake)?;
            return match self.shared.device.write(&resend()) {
                // Unmounted meanwhile, which reading will say.
                Ok(()) | Err(Errno::NODEV | Errno::NOTCONN) => Ok(in_force),
                Err(errno) => Err(ServeError::Device(errno)),
            };
        }
        let changes = if overlay.config().lower_changes { Changes::Unknown } else { Changes::Known };
        let in_force = self.shake_hands(changes)?;
        if let Some(ledger) = overlay.ledger() {
            ledger.keep_transport(in_force.to_words());
            if !in_force.has(Feature::Resend) {
                ledger.give_up("the kernel cannot send requests again (before Linux 6.9)");
            }
        }
        Ok(in_force)
    }

    /// Answers the kernel's offer.
    fn shake_hands(&self, changes: Changes) -> Result<InForce, ServeError> {
        let mut request = vec![0; request_length(self.tuning.max_write)];
        let mut reply = Reply::with_room(128);
        loop {
            let length = match self.shared.device.read(&mut request) {
                Got::Request(length) => length,
                Got::Nothing => continue,
                Got::Unmounted | Got::Aborted => return Err(ServeError::Gone),
                Got::Failed(errno) => return Err(ServeError::Device(errno)),
            };
            let (unique, offer) = offer(&request[..length]).map_err(|_| ServeError::NoHandshake)?;
            reply.clear();
            let answer = negotiate(&offer, self.tuning.max_write, self.tuning.max_background, changes);
            match answer {
                init::Answer::Agreed(in_force) => put_init_out(&mut reply, &in_force),
                init::Answer::OfferAgain => put_offer_again(&mut reply),
                init::Answer::TooOld => {
                    let (major, minor) = (offer.major, offer.minor);
                    return Err(ServeError::TooOld { major, minor });
                }
            }
            self.shared.device.write(reply.finish(unique, 0)).map_err(ServeError::Device)?;
            if let init::Answer::Agreed(in_force) = answer {
                return Ok(in_force);
            }
        }
    }
}

/// The length of a buffer for requests, in bytes.
fn request_length(max_write: u32) -> usize {
    (max_write as usize + REQUEST_EXTRA).max(MIN_BUFFER)
}

/// Reads the handshake.
fn offer(bytes: &[u8]) -> Result<(u64, crate::wire::input::InitIn), Failure> {
    let (header, body) = Header::split(bytes)?;
    if header.opcode != Op::Init as u32 {
        return Err(Failure::Internal);
    }
    match decode(Op::Init, body, SetXattrForm::Short)? {
        Request::Init(offer) => Ok((header.unique, offer)),
        _ => Err(Failure::Internal),
    }
}

/// Serves one mount. Shared by all threads.
struct Server<'a, L: UpperLayer> {
    overlay: &'a Overlay<L>,
    files: Files<'a>,
    readers: Readers,
    device: &'a Device,
    pool: &'a Pool,
    flights: &'a Flights,
    stats: &'a Stats,
    in_force: InForce,
    trace: Option<Trace>,
    /// How often damage was told of.
    told: AtomicU32,
    /// Why there are no more requests.
    end: Mutex<Option<Got>>,
}

/// The buffers of a thread.
struct Buffers {
    request: Vec<u8>,
    /// So much of it has memory for sure.
    present: usize,
    /// How much of it the last request takes.
    length: usize,
    reply: Reply,
    slot: Arc<Slot>,
}

impl Buffers {
    /// Makes sure that there is memory for a request of that length: where the kernel gets none, because the server is being
    /// killed, the request that was about to be read fails with `EIO` and is not sent again (`fuse_dev_do_read`,
    /// fs/fuse/dev.c). Most servers are never sent a large one, and need not have so much.
    fn make_present(&mut self, length: usize) {
        if let Some(absent) = self.request.get_mut(self.present..length) {
            absent.fill(u8::MAX);
            self.present = length;
        }
    }
}

impl<L: UpperLayer> Work for Server<'_, L> {
    type Own = Buffers;

    fn own(&self) -> Buffers {
        let max_io = self.in_force.max_write;
        Buffers {
            request: vec![0; request_length(max_io)],
            present: 0,
            length: 0,
            reply: Reply::with_room((max_io as usize).max(MIN_REPLY))
                .expiring(self.overlay.config().lower_changes),
            slot: self.flights.slot(),
        }
    }

    fn read(&self, own: &mut Buffers) -> Turn {
        let ledger = self.overlay.ledger();
        if let Some(ledger) = ledger {
            own.make_present(ledger.largest_request());
        }
        match self.device.read(&mut own.request) {
            Got::Request(length) => {
                own.length = length;
                if let Some(ledger) = ledger.filter(|_| length > own.present) {
                    ledger.note_request(length);
                }
                Turn::Request
            }
            Got::Nothing => Turn::Nothing,
            end => {
                self.end.lock().get_or_insert(end);
                Turn::End
            }
        }
    }

    fn answer(&self, own: &mut Buffers) {
        let started = Instant::now();
        let (header, body) = match Header::split(&own.request[..own.length]) {
            Ok(split) => split,
            Err(why) => return refuse(why),
        };
        own.reply.clear();
        WAITING.set(Some((header.thread, started)));
        self.flights.begin(&own.slot, header.opcode, header.node);
        // A panic is a mistake of ours; it shall not take the mount with it.
        let (unique, again) = (header.unique & !UNIQUE_RESEND, header.unique & UNIQUE_RESEND != 0);
        let result = if self.overlay.begin(unique, again) {
            catch_unwind(AssertUnwindSafe(|| self.carry_out(header, body, &mut own.reply)))
                .unwrap_or(Err(Failure::Internal))
        } else {
            eprintln!("acetate: operation {} has brought down too many servers: EIO", header.opcode);
            Err(Failure::Internal)
        };
        self.overlay.finish(result.is_ok());
        let errno = result.as_ref().err().map_or(0, |failure| failure.errno().raw_os_error());
        let mut written = 0;
        if result != Ok(Answer::Silence) {
            let reply = own.reply.finish(header.unique, errno);
            written = reply.len();
            self.send(&header, reply);
        }
        self.overlay.end();
        if let Err(Failure::Op(error)) = &result
            && error.is_damage()
        {
            self.tell_damage(&header, body, *error);
        }
        if let Some(seconds) = self.flights.end(&own.slot) {
            let errno = result.as_ref().err().map(Failure::errno);
            eprintln!(
                "acetate: the slow request on node {} has ended after {seconds} s: {errno:?}",
                header.node
            );
        }
        let took = started.elapsed();
        self.stats.note(header.opcode, errno != 0, took);
        if let Some(trace) = &self.trace {
            let result = result.map(|_| written).map_err(|failure| (failure.errno(), failure.to_string()));
            trace.note(header.opcode, header.node, result, took);
        }
    }

    fn has_pending(&self) -> bool {
        self.device.has_pending()
    }
}

impl<L: UpperLayer> Server<'_, L> {
    fn carry_out(&self, header: Header, body: &[u8], reply: &mut Reply) -> Result<Answer, Failure> {
        let call = Call::new(header, body, &self.in_force)?;
        if call.may_take_long() {
            self.pool.let_another_read();
        }
        dispatch(self.overlay, &self.files, &self.readers, &call, reply)
    }

    /// Says which object could not be used because of what is in the layers.
    fn tell_damage(&self, header: &Header, body: &[u8], error: OpError) {
        // A program that tries for ever shall not fill a log.
        if self.told.fetch_add(1, Ordering::Relaxed) >= MOST_TOLD {
            return;
        }
        let place = self.overlay.whereabouts(NodeId(header.node));
        let name = match Op::from_number(header.opcode) {
            Some(Op::Lookup) => body.split(|byte| *byte == 0).next().unwrap_or_default(),
            _ => b"",
        };
        let (name, opcode) = (name.escape_ascii(), header.opcode);
        eprintln!("acetate: {place}: {name}: operation {opcode}: {error}");
    }

    fn send(&self, header: &Header, reply: &[u8]) {
        match self.device.write(reply) {
            // Nobody waits for it: the connection is being aborted.
            Ok(()) | Err(Errno::NOENT | Errno::NODEV | Errno::NOTCONN | Errno::CONNABORTED) => {}
            Err(errno) => {
                let Header { opcode, node, .. } = header;
                eprintln!(
                    "acetate: the kernel refuses the answer to operation {opcode} on node {node}: {errno}"
                );
            }
        }
    }
}

/// Says that a request takes long.
fn tell_slow<L: UpperLayer>(overlay: &Overlay<L>, flight: &Flight) {
    let Flight { operation, node, .. } = flight;
    let place = overlay.whereabouts(*node);
    eprintln!("acetate: slow: {operation} of {place}, node {}: no answer for {SLOW_TICKS} s", node.0);
}

/// There is no telling whom to answer.
fn refuse(why: Malformed) {
    eprintln!("acetate: what the FUSE device brought is no request: {why}");
}
