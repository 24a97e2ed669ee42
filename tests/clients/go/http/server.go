package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"time"
)

// Serves what looks like a provider, and asks itself: one process at both ends of its connections.
func serve() {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		io.Copy(io.Discard, request.Body)
		answer.Header().Set("content-type", "application/json")
		answer.Header().Set("x-request-id", "of-the-server")
		fmt.Fprint(answer, `{"id":"1","object":"chat.completion","model":"gpt-4o","choices":[{"index":0,"finish_reason":"stop",`+
			`"message":{"role":"assistant","content":"yes"}}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}`)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate()}}
	server.StartTLS()
	defer server.Close()
	for n := 0; n < *count; n++ {
		response, err := server.Client().Post(server.URL+"/v1/chat/completions", "application/json", bytes.NewReader(body(false)))
		if err != nil {
			panic(err)
		}
		length, _ := io.Copy(io.Discard, response.Body)
		response.Body.Close()
		say(seen{Case: *label, RequestID: "of-the-server", Bytes: int(length)})
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
		DNSNames:     []string{"example.com"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
