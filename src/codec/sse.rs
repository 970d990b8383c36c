//! Server-sent events.

pub fn encode_event(out: &mut Vec<u8>, event: Option<&str>, data: &str, id: Option<&str>) {
    if let Some(event) = event {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(event.as_bytes());
        out.push(b'\n');
    }
    for line in data.lines() {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    if let Some(id) = id {
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(id.as_bytes());
        out.push(b'\n');
    }
    out.push(b'\n');
}

pub fn encode_retry(out: &mut Vec<u8>, millis: u64) {
    out.extend_from_slice(format!("retry: {millis}\n\n").as_bytes());
}

#[derive(Debug, Default)]
pub struct SseEvent {
    pub event: String,
    pub data: String,
    pub id: Option<String>,
}

#[derive(Debug, Default)]
pub struct SseParser {
    buffer: String,
}

impl SseParser {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.push_str(&String::from_utf8_lossy(bytes));
    }
    pub fn next_event(&mut self) -> Option<SseEvent> {
        loop {
            let at = self.buffer.find("\n\n")?;
            let block: String = self.buffer.drain(..at + 2).collect();
            let mut event = SseEvent { event: "message".to_owned(), ..SseEvent::default() };
            for line in block.lines() {
                if let Some(data) = line.strip_prefix("data: ") {
                    event.data.push_str(data);
                } else if let Some(name) = line.strip_prefix("event: ") {
                    name.clone_into(&mut event.event);
                } else if let Some(id) = line.strip_prefix("id: ") {
                    event.id = Some(id.to_owned());
                }
            }
            if !event.data.is_empty() {
                return Some(event);
            }
        }
    }
}
