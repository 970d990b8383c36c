//! What the codecs cost: frames out and in, text checked, event streams, heads of requests.
//! `cargo bench --bench codec`; tungstenite beside ours where both do the same.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanwire::internals::http::{HttpLimits, parse_request};
use fanwire::internals::sse::{SseParser, encode_event};
use fanwire::internals::ws::{Decoder, OpCode, WsLimits, encode, header, unmask};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode as Code};

const SIZES: [usize; 4] = [16, 128, 1024, 65_536];
const MASK: [u8; 4] = [1, 2, 3, 4];

fn masked(len: usize) -> Vec<u8> {
    let mut bytes = header(OpCode::Text, len).to_vec();
    bytes[1] |= 0x80;
    bytes.extend_from_slice(&MASK);
    let mut payload = vec![b'x'; len];
    unmask(&mut payload, MASK, 0);
    bytes.extend_from_slice(&payload);
    bytes
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    for len in SIZES {
        let payload = vec![b'x'; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::new("encode", len), &payload, |bencher, payload| {
            let mut out = Vec::with_capacity(len + 16);
            bencher.iter(|| {
                out.clear();
                encode(&mut out, OpCode::Text, black_box(payload));
                black_box(out.len())
            });
        });
        group.bench_with_input(BenchmarkId::new("encode, tungstenite", len), &payload, |bencher, payload| {
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
        let bytes = masked(len);
        let limits = WsLimits { max_message_bytes: 1 << 20, max_frame_bytes: 1 << 20 };
        group.bench_with_input(BenchmarkId::new("decode", len), &bytes, |bencher, bytes| {
            bencher.iter_batched_ref(
                || (Decoder::default(), bytes.clone()),
                |(decoder, bytes)| {
                    let (used, message) = decoder.decode(bytes, &limits).expect("valid");
                    assert!(message.is_some());
                    used
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_with_input(BenchmarkId::new("decode, tungstenite", len), &bytes, |bencher, bytes| {
            bencher.iter_batched(
                || std::io::Cursor::new(bytes.clone()),
                |mut cursor| {
                    let (header, len) = FrameHeader::parse(&mut cursor).expect("valid").expect("whole");
                    let at = cursor.position() as usize;
                    let mut payload = cursor.into_inner().split_off(at);
                    payload.truncate(len as usize);
                    let mask = header.mask.expect("masked");
                    for (byte, index) in payload.iter_mut().zip(0..) {
                        *byte ^= mask[index & 3_usize];
                    }
                    String::from_utf8(payload).expect("text")
                },
                BatchSize::SmallInput,
            );
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

criterion_group!(benches, frames, streams, requests);
criterion_main!(benches);
