// A consumer of results in Go: one line for each job, once for each record that its group has not committed.
//
//	KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9092 go run . billing
//
// The argument is the consumer group. BACKSTOP_TOPIC_PREFIX is `backstop.` unless it is set.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// result is what this consumer needs of a record; docs/asyncapi.json has the rest.
type result struct {
	JobID   string `json:"job_id"`
	Outcome string `json:"outcome"`
	Reason  *struct{ Code, Message string }
}

func main() {
	prefix, found := os.LookupEnv("BACKSTOP_TOPIC_PREFIX")
	if !found {
		prefix = "backstop."
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(os.Getenv("KAFKA_BOOTSTRAP_SERVERS"), ",")...),
		kgo.ConsumerGroup(os.Args[1]),
		kgo.ConsumeTopics(prefix+"results"),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), // older results were written in transactions
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
	)
	if err != nil {
		panic(err)
	}
	defer client.Close()
	for ctx := context.Background(); ; {
		fetches := client.PollFetches(ctx)
		fetches.EachError(func(topic string, partition int32, err error) { panic(err) })
		fetches.EachRecord(func(record *kgo.Record) {
			var ended result
			if err := json.Unmarshal(record.Value, &ended); err != nil {
				panic(err)
			}
			fmt.Println(ended.JobID, ended.Outcome) // in a transaction of yours, with ended.JobID as its unique key
		})
		if err := client.CommitUncommittedOffsets(ctx); err != nil { // after the work: a crash repeats it
			panic(err)
		}
	}
}
