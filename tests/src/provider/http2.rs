//! HTTP/2 (RFC 9113) to clients that offer it by ALPN: the same answers and, as far as they make sense, the
//! same behaviours as over HTTP/1.1.

use std::{
    future::poll_fn,
    net,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    server::{self, SendResponse},
};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use rustix::net::sockopt::set_socket_linger;
use serde_json::json;
use tokio::{
    io::{self, AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::LocalSet,
};

use super::{
    Exchange, Shared,
    answer::{self, Answer, Body},
    behaviour::Behaviour,
    http::Request,
    write::{Coder, Ending},
};

/// What one stream wants of the whole connection.
enum Command {
    /// It ends after the streams that are open.
    Close,
    /// It ends at once.
    Cut,
}

/// Serves a connection until it ends.
pub(super) fn serve(stream: net::TcpStream, shared: &Arc<Shared>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    let streams = LocalSet::new();
    let served = streams.block_on(&runtime, connection(stream, shared));
    // Each tells the truth about its exchange, also where the connection has gone.
    runtime.block_on(streams);
    served
}

async fn connection(stream: net::TcpStream, shared: &Arc<Shared>) -> anyhow::Result<()> {
    stream.set_nonblocking(true)?;
    let seed = shared.seed ^ u64::from(stream.peer_addr()?.port());
    let socket = Rc::new(stream.try_clone()?);
    let stream = tokio::net::TcpStream::from_std(stream)?;
    let stream = tokio_rustls::TlsAcceptor::from(Arc::clone(&shared.tls.http2))
        .accept(stream)
        .await?;
    let stream = Pieces {
        stream,
        random: fastrand::Rng::with_seed(seed),
    };
    let mut connection = server::Builder::new()
        .max_concurrent_streams(1000)
        .initial_window_size(1 << 24)
        .initial_connection_window_size(1 << 26)
        .handshake::<_, Bytes>(stream)
        .await?;
    let (commands, mut wanted) = unbounded_channel();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(accepted) = accepted else {
                    return Ok(());
                };
                let (request, respond) = accepted?;
                let exchange = exchange(
                    request,
                    respond,
                    Arc::clone(shared),
                    commands.clone(),
                    Rc::clone(&socket),
                );
                tokio::task::spawn_local(exchange);
            }
            Some(command) = wanted.recv() => match command {
                Command::Close => connection.graceful_shutdown(),
                Command::Cut => return Ok(()),
            },
        }
    }
}

async fn exchange(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: Arc<Shared>,
    commands: UnboundedSender<Command>,
    socket: Rc<net::TcpStream>,
) {
    let first_byte = Instant::now();
    let (head, mut body) = request.into_parts();
    let mut headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value)
        })
        .collect();
    if let Some(authority) = head.uri.authority() {
        headers.push(("host".to_owned(), authority.to_string()));
    }
    let mut request = Request {
        method: head.method.to_string(),
        path: head
            .uri
            .path_and_query()
            .map(ToString::to_string)
            .unwrap_or_default(),
        headers,
        body: Vec::new(),
        first_byte,
    };
    let behaviour = Behaviour::of(&request);
    if !behaviour.has("early") && read_body(&mut body, &mut request).await.is_none() {
        return;
    }
    let (number, mut random) = shared.next();
    let answer = answer::to(&request, &behaviour, number, &mut random);
    let mut truth = answer.truth.clone();
    let exchange = Exchange {
        shared: &shared,
        number,
    };
    let mut progress = Progress {
        exchange: &exchange,
        sent: 0,
        broke_off: None,
    };
    let ending = write(
        &mut respond,
        answer,
        &behaviour,
        &socket,
        &mut random,
        &mut progress,
    )
    .await
    .unwrap_or(Ending::ClientGone);
    let ended = progress.broke_off.unwrap_or_else(Instant::now);
    let elapsed = ended.duration_since(request.first_byte);
    truth["server_ns"] = json!(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
    if !matches!(ending, Ending::Complete) {
        answer::unfinished(&mut truth, progress.sent, behaviour.has("hang"));
    }
    if behaviour.has("early") {
        read_body(&mut body, &mut request).await;
        answer::late(&mut truth, &request);
    }
    exchange.record(&request, &mut truth, &ending);
    // A connection that has gone needs no command.
    if matches!(ending, Ending::Cut) && !behaviour.has("reset") {
        let _ = commands.send(Command::Cut);
    } else if behaviour.has("close") {
        let _ = commands.send(Command::Close);
    }
}

/// How far an answer has come.
struct Progress<'a> {
    exchange: &'a Exchange<'a>,
    /// Parts of the body that were sent.
    sent: usize,
    broke_off: Option<Instant>,
}

/// Reads the body to its end; `None` if the client broke off.
async fn read_body(body: &mut RecvStream, request: &mut Request) -> Option<()> {
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        request.body.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len()).ok()?;
    }
    Some(())
}

