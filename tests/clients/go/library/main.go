// A library with Go's runtime in it.
package main

import "C"

import (
	"io"
	"net/http"
	"strings"
	"sync"
)

const body = `{"model":"gpt-4o","messages":[{"role":"user","content":"How do you do?"}]}`

//export Ask
func Ask(url *C.char, count C.int) C.int {
	address := C.GoString(url) + "/v1/chat/completions"
	transport := http.DefaultTransport.(*http.Transport).Clone()
	client := &http.Client{Transport: transport}
	var all sync.WaitGroup
	for n := 0; n < int(count); n++ {
		all.Add(1)
		go func() {
			defer all.Done()
			response, err := client.Post(address, "application/json", strings.NewReader(body))
			if err != nil {
				panic(err)
			}
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}()
	}
	all.Wait()
	return count
}

func main() {}
