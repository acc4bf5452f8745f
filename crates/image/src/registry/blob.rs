//! Reading a blob, over as many connections as it takes.

use super::error::{Context, Error};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use oci_client::client::BlobResponse;
use oci_client::manifest::OciDescriptor;
use oci_client::{Client, Reference};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How often in a row a connection may break without having brought anything, and the first pause after that.
const FAILURES_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

type Chunks = BoxStream<'static, io::Result<Vec<u8>>>;

/// A blob that is being read.
pub struct Blob {
    runtime: Arc<Runtime>,
    client: Client,
    reference: Reference,
    digest: String,
    /// What has been given to the reader, from the begin of the blob.
    offset: u64,
    chunks: Option<Chunks>,
    chunk: Vec<u8>,
    at: usize,
    failures: u32,
}

impl Blob {
    pub(super) fn open(
        runtime: Arc<Runtime>,
        client: Client,
        reference: Reference,
        digest: &str,
        from: u64,
    ) -> Result<Blob, Error> {
        let mut blob = Blob {
            runtime,
            client,
            reference,
            digest: digest.to_owned(),
            offset: from,
            chunks: None,
            chunk: Vec::new(),
            at: 0,
            failures: 0,
        };
        // What is not there, or not for us, is said at once.
        blob.chunks = Some(blob.connect()?);
        Ok(blob)
    }

    /// Asks for the rest of the blob.
    fn connect(&self) -> Result<Chunks, Error> {
        // The library checks the digest of whole answers only. Readers do so for all of them.
        let descriptor = OciDescriptor { digest: self.digest.clone(), ..OciDescriptor::default() };
        let asked = self.client.pull_blob_stream_partial(&self.reference, &descriptor, self.offset, None);
        let (stream, skip) = match self.runtime.block_on(asked).context(&self.reference)? {
            BlobResponse::Partial(stream) => (stream, 0),
            // A registry that knows no ranges sends all of it again.
            BlobResponse::Full(stream) => (stream, self.offset),
        };
        let mut left = skip;
        let rest = stream.map(move |chunk| {
            chunk.map(|bytes| {
                let drop = left.min(bytes.len() as u64);
                left -= drop;
                bytes[drop as usize..].to_vec()
            })
        });
        Ok(rest.boxed())
    }

    /// The next piece; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let chunks = match &mut self.chunks {
                Some(chunks) => chunks,
                None => match self.connect() {
                    Ok(chunks) => self.chunks.insert(chunks),
                    Err(error) => {
                        self.pause_or_fail(io::Error::other(error))?;
                        continue;
                    }
                },
            };
            match self.runtime.block_on(chunks.next()) {
                None => return Ok(None),
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => {
                    self.failures = 0;
                    return Ok(Some(chunk));
                }
                Some(Err(error)) => {
                    self.chunks = None;
                    self.pause_or_fail(error)?;
                }
            }
        }
    }

    fn pause_or_fail(&mut self, error: io::Error) -> io::Result<()> {
        self.failures += 1;
        if self.failures > FAILURES_MAX {
            return Err(error);
        }
        std::thread::sleep(PAUSE * 2_u32.pow(self.failures - 1));
        Ok(())
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.next()? {
                Some(chunk) => (self.chunk, self.at) = (chunk, 0),
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        self.offset += count as u64;
        Ok(count)
    }
}
