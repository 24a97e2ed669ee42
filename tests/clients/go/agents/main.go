// A web service that asks an LLM several times for each request, also in goroutines that the handler starts. Which
// agent asks stands in the prompts. It prints its address and serves until a line comes on standard input.
package main

import (
	"bufio"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
)

var (
	provider    = flag.String("url", "", "the provider, such as https://localhost:1234")
	version     = flag.String("http", "1.1", "version of HTTP to the provider: 1.1 or 2")
	certificate = flag.String("certificate", "", "serve with TLS, by this certificate")
	key         = flag.String("key", "", "and its key")
)

var client *http.Client

func main() {
	flag.Parse()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 8
	if *version == "1.1" {
		transport.ForceAttemptHTTP2 = false
		// The clone would still offer HTTP/2.
		transport.TLSClientConfig = &tls.Config{}
		transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	client = &http.Client{Transport: transport}

	mux := http.NewServeMux()
	mux.HandleFunc("/agents/", answer(inTurn))
	mux.HandleFunc("/parts/", answer(inParts))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	server := &http.Server{Handler: mux}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go func() {
		if *certificate != "" {
			server.ServeTLS(listener, *certificate, *key)
		} else {
			server.Serve(listener)
		}
	}()
	bufio.NewReader(os.Stdin).ReadString('\n')
	server.Close()
}

// Answers a request for an agent once it has done its work.
func answer(work func(agent string) error) http.HandlerFunc {
	return func(response http.ResponseWriter, request *http.Request) {
		io.Copy(io.Discard, request.Body)
		agent := request.URL.Path[strings.LastIndexByte(request.URL.Path, '/')+1:]
		if err := work(agent); err != nil {
			http.Error(response, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(response, "{\"agent\":%s}\n", agent)
	}
}

// Three calls, one after the other.
func inTurn(agent string) error {
	for n := 0; n < 3; n++ {
		if err := ask(agent, n); err != nil {
			return err
		}
	}
	return nil
}

// Two calls at once in goroutines of their own, before anything else was asked; then what becomes of them.
func inParts(agent string) error {
	var all sync.WaitGroup
	var failed [2]error
	for n := range failed {
		n := n
		all.Add(1)
		go func() {
			defer all.Done()
			failed[n] = ask(agent, n)
		}()
	}
	all.Wait()
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	return ask(agent, len(failed))
}

func ask(agent string, n int) error {
	body := fmt.Sprintf(`{"model":"gpt-4o","messages":[{"role":"user","content":"[agent %s] call %d"}]}`, agent, n)
	request, err := http.NewRequest("POST", *provider+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("content-type", "application/json")
	request.Header.Set("authorization", "Bearer sk-test-THIS-KEY-IS-SECRET-0123456789")
	request.Header.Set("x-test-behaviour", "delay-ms=40")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("the provider: %s", response.Status)
	}
	return err
}