async fn write(
    respond: &mut SendResponse<Bytes>,
    answer: Answer,
    behaviour: &Behaviour,
    socket: &net::TcpStream,
    random: &mut fastrand::Rng,
    progress: &mut Progress<'_>,
) -> Result<Ending, h2::Error> {
    if behaviour.has("hang") {
        poll_fn(|context| respond.poll_reset(context)).await?;
        return Ok(Ending::ClientGone);
    }
    tokio::time::sleep(behaviour.pause("delay-ms")).await;
    let (parts, streamed) = match answer.body {
        Body::None => (Vec::new(), false),
        Body::Stream(events) => (events, true),
        Body::Whole(bytes) => (vec![bytes], false),
    };
    let grpc = answer
        .headers
        .iter()
        .any(|(_, value)| value.starts_with("application/grpc"));
    // The messages of gRPC are compressed one by one, if at all.
    let encoding = behaviour.get("encoding").filter(|_| !grpc);
    let mut head = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        head = head.header(name, value);
    }
    if let Some(encoding) = encoding {
        head = head.header("content-encoding", encoding);
    }
    let (Ok(mut coded), Ok(head)) = (coded(&parts, encoding), head.body(())) else {
        respond.send_reset(Reason::INTERNAL_ERROR);
        return Ok(Ending::Cut);
    };
    // A client that has everything but the end of the coding and of the framing may close.
    let content = coded
        .iter()
        .take(parts.len())
        .filter(|part| !part.is_empty())
        .count();
    coded.retain(|part| !part.is_empty());
    let trailers = trailers(&answer.trailers, behaviour);
    if coded.is_empty() {
        progress.exchange.ends();
    }
    let mut stream = respond.send_response(head, coded.is_empty() && trailers.is_empty())?;
    let cut = ["cut", "cut-clean", "cut-reset", "reset"]
        .iter()
        .find_map(|key| behaviour.number(key));
    let middle = coded.len() / 2;
    let last = coded.len();
    for (index, part) in coded.into_iter().enumerate() {
        if cut == Some(index as u64) {
            progress.sent = index;
            progress.broke_off = Some(Instant::now());
            progress.exchange.ends();
            // What was sent is on its way before the end.
            tokio::time::sleep(Duration::from_millis(20)).await;
            if behaviour.has("reset") {
                stream.send_reset(Reason::INTERNAL_ERROR);
            } else if behaviour.has("cut-reset") {
                // What lingers for no time is reset when it is closed.
                let _ = set_socket_linger(socket, Some(Duration::ZERO));
            } else {
                let _ = socket.shutdown(net::Shutdown::Both);
            }
            return Ok(Ending::Cut);
        }
        if streamed && index < content {
            pause(&mut stream, behaviour.pause("token-ms")).await?;
            if index == middle {
                pause(&mut stream, behaviour.pause("pause-ms")).await?;
            }
        }
        // Of what comes in a stream a client may have enough then.
        if index + 1 >= content {
            progress.exchange.ends();
        }
        let end = index + 1 == last && trailers.is_empty();
        match send(&mut stream, part, end, random).await {
            Err(error) if progress.sent < content => return Err(error),
            _ => progress.sent = index + 1,
        }
    }
    if !trailers.is_empty() {
        let _ = stream.send_trailers(trailers);
    }
    Ok(Ending::Complete)
}

fn coded(parts: &[Vec<u8>], encoding: Option<&str>) -> std::io::Result<Vec<Vec<u8>>> {
    let mut coder = Coder::new(encoding);
    let mut coded = Vec::with_capacity(parts.len() + 1);
    for part in parts {
        coded.push(coder.push(part)?);
    }
    coded.push(coder.finish()?);
    Ok(coded)
}

fn trailers(fields: &[(String, String)], behaviour: &Behaviour) -> HeaderMap {
    let own = [("x-checksum".to_owned(), "1".to_owned())];
    fields
        .iter()
        .chain(own.iter().filter(|_| behaviour.has("trailers")))
        .filter_map(|(name, value)| {
            let name = HeaderName::try_from(name).ok()?;
            Some((name, HeaderValue::try_from(value).ok()?))
        })
        .collect()
}

/// Waits, but no longer than the client does.
async fn pause(stream: &mut SendStream<Bytes>, time: Duration) -> Result<(), h2::Error> {
    if time.is_zero() {
        return Ok(());
    }
    tokio::select! {
        () = tokio::time::sleep(time) => Ok(()),
        reset = poll_fn(|context| stream.poll_reset(context)) => {
            reset.and_then(|reason| Err(reason.into()))
        }
    }
}

/// Sends bytes in frames of random sizes, as fast as the client takes them.
async fn send(
    stream: &mut SendStream<Bytes>,
    bytes: Vec<u8>,
    end: bool,
    random: &mut fastrand::Rng,
) -> Result<(), h2::Error> {
    let mut bytes = Bytes::from(bytes);
    while !bytes.is_empty() {
        let wanted = if random.bool() {
            random.usize(1..=bytes.len())
        } else {
            bytes.len()
        };
        stream.reserve_capacity(wanted);
        let room = match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(room) => room?.min(wanted),
            None => return Err(Reason::CANCEL.into()),
        };
        if room > 0 {
            let piece = bytes.split_to(room);
            stream.send_data(piece, end && bytes.is_empty())?;
        }
    }
    Ok(())
}

/// A stream that takes writes in pieces of random sizes: each is a TLS record of its own, so that the
/// client reads it by itself.
struct Pieces<S> {
    stream: S,
    random: fastrand::Rng,
}

impl<S: AsyncRead + Unpin> AsyncRead for Pieces<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Pieces<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let length = if self.random.bool() {
            self.random.usize(..=bytes.len()).max(1).min(bytes.len())
        } else {
            bytes.len()
        };
        Pin::new(&mut self.stream).poll_write(context, &bytes[..length])
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
