// The official Go SDK: `client FEATURE` does one thing, and prints what came as one JSON value.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/responses"
)

const (
	model   = "gpt-5.2"
	noModel = "no-such-model"
	say     = "Say hello."
	ask     = "How is the weather?"
)

var (
	ctx    = context.Background()
	client = openai.NewClient()
	schema = map[string]any{
		"type":                 "object",
		"properties":           map[string]any{"city": map[string]any{"type": "string"}, "days": map[string]any{"type": "integer"}},
		"required":             []string{"city", "days"},
		"additionalProperties": false,
	}
)

func asked(model string) responses.ResponseNewParams {
	return responses.ResponseNewParams{
		Model: model,
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(say)},
	}
}

func plain(model string) (any, error) {
	response, err := client.Responses.New(ctx, asked(model))
	if err != nil {
		return nil, err
	}
	return response.OutputText(), nil
}

func streamed() (any, error) {
	deltas := []string{}
	stream := client.Responses.NewStreaming(ctx, asked(model))
	for stream.Next() {
		if event := stream.Current(); event.Type == "response.output_text.delta" {
			deltas = append(deltas, event.Delta)
		}
	}
	return deltas, stream.Err()
}

func tools() (any, error) {
	input := responses.ResponseInputParam{responses.ResponseInputItemParamOfMessage(ask, responses.EasyInputMessageRoleUser)}
	params := responses.ResponseNewParams{
		Model: model,
		Tools: []responses.ToolUnionParam{responses.ToolParamOfFunction("weather", schema, true)},
		Input: responses.ResponseNewParamsInputUnion{OfInputItemList: input},
	}
	response, err := client.Responses.New(ctx, params)
	if err != nil {
		return nil, err
	}
	for _, item := range response.Output {
		if item.Type == "function_call" {
			call := item.AsFunctionCall()
			place := struct {
				City string `json:"city"`
				Days int    `json:"days"`
			}{}
			if err := json.Unmarshal([]byte(call.Arguments), &place); err != nil {
				return nil, err
			}
			output := fmt.Sprintf("sunny in %s for %d", place.City, place.Days)
			input = append(
				input,
				responses.ResponseInputItemParamOfFunctionCall(call.Arguments, call.CallID, call.Name),
				responses.ResponseInputItemUnionParam{OfFunctionCallOutput: &responses.ResponseInputItemFunctionCallOutputParam{
					CallID: openai.String(call.CallID),
					Output: responses.ResponseInputItemFunctionCallOutputOutputUnionParam{OfString: openai.String(output)},
				}},
			)
		}
	}
	params.Input = responses.ResponseNewParamsInputUnion{OfInputItemList: input}
	response, err = client.Responses.New(ctx, params)
	if err != nil {
		return nil, err
	}
	return response.OutputText(), nil
}

func structured() (any, error) {
	params := asked(model)
	params.Text = responses.ResponseTextConfigParam{Format: responses.ResponseFormatTextConfigParamOfJSONSchema("place", schema)}
	response, err := client.Responses.New(ctx, params)
	if err != nil {
		return nil, err
	}
	return json.RawMessage(response.OutputText()), nil
}

func failed() (any, error) {
	_, err := plain(noModel)
	var known *openai.Error
	if errors.As(err, &known) {
		return map[string]any{"raised": fmt.Sprintf("%T", err), "status": known.StatusCode}, nil
	}
	return map[string]any{"raised": fmt.Sprint(err)}, nil
}

// As somebody who asks once more where the client gave up.
func lost() (any, error) {
	if text, err := plain(model); err == nil {
		return map[string]any{"asked": 1, "text": text}, nil
	}
	text, err := plain(model)
	return map[string]any{"asked": 2, "text": text}, err
}

func main() {
	features := map[string]func() (any, error){
		"plain":      func() (any, error) { return plain(model) },
		"streamed":   streamed,
		"tools":      tools,
		"structured": structured,
		"error":      failed,
		"cut":        lost,
		"lost":       lost,
	}
	found, err := features[os.Args[1]]()
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(found)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
