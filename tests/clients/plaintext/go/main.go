// Makes calls with net/http, one after the other and side by side.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
)

func call(url string, stream bool) {
	body := `{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}],"stream":%v%s}`
	usage := ""
	if stream {
		usage = `,"stream_options":{"include_usage":true}`
	}
	answer, err := http.Post(url+"/v1/chat/completions", "application/json", strings.NewReader(fmt.Sprintf(body, stream, usage)))
	if err != nil {
		panic(err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		panic(err)
	}
}

func main() {
	url := os.Args[1]
	for i := 0; i < 4; i++ {
		call(url, i%2 == 1)
	}
	var group sync.WaitGroup
	for i := 0; i < 8; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			call(url, i%2 == 1)
		}()
	}
	group.Wait()
}
