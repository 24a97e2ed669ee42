// Makes calls in goroutines that share connections, or that others create, and says as JSON lines which
// goroutine made which. As a server it makes them while it answers.
package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	address     = flag.String("url", "", "the provider, such as https://localhost:1234")
	mode        = flag.String("mode", "calls", "calls, nested, serve or ask")
	version     = flag.String("http", "1.1", "version of HTTP to the provider: 1.1 or 2")
	goroutines  = flag.Int("goroutines", 20, "that make calls side by side")
	count       = flag.Int("count", 4, "calls of each")
	connections = flag.Int("connections", 3, "at once, at most; HTTP/2 needs one")
	withTLS     = flag.Bool("tls", false, "serve: with TLS")
)

// One line of the output.
type seen struct {
	Case      string `json:"case"`
	RequestID string `json:"request_id"`
	// The goroutine that made the call, and what created it, and what created that, as far as main.
	Goroutine uint64   `json:"goroutine"`
	Creators  []uint64 `json:"creators"`
	ElapsedNs int64    `json:"elapsed_ns"`
	Error     string   `json:"error,omitempty"`
}

var (
	client *http.Client
	out    sync.Mutex
)

func main() {
	flag.Parse()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxConnsPerHost = *connections
	transport.MaxIdleConnsPerHost = *connections
	if *mode == "ask" {
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	}
	if *version == "1.1" {
		transport.ForceAttemptHTTP2 = false
		if *mode != "ask" {
			// The clone would still offer HTTP/2.
			transport.TLSClientConfig = &tls.Config{}
		}
		transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	client = &http.Client{Transport: transport}
	switch *mode {
	case "calls":
		beside(func() { repeat(nil) })
	case "nested":
		beside(func() { nested(3, nil) })
	case "serve":
		serve()
	case "ask":
		beside(func() { ask() })
	}
}

// Does the same in many goroutines.
func beside(work func()) {
	var all sync.WaitGroup
	for n := 0; n < *goroutines; n++ {
		all.Add(1)
		go func() {
			defer all.Done()
			work()
		}()
	}
	all.Wait()
}

func repeat(creators []uint64) {
	for n := 0; n < *count; n++ {
		call(creators)
	}
}

// Makes a call, and has another goroutine do the same.
func nested(depth int, creators []uint64) {
	call(creators)
	if depth == 0 {
		return
	}
	creators = append([]uint64{goroutine()}, creators...)
	done := make(chan bool)
	go func() { nested(depth-1, creators); done <- true }()
	<-done
}

func call(creators []uint64) {
	begun := time.Now()
	one := seen{Case: "contexts", Goroutine: goroutine(), Creators: creators}
	text := `{"model":"gpt-4o","messages":[{"role":"user","content":"I am ` + strconv.FormatUint(one.Goroutine, 10) + `"}]}`
	request, err := http.NewRequest("POST", *address+"/v1/chat/completions", strings.NewReader(text))
	if err != nil {
		panic(err)
	}
	request.Header.Set("content-type", "application/json")
	request.Header.Set("authorization", "Bearer test-key")
	request.Header.Set("x-test-case", one.Case)
	if response, err := client.Do(request); err != nil {
		one.Error = err.Error()
	} else {
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		one.RequestID = response.Header.Get("x-request-id")
	}
	one.ElapsedNs = time.Since(begun).Nanoseconds()
	say(one)
}

// Serves until a line comes on standard input: `/ask` makes calls while it answers, and
// `/v1/chat/completions` answers by itself, with the goroutine in the id of the request.
func serve() {
	var answers atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("/ask", func(answer http.ResponseWriter, request *http.Request) {
		io.Copy(io.Discard, request.Body)
		repeat(nil)
		nested(1, nil)
	})
	mux.HandleFunc("/v1/chat/completions", func(answer http.ResponseWriter, request *http.Request) {
		io.Copy(io.Discard, request.Body)
		answer.Header().Set("content-type", "application/json")
		answer.Header().Set("x-request-id", fmt.Sprintf("%d-%d", goroutine(), answers.Add(1)))
		fmt.Fprint(answer, `{"id":"1","object":"chat.completion","model":"gpt-4o","choices":[{"index":0,"finish_reason":"stop",`+
			`"message":{"role":"assistant","content":"yes"}}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}`)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	server := &http.Server{Handler: mux}
	url := "http://" + listener.Addr().String()
	if *withTLS {
		url = "https://" + listener.Addr().String()
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate()}}
		if *version == "1.1" {
			server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
		}
	}
	fmt.Println(url)
	go func() {
		if *withTLS {
			server.ServeTLS(listener, "", "")
		} else {
			server.Serve(listener)
		}
	}()
	bufio.NewReader(os.Stdin).ReadString('\n')
	server.Close()
}

// Asks a server, one request after the other on each connection.
func ask() {
	for n := 0; n < *count; n++ {
		for _, path := range []string{"/ask", "/v1/chat/completions"} {
			body := []byte(`{"model":"gpt-4o","messages":[{"role":"user","content":"Say yes."}]}`)
			response, err := client.Post(*address+path, "application/json", bytes.NewReader(body))
			if err != nil {
				panic(err)
			}
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
	}
}

func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
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
