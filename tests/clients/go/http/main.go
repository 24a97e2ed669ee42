// Speaks to the provider as Go programs do, with net/http or with crypto/tls alone, and prints what it saw
// as JSON lines. It needs nothing but the standard library, so that every version of Go can build it.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
)

var (
	address     = flag.String("url", "", "the provider, such as https://localhost:1234")
	mode        = flag.String("mode", "http", "http, raw, server or none")
	version     = flag.String("http", "1.1", "version of HTTP: 1.1 or 2")
	label       = flag.String("case", "go", "name of the calls")
	behaviour   = flag.String("behaviour", "", "what the provider shall do")
	goroutines  = flag.Int("goroutines", 1, "that make calls side by side")
	count       = flag.Int("count", 1, "calls of each")
	promptBytes = flag.Int("prompt-bytes", 100, "size of the request")
	stream      = flag.String("stream", "no", "read the answer as events: yes, no or every-other")
	fresh       = flag.Bool("fresh", false, "a connection for each call")
	cancelAfter = flag.Int("cancel-after", 0, "events after which the call is given up")
	depth       = flag.Int("depth", 0, "frames of about 500 bytes below each call")
	shrink      = flag.Bool("shrink", false, "collect garbage all the time, which moves stacks")
	small       = flag.Bool("small", false, "raw: a new goroutine for each write and read, so that stacks grow inside")
	linger      = flag.Bool("wait-between", false, "wait for a line on standard input before each call but the first")
	wait        = flag.Bool("wait-for-stdin", false, "before the first call")
)

// One line of the output.
type seen struct {
	Case      string `json:"case"`
	RequestID string `json:"request_id"`
	// The goroutine that made the call, and the one that wrote the request.
	Goroutine uint64 `json:"goroutine"`
	Writer    uint64 `json:"writer"`
	ElapsedNs int64  `json:"elapsed_ns"`
	Bytes     int    `json:"bytes"`
	Error     string `json:"error,omitempty"`
}

var (
	input = bufio.NewReader(os.Stdin)
	out   sync.Mutex
)

func main() {
	flag.Parse()
	if *wait {
		fmt.Println("waiting")
		input.ReadString('\n')
	}
	stop := make(chan bool)
	if *shrink {
		go func() {
			for {
				select {
				case <-stop:
					return
				default:
					// Stacks that are used by a fourth or less are halved.
					debug.FreeOSMemory()
				}
			}
		}()
	}
	var all sync.WaitGroup
	for n := 0; n < *goroutines; n++ {
		all.Add(1)
		go func() {
			defer all.Done()
			worker()
		}()
	}
	all.Wait()
	close(stop)
}

func worker() {
	switch *mode {
	case "http":
		client := &http.Client{Transport: transport()}
		for n := 0; n < *count; n++ {
			if *linger && n > 0 {
				input.ReadString('\n')
			}
			deep(*depth, func() { call(client, streams(n)) })
		}
	case "raw":
		raw()
	case "server":
		serve()
	case "none":
		fmt.Println("{}")
	}
}

var shared struct {
	sync.Once
	transport *http.Transport
}

func transport() *http.Transport {
	shared.Do(func() {
		own := http.DefaultTransport.(*http.Transport).Clone()
		own.MaxIdleConnsPerHost = *goroutines
		own.DisableKeepAlives = *fresh
		if *version == "1.1" {
			own.ForceAttemptHTTP2 = false
			// The clone would still offer HTTP/2.
			own.TLSClientConfig = &tls.Config{}
			own.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		}
		shared.transport = own
	})
	return shared.transport
}

// Whether the call of this number is for a stream.
func streams(n int) bool {
	return *stream == "yes" || *stream == "every-other" && n%2 == 1
}

func body(stream bool) []byte {
	document := map[string]interface{}{
		"model":       "gpt-4o",
		"temperature": 0.5,
		"messages": []interface{}{
			map[string]interface{}{"role": "user", "content": strings.Repeat("word ", *promptBytes/5+1)},
		},
	}
	if stream {
		document["stream"] = true
		document["stream_options"] = map[string]interface{}{"include_usage": true}
	}
	text, _ := json.Marshal(document)
	return text
}

