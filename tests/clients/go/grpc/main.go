// Calls of Gemini's API by gRPC: Google's generated client on grpc-go. Prints what it saw as JSON lines.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	pb "cloud.google.com/go/ai/generativelanguage/apiv1beta/generativelanguagepb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
)

func main() {
	address := strings.TrimPrefix(os.Args[1], "https://")
	connection, err := grpc.NewClient("dns:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(nil)))
	if err != nil {
		panic(err)
	}
	defer connection.Close()
	client := pb.NewGenerativeServiceClient(connection)
	// All on one connection.
	var all sync.WaitGroup
	for n := 0; n < 8; n++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for _, call := range []func(pb.GenerativeServiceClient, int) *pb.GenerateContentResponse{ask, stream} {
				begun := time.Now()
				say(n, call(client, n), time.Since(begun))
			}
		}()
	}
	all.Wait()
}

func name(n int) string {
	return fmt.Sprint("grpc-", n)
}

func request(n int) (context.Context, *pb.GenerateContentRequest) {
	temperature := float32(0.5)
	return metadata.AppendToOutgoingContext(context.Background(), "x-goog-api-key", "test-key",
			"x-test-case", name(n), "x-test-behaviour", "events=20;token-ms=4"),
		&pb.GenerateContentRequest{
			Model:            "models/gemini-2.5-flash",
			GenerationConfig: &pb.GenerationConfig{Temperature: &temperature},
			Contents: []*pb.Content{{Role: "user", Parts: []*pb.Part{
				{Data: &pb.Part_Text{Text: strings.Repeat("word ", 1000*n)}},
			}}},
		}
}

func ask(client pb.GenerativeServiceClient, n int) *pb.GenerateContentResponse {
	ctx, ask := request(n)
	answer, err := client.GenerateContent(ctx, ask)
	if err != nil {
		panic(err)
	}
	return answer
}

func stream(client pb.GenerativeServiceClient, n int) *pb.GenerateContentResponse {
	ctx, ask := request(n)
	stream, err := client.StreamGenerateContent(ctx, ask)
	if err != nil {
		panic(err)
	}
	var last *pb.GenerateContentResponse
	for {
		part, err := stream.Recv()
		if err == io.EOF {
			return last
		}
		if err != nil {
			panic(err)
		}
		last = part
	}
}

func say(n int, answer *pb.GenerateContentResponse, elapsed time.Duration) {
	usage := answer.GetUsageMetadata()
	line, _ := json.Marshal(map[string]any{
		"case":              name(n),
		"elapsed_ns":        elapsed.Nanoseconds(),
		"model":             answer.GetModelVersion(),
		"completion_tokens": usage.GetCandidatesTokenCount(),
	})
	fmt.Println(string(line))
}
