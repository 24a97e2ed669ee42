//! Messages of gRPC (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>): each has a flag
//! whether it is compressed, and its length, in front.

use serde_json::Value;

use super::{
    encoding::Decoder,
    json::Limits,
    protobuf::{self, Message, Status},
};

const PREFIX_BYTES: usize = 5;

/// Reads the messages of one body.
#[derive(Debug)]
pub struct Parser {
    message: &'static Message,
    limits: Limits,
    /// How the messages that are compressed are.
    encoding: String,
    prefix: [u8; PREFIX_BYTES],
    held: usize,
    open: Option<Open>,
    /// Nothing more can be read.
    lost: bool,
}

#[derive(Debug)]
struct Open {
    left: u32,
    decoder: Decoder,
    parser: protobuf::Parser,
    broken: bool,
}

impl Parser {
    /// Begins a body whose messages are compressed as `grpc-encoding` says.
    pub fn new(message: &'static Message, encoding: &str, limits: Limits) -> Self {
        Self {
            message,
            limits,
            encoding: encoding.to_owned(),
            prefix: [0; PREFIX_BYTES],
            held: 0,
            open: None,
            lost: false,
        }
    }

    /// Takes the next bytes and hands over each message that is complete; one that cannot be read is
    /// `None`.
    pub fn push(&mut self, mut bytes: &[u8], take: &mut dyn FnMut(Option<Value>)) {
        while !bytes.is_empty() && !self.lost {
            let Some(open) = &mut self.open else {
                let length = (PREFIX_BYTES - self.held).min(bytes.len());
                self.prefix[self.held..self.held + length].copy_from_slice(&bytes[..length]);
                self.held += length;
                bytes = &bytes[length..];
                if self.held == PREFIX_BYTES {
                    self.begin(take);
                }
                continue;
            };
            let length = bytes.len().min(open.left as usize);
            let (piece, rest) = bytes.split_at(length);
            bytes = rest;
            open.left -= u32::try_from(length).unwrap_or(open.left);
            let parser = &mut open.parser;
            if !open.broken {
                open.broken = open
                    .decoder
                    .push(piece, &mut |bytes| parser.push(bytes))
                    .is_err();
            }
            self.end(take);
        }
    }

    /// Steps over bytes that are missing. The message that they are part of cannot be read, and nothing
    /// after it if they are more.
    pub fn gap(&mut self, bytes: u64, take: &mut dyn FnMut(Option<Value>)) {
        match &mut self.open {
            Some(open) if u64::from(open.left) >= bytes => {
                open.left -= u32::try_from(bytes).unwrap_or(open.left);
                open.broken = true;
                self.end(take);
            }
            _ => self.lost = true,
        }
    }

    /// Whether the body ends where a message does.
    pub fn is_between(&self) -> bool {
        self.held == 0 && !self.lost
    }

    /// Bytes held, roughly.
    pub fn memory(&self) -> usize {
        let open = self.open.as_ref().map_or(0, |open| open.parser.memory());
        size_of::<Self>() + open
    }

    fn begin(&mut self, take: &mut dyn FnMut(Option<Value>)) {
        let [flag, length @ ..] = self.prefix;
        let encoding = match flag {
            0 => "",
            // Where the head is unknown it is what nearly all use.
            1 if self.encoding.is_empty() => "gzip",
            1 => &self.encoding,
            _ => {
                self.lost = true;
                take(None);
                return;
            }
        };
        self.open = Some(Open {
            left: u32::from_be_bytes(length),
            decoder: Decoder::new(encoding),
            parser: protobuf::Parser::new(self.message, self.limits),
            broken: false,
        });
        self.end(take);
    }

    /// Ends the message if it is complete.
    fn end(&mut self, take: &mut dyn FnMut(Option<Value>)) {
        if let Some(open) = self.open.take_if(|open| open.left == 0) {
            self.held = 0;
            let (value, status) = open.parser.finish();
            take((!open.broken && status == Status::Complete).then_some(value));
        }
    }
}