func call(client *http.Client, stream bool) {
	begun := time.Now()
	one := seen{Case: *label, Goroutine: goroutine()}
	trace := &httptrace.ClientTrace{
		WroteHeaders: func() { one.Writer = goroutine() },
	}
	ctx, cancel := context.WithCancel(httptrace.WithClientTrace(context.Background(), trace))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "POST", *address+"/v1/chat/completions", bytes.NewReader(body(stream)))
	if err != nil {
		panic(err)
	}
	request.Header.Set("content-type", "application/json")
	request.Header.Set("authorization", "Bearer test-key")
	request.Header.Set("x-test-case", *label)
	request.Header.Set("x-test-behaviour", *behaviour)
	response, err := client.Do(request)
	if err != nil {
		one.Error = err.Error()
	} else {
		one.RequestID = response.Header.Get("x-request-id")
		one.Bytes, err = read(response.Body, stream, cancel)
		if err != nil {
			one.Error = err.Error()
		}
		response.Body.Close()
	}
	one.ElapsedNs = time.Since(begun).Nanoseconds()
	say(one)
}

// Reads an answer to its last byte, or until it is given up.
func read(body io.Reader, stream bool, cancel func()) (int, error) {
	if !stream {
		text, err := io.ReadAll(body)
		return len(text), err
	}
	events, length := 0, 0
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		length += len(lines.Bytes()) + 1
		if strings.HasPrefix(lines.Text(), "data: ") {
			if events++; events == *cancelAfter {
				cancel()
			}
		}
	}
	return length, lines.Err()
}

// Speaks HTTP/1.1 by hand: who writes and reads is known.
func raw() {
	head := "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
		"X-Test-Case: " + *label + "\r\nX-Test-Behaviour: " + *behaviour + "\r\n" +
		"Content-Length: "
	connection, err := tls.Dial("tcp", strings.TrimPrefix(*address, "https://"), nil)
	if err != nil {
		panic(err)
	}
	defer connection.Close()
	through := io.ReadWriter(connection)
	own := &growing{connection, 0}
	if *small {
		through = own
	}
	reader := bufio.NewReader(through)
	for n := 0; n < *count; n++ {
		begun := time.Now()
		one := seen{Case: *label, Goroutine: goroutine()}
		own.writer = 0
		text := body(streams(n))
		request := append([]byte(head+strconv.Itoa(len(text))+"\r\n\r\n"), text...)
		deep(*depth, func() { _, err = through.Write(request) })
		if err != nil {
			panic(err)
		}
		if own.writer != 0 {
			one.Goroutine = own.writer
		}
		one.Writer = one.Goroutine
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			panic(err)
		}
		one.RequestID = response.Header.Get("x-request-id")
		if one.Bytes, err = read(response.Body, streams(n), func() {}); err != nil {
			panic(err)
		}
		one.ElapsedNs = time.Since(begun).Nanoseconds()
		say(one)
	}
}

// Each write and read happens on the small stack of a new goroutine, and grows it.
type growing struct {
	*tls.Conn
	writer uint64
}

func (g *growing) Write(bytes []byte) (n int, err error) {
	done := make(chan bool)
	go func() { g.writer = goroutine(); done <- true; n, err = g.Conn.Write(bytes); done <- true }()
	<-done
	<-done
	return
}

func (g *growing) Read(bytes []byte) (n int, err error) {
	done := make(chan bool)
	go func() {
		// It lies on the stack, and moves with it.
		var buffer [512]byte
		n, err = g.Conn.Read(buffer[:])
		copy(bytes, buffer[:n])
		done <- true
	}()
	<-done
	return
}

//go:noinline
func deep(depth int, then func()) {
	if depth == 0 {
		then()
		return
	}
	var frame [64]uint64
	frame[depth%64] = uint64(depth)
	deep(depth-1, then)
	runtime.KeepAlive(&frame)
}

// The number of the goroutine, which only its stack trace tells.
func goroutine() uint64 {
	var text [64]byte
	n := runtime.Stack(text[:], false)
	id, _ := strconv.ParseUint(strings.Fields(string(text[:n]))[1], 10, 64)
	return id
}

func say(one seen) {
	out.Lock()
	defer out.Unlock()
	line, _ := json.Marshal(one)
	fmt.Println(string(line))
}
