//! Cost of the codecs: encoding and decoding of frames, UTF-8 checks, event streams, heads of requests. `cargo bench
//! --bench codec`. tungstenite and fastwebsockets run the same work for comparison.

mod common;

use std::future::Future;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use common::masked;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanwire::internals::http::{HttpLimits, parse_request};
use fanwire::internals::sse::{SseParser, encode_event};
use fanwire::internals::ws::{Decoder, OpCode, WsLimits, WsMessage, encode};
use fastwebsockets::{Frame, Payload};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::Role;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode as Code};

const SIZES: [usize; 5] = [16, 128, 1024, 8192, 65_536];

/// A socket with endless input: the same frames repeat. Writes are discarded.
struct Source {
    bytes: Vec<u8>,
    at: usize,
}

impl Source {
    /// Creates a source with about 256 KiB of this frame.
    fn new(frame: &[u8]) -> Self {
        Self { bytes: frame.repeat((256 << 10) / frame.len() + 1), at: 0 }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(self.bytes.len() - self.at);
        buffer[..len].copy_from_slice(&self.bytes[self.at..self.at + len]);
        self.at = (self.at + len) % self.bytes.len();
        Ok(len)
    }
}

impl Write for Source {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Source {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let len = self.read(out.initialize_unfilled())?;
        out.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Source {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Fanwire's decoder as a loop drives it: one buffer for all connections, decoded in place.
struct Ours {
    source: Source,
    buffer: Vec<u8>,
    unread: std::ops::Range<usize>,
    decoder: Decoder,
}

impl Ours {
    fn message(&mut self) -> usize {
        let limits = WsLimits { max_message_bytes: 1 << 20, max_frame_bytes: 1 << 20 };
        loop {
            if self.unread.is_empty() {
                self.unread = 0..self.source.read(&mut self.buffer).expect("it has bytes");
            }
            let (used, message) =
                self.decoder.decode(&mut self.buffer[self.unread.clone()], &limits).expect("valid");
            self.unread.start += used;
            match message {
                Some(WsMessage::Text(text)) => return text.len(),
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        }
    }
}

/// A future that is always ready.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for len in SIZES {
        let payload = vec![b'x'; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::new("fanwire", len), &payload, |bencher, payload| {
            let mut out = Vec::with_capacity(len + 16);
            bencher.iter(|| {
                out.clear();
                encode(&mut out, OpCode::Text, black_box(payload));
                black_box(out.len())
            });
        });
        group.bench_with_input(BenchmarkId::new("tungstenite", len), &payload, |bencher, payload| {
            let mut out = Vec::with_capacity(len + 16);
            bencher.iter(|| {
                out.clear();
                let header =
                    FrameHeader { is_final: true, opcode: Code::Data(Data::Text), ..FrameHeader::default() };
                header.format(payload.len() as u64, &mut out).expect("room");
                out.extend_from_slice(black_box(payload));
                black_box(out.len())
            });
        });
        group.bench_with_input(BenchmarkId::new("fastwebsockets", len), &payload, |bencher, payload| {
            let mut out = Vec::with_capacity(len + 16);
            bencher.iter(|| {
                let mut frame = Frame::text(Payload::Borrowed(black_box(payload)));
                black_box(frame.write(&mut out).len())
            });
        });
    }
    group.finish();
}

/// Text messages from a socket: header, mask, UTF-8, and the implementation's copies.
fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for len in SIZES {
        let source = || Source::new(&masked(OpCode::Text, len));
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("fanwire", len), |bencher| {
            let buffer = vec![0; 64 << 10];
            let mut ours = Ours { source: source(), buffer, unread: 0..0, decoder: Decoder::default() };
            bencher.iter(|| assert_eq!(ours.message(), len));
        });
        group.bench_function(BenchmarkId::new("tungstenite", len), |bencher| {
            let mut socket = tungstenite::WebSocket::from_raw_socket(source(), Role::Server, None);
            bencher.iter(|| assert_eq!(socket.read().expect("valid").len(), len));
        });
        group.bench_function(BenchmarkId::new("fastwebsockets", len), |bencher| {
            let mut socket =
                fastwebsockets::WebSocket::after_handshake(source(), fastwebsockets::Role::Server);
            bencher.iter(|| assert_eq!(now(socket.read_frame()).expect("valid").payload.len(), len));
        });
    }
    group.finish();
}

fn streams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sse");
    let data =
        format!("{{\"event_type\":\"task.progress\",\"payload\":{{\"text\":\"{}\"}}}}", "x".repeat(300));
    let mut block = Vec::new();
    encode_event(&mut block, Some("task.progress"), &data, Some("abc-123"));
    group.throughput(Throughput::Bytes(block.len() as u64));
    group.bench_function("encode", |bencher| {
        let mut out = Vec::with_capacity(1024);
        bencher.iter(|| {
            out.clear();
            encode_event(&mut out, Some("task.progress"), black_box(&data), Some("abc-123"));
            black_box(out.len())
        });
    });
    group.bench_function("parse", |bencher| {
        let mut parser = SseParser::new(1 << 20);
        bencher.iter(|| parser.feed(&mut black_box(block.as_slice())).expect("valid").expect("an event"));
    });
    group.finish();
}

fn requests(criterion: &mut Criterion) {
    let head = b"POST /publish HTTP/1.1\r\nHost: 127.0.0.1:8765\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n\
                 Content-Type: application/json\r\nContent-Length: 120\r\n\r\n";
    let mut group = criterion.benchmark_group("http");
    group.throughput(Throughput::Bytes(head.len() as u64));
    group.bench_function("parse a head", |bencher| {
        let limits = HttpLimits::default();
        bencher.iter(|| parse_request(black_box(head), &limits).expect("valid").expect("whole").1);
    });
    group.finish();
}

criterion_group!(benches, encoding, decoding, streams, requests);
criterion_main!(benches);
