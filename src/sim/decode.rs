//! Client-side decoding of a server's bytes: response heads, frames, and blocks of an event stream. It follows the
//! standards, without the server's codecs.
//!
//! Invariant: bytes that a server may not send cause a panic.

/// Received bytes, and the offset of the first of them in the whole stream.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) bytes: Vec<u8>,
    used: usize,
    at: u64,
}

/// Head of a response.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) text: String,
}

/// Block of an event stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) event: String,
    pub(super) data: String,
    pub(super) id: Option<String>,
    pub(super) retry: Option<u64>,
    pub(super) comment: Option<String>,
}

impl Head {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.text.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Inbox {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    /// Takes `bytes` bytes, and returns their offset.
    fn skip(&mut self, bytes: usize) -> u64 {
        let at = self.at;
        self.used += bytes;
        self.at += bytes as u64;
        if self.used > 1 << 16 || self.used == self.bytes.len() {
            self.bytes.drain(..self.used);
            self.used = 0;
        }
        at
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// Returns a response head, and the offset of its first byte.
    pub(super) fn head(&mut self) -> Option<(Head, u64)> {
        let end = self.rest().windows(4).position(|four| four == b"\r\n\r\n")?;
        let text = std::str::from_utf8(&self.rest()[..end]).expect("a head is text").to_owned();
        let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest[..3].parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {text}"));
        let at = self.skip(end + 4);
        Some((Head { status, text }, at))
    }

    pub(super) fn body(&mut self, len: usize) -> Option<Vec<u8>> {
        let body = self.rest().get(..len)?.to_vec();
        self.skip(len);
        Some(body)
    }

    /// Returns a frame: its opcode, its payload, and the offset of its first byte.
    pub(super) fn frame(&mut self) -> Option<(u8, Vec<u8>, u64)> {
        let rest = self.rest();
        let (first, second) = (*rest.first()?, *rest.get(1)?);
        assert_eq!(first & 0xf0, 0x80, "fragmented, or with a reserved bit: {first:x}");
        assert_eq!(second & 0x80, 0, "a server's frame is not masked");
        let (len, header) = match second {
            126 => {
                let len = u16::from_be_bytes(rest.get(2..4)?.try_into().expect("two"));
                assert!(len > 125, "a length of {len} in two bytes");
                (usize::from(len), 4)
            }
            127 => {
                let len = u64::from_be_bytes(rest.get(2..10)?.try_into().expect("eight"));
                assert!(len > 0xffff, "a length of {len} in eight bytes");
                (len as usize, 10)
            }
            short => (usize::from(short), 2),
        };
        let op = first & 0xf;
        assert!(matches!(op, 1 | 2 | 8 | 9 | 10), "opcode {op}");
        assert!(op < 8 || len < 126, "a control frame of {len} bytes");
        let payload = rest.get(header..header + len)?.to_vec();
        let at = self.skip(header + len);
        Some((op, payload, at))
    }

    /// Returns a block of an event stream. A block of comments only has no fields.
    pub(super) fn block(&mut self) -> Option<(Block, u64)> {
        let end = self.rest().windows(2).position(|two| two == b"\n\n")?;
        let text = std::str::from_utf8(&self.rest()[..end]).expect("an event stream is UTF-8");
        let mut block = Block::default();
        let mut data: Vec<&str> = Vec::new();
        for line in text.split('\n') {
            assert!(!line.contains('\r'), "{line:?}");
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut block.event),
                "data" => data.push(value),
                "id" => block.id = Some(value.to_owned()),
                "retry" => block.retry = Some(value.parse().expect("a number")),
                "" if !line.is_empty() => block.comment = Some(value.to_owned()),
                "" => {}
                other => panic!("unknown field of an event stream: {other}"),
            }
        }
        block.data = data.join("\n");
        let at = self.skip(end + 2);
        Some((block, at))
    }
}

/// Returns a client's frame.
pub(super) fn masked(op: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut out = vec![0x80 | op];
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            out.push(0xfe);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0xff);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}
