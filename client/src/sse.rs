//! Server-sent events, as bytes come in: <https://html.spec.whatwg.org/multipage/server-sent-events.html>, bounded.

/// Largest event taken, in bytes.
const LIMIT: usize = 16 << 20;

/// What stands between two blank lines; comments and unknown fields left out.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) id: Option<String>,
    pub(crate) event: String,
    pub(crate) data: String,
}

/// Cuts the stream into blocks.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    bytes: Vec<u8>,
    /// Up to here all has been read.
    read: usize,
    block: Block,
}

impl Parser {
    /// More bytes; `Err` says what is wrong with them.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.bytes.drain(..self.read);
        self.read = 0;
        if self.bytes.len() + self.block.data.len() + bytes.len() > LIMIT {
            return Err(format!("an event of more than {LIMIT} bytes"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The next block that is whole and says anything.
    pub(crate) fn next(&mut self) -> Option<Block> {
        loop {
            let rest = &self.bytes[self.read..];
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let line = String::from_utf8_lossy(&rest[..end]).into_owned();
            self.read += end + 1;
            let line = line.strip_suffix('\r').unwrap_or(&line);
            if line.is_empty() {
                let mut block = std::mem::take(&mut self.block);
                block.data.pop(); // each line of data has ended one
                if block != Block::default() {
                    return Some(block);
                }
                continue;
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "id" => self.block.id = Some(value.to_owned()),
                "event" => value.clone_into(&mut self.block.event),
                "data" => {
                    self.block.data.push_str(value);
                    self.block.data.push('\n');
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "retry: 500\nid: 7\n: begins\n\n:\n\nid: 8\nevent: row\ndata: {\"a\":\ndata:  \"\u{e4}\"}\n\r\nevent: end\r\ndata: x\r\n\r\nid: 9\nda";

    fn blocks(piece: usize) -> Vec<Block> {
        let mut parser = Parser::default();
        let mut found = vec![];
        for bytes in STREAM.as_bytes().chunks(piece) {
            parser.push(bytes).unwrap();
            found.extend(std::iter::from_fn(|| parser.next()));
        }
        found
    }

    #[test]
    fn blocks_are_the_same_however_the_bytes_come() {
        let block = |id: Option<&str>, event: &str, data: &str| Block {
            id: id.map(str::to_owned),
            event: event.to_owned(),
            data: data.to_owned(),
        };
        let expected = [
            block(Some("7"), "", ""),
            block(Some("8"), "row", "{\"a\":\n \"\u{e4}\"}"),
            block(None, "end", "x"),
        ];
        for piece in [1, 2, 3, 7, 1000] {
            assert_eq!(blocks(piece), expected, "{piece}");
        }
    }

    #[test]
    fn event_without_end_is_refused_before_it_takes_all_memory() {
        let mut parser = Parser::default();
        let line = format!("data: {}\n", "x".repeat(1 << 20));
        let refused = (0..40).find_map(|_| {
            let pushed = parser.push(line.as_bytes()).err();
            assert!(pushed.is_some() || parser.next().is_none());
            pushed
        });
        assert!(refused.unwrap().contains("more than"));
    }
}
