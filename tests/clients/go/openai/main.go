// Calls by OpenAI's SDK for Go; prints what it saw as JSON lines.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

func main() {
	client := openai.NewClient(option.WithBaseURL(os.Args[1]+"/v1"), option.WithAPIKey("test-key"))
	ask := openai.ChatCompletionNewParams{
		Model:       "gpt-4o",
		Temperature: openai.Float(0.25),
		Messages:    []openai.ChatCompletionMessageParamUnion{openai.UserMessage("How do you do?")},
	}
	for range 3 {
		answer, err := client.Chat.Completions.New(context.Background(), ask)
		if err != nil {
			panic(err)
		}
		say(answer.ID, answer.Choices[0].Message.Content, answer.Usage.CompletionTokens)
	}
	ask.StreamOptions.IncludeUsage = openai.Bool(true)
	for range 3 {
		stream := client.Chat.Completions.NewStreaming(context.Background(), ask)
		whole := openai.ChatCompletionAccumulator{}
		for stream.Next() {
			whole.AddChunk(stream.Current())
		}
		if stream.Err() != nil {
			panic(stream.Err())
		}
		say(whole.ID, whole.Choices[0].Message.Content, whole.Usage.CompletionTokens)
	}
	if _, err := client.Chat.Completions.New(context.Background(), ask, option.WithMaxRetries(0),
		option.WithHeader("x-test-behaviour", "error=429")); err == nil {
		panic("no error")
	}
}

func say(id, text string, tokens int64) {
	line, _ := json.Marshal(map[string]any{"id": id, "text": text, "completion_tokens": tokens})
	fmt.Println(string(line))
}
